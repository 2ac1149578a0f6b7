"""Kinds of trainers, one a file."""
