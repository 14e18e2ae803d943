"""The shared parts of the measurements: rivals, rounds, rows, and their history."""
