"""Measures tasker against the thread pools that a program would use instead: `python -m benchmarks --help`."""
