"""The collectives of the process groups that a rank is in: names, sequence numbers, durations."""
