"""How all ranks come to stand at the same step, and go on. Pure; both sides use it."""
