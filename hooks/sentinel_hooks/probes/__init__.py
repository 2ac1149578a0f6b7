"""Sources of signals, one a file."""
