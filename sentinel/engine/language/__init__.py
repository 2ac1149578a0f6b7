"""The language of rules: from text to a checked tree, and back."""
