"""The reference trainer: a small decoder under DeepSpeed, to watch, to break and to read."""
