"""Random load with all faults at once, and every invariant checked.

`python -m tests.soak --help` says how to run it. A `Soak` runs rounds. A `Round` makes
a manager and puts a `Load` on it, which submits through a `Submitter`. `tasks` is what
the tasks do, `faults` is what goes wrong meanwhile, and `in_child` has both for child
processes. One of the `endings` ends the manager. Then the `audit` compares what the
`Ledger` has noted, and what children have written into their `Journal`, with what the
manager says.
"""
