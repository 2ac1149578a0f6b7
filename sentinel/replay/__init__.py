"""Recorded runs and other tools' logs, as messages for the engine."""
