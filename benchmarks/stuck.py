"""`python -m benchmarks.stuck`: how long a stuck task keeps a pool from serving.

The pool has one worker, with an SQLite connection. Its task is a query that takes
`--query` seconds, and it has a timeout. A line is printed for each way to deal with
that: the seconds from the timeout until the next task has run, in the middle and at
worst, and whether that one had the same connection. The rounds are interleaved.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tasker import Config, TaskManager, TaskTimeoutError

QUERY_S = 3.0
TIMEOUT_S = 0.2
ABANDON_S = 0.5
ROUNDS = 5

HEAD = f"{'':<26} {'median':>9} {'worst':>9}   connection"

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"

# SQLite asks after so many of its steps whether to go on: every few milliseconds.
STEPS = 100_000

# The seconds, and whether the next task had the same connection.
Outcome = tuple[float, bool]


def connect() -> sqlite3.Connection:
    """Make a resource. Any thread may use it."""
    return sqlite3.connect(":memory:", check_same_thread=False)


def query(connection: sqlite3.Connection, seconds: float) -> None:
    """Run a query that takes so many seconds, unless it is interrupted."""
    until = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() >= until, STEPS)
    connection.execute(ENDLESS)


def ours(seconds: float, **hooks: Any) -> Outcome:
    config = Config(
        on_create=connect,
        on_destroy=sqlite3.Connection.close,
        worker_count=1,
        max_worker_count=1,
        **hooks,
    )

    with TaskManager(config) as manager:
        first = manager.queue_task(id)
        stuck = manager.submit(query, seconds, timeout=TIMEOUT_S)
        following = manager.submit(id)
        error = stuck.exception()
        began = time.monotonic()
        assert isinstance(error, TaskTimeoutError), error

        same = following.result() == first
        return time.monotonic() - began, same


def standard(seconds: float) -> Outcome:
    with contextlib.closing(connect()) as connection, ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(query, connection, seconds)
        following = pool.submit(id, connection)
        time.sleep(TIMEOUT_S)
        began = time.monotonic()
        stuck.cancel()

        following.result()
        return time.monotonic() - began, True


WAYS: dict[str, Callable[[float], Outcome]] = {
    "ThreadPoolExecutor": standard,
    "tasker, nothing": ours,
    "tasker, on_abort": partial(ours, on_abort=sqlite3.Connection.interrupt),
    f"tasker, abandon_after={ABANDON_S}": partial(ours, abandon_after=ABANDON_S),
    "tasker, both": partial(ours, on_abort=sqlite3.Connection.interrupt, abandon_after=ABANDON_S),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stuck", description=__doc__)
    parser.add_argument("--query", type=float, default=QUERY_S, help="seconds; default: 3")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: 5")
    options = parser.parse_args(arguments)

    outcomes: dict[str, list[Outcome]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, measure in WAYS.items():
            outcomes[name].append(measure(options.query))

    print(HEAD)
    for name, rounds in outcomes.items():
        print(_line(name, rounds))
    return 0


def _line(name: str, rounds: Sequence[Outcome]) -> str:
    seconds = [outcome[0] for outcome in rounds]
    connection = "the same" if all(same for _, same in rounds) else "a new one"
    middle, worst = statistics.median(seconds), max(seconds)
    return f"{name:<26} {middle:>7.3f} s {worst:>7.3f} s   {connection}"


if __name__ == "__main__":
    logging.getLogger("tasker").setLevel(logging.CRITICAL)
    raise SystemExit(main())
