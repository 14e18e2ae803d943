"""`python -m tests.soak --seconds N --seed S`: random load with all faults at once.

A round takes about a second. It makes a manager with a random configuration, loads it
from several threads, ends it in a random way, and audits it (see `round`).

With `--placement processes` resources live in child processes. These are also killed at
random, and end themselves. They keep journals, from which the same audit is made (see
`journal`). Neither a child nor a descriptor may stay behind.

Now and then allocations fail for a round, in a process of its own (see
`failing_allocations`). A last phase runs many tasks without faults and looks at the
memory.

The soak prints one JSON object. Everything else goes to stderr, the seed first of all.

Memory. Resident memory is read at the end of each round, after a collection. The median
of the last quarter of the rounds may exceed that of the second quarter by
`ROUNDS_GROW_MIB`. The tasks of the last phase come in batches, of which the first tenth
warms up. After it, memory may grow by `BATCHES_GROW_MIB`.

Exit status: 0 when every invariant held. 1 when one did not, or when nothing moved for
`STILL_S` seconds; then all stacks are dumped. 2 for a wrong option. A seed repeats the
configurations and the choices, not the thread switches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import sys
from collections.abc import Sequence

from benchmarks.harness.options import Parser
from tests.soak.soak import TASKS, TASKS_WITH_CHILDREN, Soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak, and return the exit status."""
    options = _options(arguments)
    print(
        f"soak: --seconds {options.seconds:g} --seed {options.seed}"
        f" --placement {options.placement}",
        file=sys.stderr,
        flush=True,
    )
    soak = Soak(options.seconds, options.rounds, options.seed, options.tasks, options.placement)
    soak.run()
    print(json.dumps(soak.report(), indent=1))
    for violation in soak.violations:
        print(f"soak: {violation}", file=sys.stderr)

    return 1 if soak.violations else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tests.soak", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--seconds", type=_seconds, default=60.0, help="how long the rounds last (default: 60)"
    )
    parser.add_argument(
        "--rounds", type=_count, default=1, help="how many there are at least (default: 1)"
    )
    parser.add_argument(
        "--seed", type=int, help="repeats the choices of a run (default: a fresh one)"
    )
    parser.add_argument(
        "--tasks",
        type=_count,
        help=f"tasks of the last phase (default: {TASKS:,} in runs of a minute)",
    )
    parser.add_argument(
        "--placement",
        choices=("threads", "processes"),
        default="threads",
        help="where resources live; child processes are killed at random (default: threads)",
    )
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**9)
    if options.tasks is None:
        tasks = TASKS_WITH_CHILDREN if options.placement == "processes" else TASKS
        options.tasks = int(tasks * min(1.0, options.seconds / 60))

    return options


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds

    raise argparse.ArgumentTypeError(f"seconds must be a number greater than 0, not {text!r}")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (count := int(text)) >= 0:
            return count

    raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {text!r}")


if __name__ == "__main__":
    sys.exit(main())
