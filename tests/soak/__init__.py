"""Random load with all faults at once, every invariant checked: `python -m tests.soak --help`."""
