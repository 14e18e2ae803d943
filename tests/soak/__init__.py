"""Random load with all faults at once, and every invariant checked.

`python -m tests.soak --help` says how to run it. A `Soak` runs rounds. A `Round` makes
a manager and puts a `Load` on it, which submits through a `Submitter`. `tasks` has the
tasks, `faults` has the faults that strike meanwhile, and `in_child` has both for child
processes. One of the `endings` ends the manager. Then the `audit` compares the notes of
the `Ledger`, and those of children in their `Journal`, with the manager's own figures.
"""
