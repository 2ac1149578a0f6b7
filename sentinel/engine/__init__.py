"""Judges runs: messages and a time in, transitions out. Pure: opens nothing, reads no clock."""
