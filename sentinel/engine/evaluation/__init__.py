"""Evaluates the trees of rules, with what they remember of earlier steps."""
