"""What pictures of runs have in common."""
