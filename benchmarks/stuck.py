"""`python -m benchmarks.stuck`: how long a stuck task keeps a pool from serving.

The pool has one worker, with an SQLite connection. Its task is a query that takes
`--query` seconds, and it has a timeout. A line is printed for each way to deal with
that: the seconds from the timeout until the next task has run, in the middle and at
worst, and whether that one had the same connection.
"""

from __future__ import annotations

import argparse
import logging
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tasker import Config, TaskManager, TaskTimeoutError

QUERY_S = 3.0
TIMEOUT_S = 0.2
ABANDON_S = 0.5
ROUNDS = 5

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"

# SQLite asks after so many of its steps whether to go on: every few milliseconds.
STEPS = 100_000

WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "on_abort": {"on_abort": sqlite3.Connection.interrupt},
    f"abandon_after={ABANDON_S}": {"abandon_after": ABANDON_S},
    "both": {"on_abort": sqlite3.Connection.interrupt, "abandon_after": ABANDON_S},
}

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stuck", description=__doc__)
    parser.add_argument("--query", type=float, default=QUERY_S, help="seconds; default: 3")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: 5")
    options = parser.parse_args(arguments)

    logging.getLogger("tasker").setLevel(logging.CRITICAL)
    print(f"{'':<26} {'median':>9} {'worst':>9}   connection")
    _print("ThreadPoolExecutor", lambda: _standard(options.query), options.rounds)
    for name, way in WAYS.items():
        _print(f"tasker, {name}", lambda way=way: _ours(way, options.query), options.rounds)
    return 0


def _print(name: str, measure: Callable[[], Outcome], rounds: int) -> None:
    outcomes = [measure() for _ in range(rounds)]
    seconds = [outcome[0] for outcome in outcomes]
    connection = "the same" if all(same for _, same in outcomes) else "a new one"
    print(
        f"{name:<26} {statistics.median(seconds):>7.3f} s {max(seconds):>7.3f} s   {connection}",
        flush=True,
    )


def _ours(way: dict[str, Any], seconds: float) -> Outcome:
    config = Config(
        on_create=connect,
        on_destroy=sqlite3.Connection.close,
        worker_count=1,
        max_worker_count=1,
        **way,
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


def _standard(seconds: float) -> Outcome:
    connection = connect()
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(query, connection, seconds)
        following = pool.submit(id, connection)
        time.sleep(TIMEOUT_S)
        began = time.monotonic()
        stuck.cancel()

        following.result()
        return time.monotonic() - began, True


if __name__ == "__main__":
    raise SystemExit(main())
