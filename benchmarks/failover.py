"""`python -m benchmarks.failover`: all connections die at once; the backend is well.

Sixteen connections serve, and die while they are idle. Then a thousand tasks are
submitted: all at once, or each when the one before has ended. A line is printed for
each way to run them: the tasks that failed, the queries on dead connections, and the
seconds from the death until the first task succeeded and until all had ended. A task
may be tried twice. The rounds of the ways are interleaved, and figures are their means.

The rivals are written by hand, with the standard library. One keeps a connection for
each thread. The other one keeps connections in a queue.
"""

from __future__ import annotations

import argparse
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from statistics import mean
from typing import Any

from tasker import Config, TaskManager, unhealthy_on

WORKERS = 16
TASKS = 1000
ROUNDS = 5

# What it takes to connect, and what a query takes.
CONNECT_S = 0.02
QUERY_S = 0.001

HEAD = "failed  dead queries  first success  all ended"


class Backend:
    """Accepts connections. A restart breaks those that it has accepted so far."""

    def __init__(self) -> None:
        self.epoch = 0
        # One for each query on a dead connection.
        self.refused: list[None] = []

    def connect(self) -> Connection:
        time.sleep(CONNECT_S)
        return Connection(self)

    def restart(self) -> None:
        self.epoch += 1


class Connection:
    """A connection, which is of use until its backend restarts."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._epoch = backend.epoch

    def query(self) -> float:
        """Returns when it was done."""
        if self._epoch != self._backend.epoch:
            self._backend.refused.append(None)
            raise ConnectionResetError("the server closed the connection")
        time.sleep(QUERY_S)
        return time.monotonic()


Submit = Callable[[], "Future[float]"]


@contextmanager
def ours(backend: Backend) -> Any:
    """A manager, without a check: each worker has a connection."""
    config = Config(
        on_create=backend.connect,
        on_destroy=lambda connection: None,
        worker_count=WORKERS,
        max_worker_count=WORKERS,
        check_health=unhealthy_on(ConnectionError),
        max_retries=1,
    )
    with TaskManager(config) as manager:
        manager.wait_ready(60)
        yield lambda: manager.submit(Connection.query)


@contextmanager
def one_for_each_thread(backend: Backend) -> Any:
    """What is broken is replaced, and the task is tried again there."""
    here = threading.local()
    ready = threading.Barrier(WORKERS)

    def begin() -> None:
        here.connection = backend.connect()
        ready.wait()

    def run() -> float:
        try:
            return here.connection.query()  # type: ignore[no-any-return]
        except ConnectionError:
            here.connection = backend.connect()
            return here.connection.query()  # type: ignore[no-any-return]

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(begin) for _ in range(WORKERS)]:
            future.result()
        yield lambda: pool.submit(run)


@contextmanager
def a_queue_of_them(backend: Backend) -> Any:
    """What is broken is replaced, and the task is tried again on the next one."""
    idle: queue.Queue[Connection] = queue.Queue()
    for _ in range(WORKERS):
        idle.put(backend.connect())

    def attempt() -> float:
        connection = idle.get()
        try:
            return connection.query()
        except ConnectionError:
            connection = backend.connect()
            raise
        finally:
            idle.put(connection)

    def run() -> float:
        try:
            return attempt()
        except ConnectionError:
            return attempt()

    with ThreadPoolExecutor(WORKERS) as pool:
        yield lambda: pool.submit(run)


WAYS: dict[str, Callable[[Backend], AbstractContextManager[Submit]]] = {
    "tasker, max_retries=1": ours,
    "by hand, one for each thread": one_for_each_thread,
    "by hand, a queue, tried twice": a_queue_of_them,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"default: {TASKS}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    options = parser.parse_args(arguments)

    for load, together in (("all at once", True), ("one after the other", False)):
        outcomes: dict[str, list[Outcome]] = {name: [] for name in WAYS}
        for _ in range(options.rounds):
            for name, way in WAYS.items():
                outcomes[name].append(_measured(way, options.tasks, together=together))

        print(f"{load:<32}{HEAD}")
        for name, rounds in outcomes.items():
            print(f"{name:<32}{_line(rounds)}", flush=True)
    return 0


# The tasks that failed, the queries on dead connections, and the seconds until the
# first success and until all had ended.
Outcome = tuple[int, int, float, float]


def _measured(
    way: Callable[[Backend], AbstractContextManager[Submit]], tasks: int, *, together: bool
) -> Outcome:
    backend = Backend()
    with way(backend) as submit:
        for future in [submit() for _ in range(WORKERS * 10)]:
            future.result()
        backend.restart()
        died = time.monotonic()
        if together:
            futures = [submit() for _ in range(tasks)]
            outcomes = [future.exception() or future.result() for future in futures]
        else:
            outcomes = [
                future.exception() or future.result() for future in (submit() for _ in range(tasks))
            ]
        last = time.monotonic() - died

    succeeded = [when for when in outcomes if isinstance(when, float)]
    first = min(succeeded, default=float("inf")) - died
    return tasks - len(succeeded), len(backend.refused), first, last


def _line(rounds: Sequence[Outcome]) -> str:
    failed, refused, first, last = map(mean, zip(*rounds, strict=True))
    return f"{failed:>6.1f} {refused:>13.1f} {first:>12.3f} s {last:>8.3f} s"


if __name__ == "__main__":
    logging.getLogger("tasker").setLevel(logging.CRITICAL)
    raise SystemExit(main())
