"""`python -m benchmarks.postgres`: connections that a PostgreSQL server ends.

The server is one of our own. Beside tasker stands psycopg_pool with the standard
library's ThreadPoolExecutor, whose pool asks the server each time that a connection is
taken (`check`), and psycopg_pool as it is without that. All have as many connections.

Each drill runs the tasks, each a query, while the server does this to it:

- idle: all connections are ended before the first task is submitted
- busy: all connections are ended while tasks run on them
- restart: the server stops and starts in the middle of the tasks
- down: the same, and it is down for three seconds

A line is printed for each pool: the tasks that failed, and the milliseconds from the
moment at which the server was well again until the first task was done, and until the
last. The rounds of the pools are interleaved, and figures are their means. `once` means
that tasker may retry no task.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from statistics import mean
from typing import Any

from benchmarks.harness.postgres_server import PostgresServer, missing_for_postgres
from tasker import Config, TaskManager

CONNECTIONS = 16
DOWN_S = 3.0
# A guess: far above any wait here.
PATIENCE = 60.0

Submit = Callable[[Callable[[Any], object]], "Future[Any]"]


# -- the pools -------------------------------------------------------------------------


@contextmanager
def open_tasker(conninfo: str, once: bool = False) -> Iterator[Submit]:
    """A manager that checks idle connections and cleans each after its task."""
    import psycopg

    config = Config(
        on_create=partial(psycopg.connect, conninfo, autocommit=True),
        on_destroy=psycopg.Connection.close,
        worker_count=CONNECTIONS,
        max_worker_count=CONNECTIONS,
        check_health=lambda error, conn: not conn.closed,
        on_check=lambda conn: conn.execute(""),
        check_after=0,
        on_reset=psycopg.Connection.rollback,
        max_retries=1,
    )
    with TaskManager(config) as manager:
        manager.wait_ready()
        yield partial(manager.submit, once=once)


@contextmanager
def open_psycopg_pool(conninfo: str, check: bool = True) -> Iterator[Submit]:
    """psycopg_pool and an executor of as many threads."""
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(
        conninfo,
        min_size=CONNECTIONS,
        kwargs={"autocommit": True},
        check=ConnectionPool.check_connection if check else None,
        open=False,
    )
    with pool, ThreadPoolExecutor(CONNECTIONS) as executor:
        pool.wait()

        def run(task: Callable[[Any], object]) -> object:
            with pool.connection() as conn:
                return task(conn)

        yield partial(executor.submit, run)


Open = Callable[[str], AbstractContextManager[Submit]]
POOLS: dict[str, Open] = {
    "tasker": open_tasker,
    "tasker, once": partial(open_tasker, once=True),
    "psycopg_pool, check": open_psycopg_pool,
    "psycopg_pool": partial(open_psycopg_pool, check=False),
}


# -- the drills ------------------------------------------------------------------------


@dataclass
class Run:
    """The tasks of one drill on one pool."""

    server: PostgresServer
    submit: Submit
    count: int
    done: list[float] = field(default_factory=list)
    futures: list[Future[Any]] = field(default_factory=list)

    def query(self, conn: Any) -> None:
        """The task."""
        conn.execute("select pg_sleep(0.01)")
        self.done.append(time.perf_counter())

    def begin(self) -> None:
        """Submit all."""
        self.futures = [self.submit(self.query) for _ in range(self.count)]

    def wait_for_some(self) -> None:
        """Wait until a fifth of the tasks is done."""
        while len(self.done) < self.count // 5:
            time.sleep(0.001)


def idle(run: Run) -> float:
    run.server.end_connections()
    well_again = time.perf_counter()
    run.begin()
    return well_again


def busy(run: Run) -> float:
    run.begin()
    run.wait_for_some()
    run.server.end_connections()
    return time.perf_counter()


def restart(run: Run, down: float = 0.0) -> float:
    run.begin()
    run.wait_for_some()
    run.server.stop()
    time.sleep(down)
    run.server.start()
    return time.perf_counter()


DRILLS: dict[str, Callable[[Run], float]] = {
    "idle": idle,
    "busy": busy,
    "restart": restart,
    "down": partial(restart, down=DOWN_S),
}


@dataclass
class Outcome:
    failed: int
    first: float
    last: float


def measured(
    server: PostgresServer, open_pool: Open, drill: Callable[[Run], float], count: int
) -> Outcome:
    """One round of a drill; the times are in milliseconds."""
    with open_pool(server.conninfo) as submit:
        run = Run(server, submit, count)
        warm_up(submit)
        well_again = drill(run)
        failed = sum(future.exception(PATIENCE) is not None for future in run.futures)

    after = sorted(1e3 * (moment - well_again) for moment in run.done if moment > well_again)
    return Outcome(failed, after[0], after[-1])


def warm_up(submit: Submit) -> None:
    """Have a task done by each connection."""
    together = threading.Barrier(CONNECTIONS, timeout=PATIENCE)
    for future in [submit(lambda _: together.wait()) for _ in range(CONNECTIONS)]:
        future.result(PATIENCE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--drills", nargs="+", choices=DRILLS, default=DRILLS, help="default: all four"
    )
    options = parser.parse_args(arguments)
    if missing := missing_for_postgres() or _missing_packages():
        print(missing, file=sys.stderr)
        return 2

    print(f"{CONNECTIONS} connections, {options.tasks} tasks, {options.rounds} rounds")
    print("drill    pool                 failed   first done    last done")
    with PostgresServer() as server:
        for drill in options.drills:
            outcomes: dict[str, list[Outcome]] = {pool: [] for pool in POOLS}
            for _ in range(options.rounds):
                for pool, open_pool in POOLS.items():
                    outcome = measured(server, open_pool, DRILLS[drill], options.tasks)
                    outcomes[pool].append(outcome)
            for pool, rounds in outcomes.items():
                print(_line(drill, pool, rounds), flush=True)

    return 0


def _missing_packages() -> str:
    missing = [name for name in ("psycopg", "psycopg_pool") if find_spec(name) is None]
    return f"not installed: {' and '.join(missing)}" if missing else ""


def _line(drill: str, pool: str, rounds: Sequence[Outcome]) -> str:
    failed, first, last = (
        mean(getattr(each, name) for each in rounds) for name in ("failed", "first", "last")
    )
    return f"{drill:<8} {pool:<20} {failed:>6.1f} {first:>8.1f} ms {last:>8.1f} ms"


if __name__ == "__main__":
    # All pools report lost connections, thousands of times.
    logging.disable()
    raise SystemExit(main())
