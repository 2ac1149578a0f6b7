"""The drills: a small real run, broken on purpose, and what must come of it."""
