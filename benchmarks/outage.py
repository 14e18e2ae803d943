"""`python -m benchmarks.outage`: a backend that is down, and how a pool comes back.

A line is printed for each number of workers: the attempts to make a resource while the
backend is down, which are the first wave, begun before one had failed, and then so many
a second; the last pause between two attempts; the most attempts at once after the first
wave; and the seconds until nine tenths of the workers, and all of them, have resources
after the backend is back.

The rival is psycopg_pool where that is installed, with connections to the same backend.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec

from tasker import Config, TaskManager

WORKERS = (1, 8, 64)
DOWN_S = 12.0

# What it takes to connect, or to be refused.
CONNECT_S = 0.02

# A guess: far above the longest pause of each pool.
PATIENCE = 120.0

HEAD = (
    f"{'pool':<14}workers  first wave  then, a second  last pause  at once"
    "   90 % after    all after"
)


class Backend:
    """Refuses connections until it is up, and notes who tries when."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first_wave = 0
        self.tried: list[float] = []
        self.connected: list[float] = []
        self.has_refused = False
        self.is_up = False
        # After the first wave, and while it is down.
        self.under_way = 0
        self.most = 0

    def connect(self) -> object:
        """Make a resource."""
        with self._lock:
            comes_later = self.has_refused
            self.first_wave += not comes_later
            self.tried.append(time.monotonic())
            self.under_way += comes_later
            if not self.is_up:
                self.most = max(self.most, self.under_way)

        time.sleep(CONNECT_S)
        with self._lock:
            self.under_way -= comes_later
            if not self.is_up:
                self.has_refused = True
                raise ConnectionRefusedError("the backend is down")
            self.connected.append(time.monotonic())
            return object()


# Waits until all workers have resources, and returns whether they have.
WaitReady = Callable[[], bool]


@contextmanager
def ours(backend: Backend, workers: int) -> Iterator[WaitReady]:
    config = Config(
        on_create=backend.connect,
        on_destroy=lambda resource: None,
        worker_count=workers,
        max_worker_count=workers,
    )
    with TaskManager(config) as manager:
        yield lambda: manager.wait_ready(PATIENCE)


@contextmanager
def psycopg_pool(backend: Backend, workers: int) -> Iterator[WaitReady]:
    from psycopg import Connection, OperationalError
    from psycopg_pool import ConnectionPool, PoolTimeout

    class Client(Connection):
        """A connection to the backend instead of to PostgreSQL."""

        def __init__(self) -> None:
            pass

        @classmethod
        def connect(cls, *_: object, **__: object) -> Client:
            try:
                backend.connect()
            except ConnectionRefusedError as error:
                raise OperationalError from error
            return cls()

        def close(self) -> None:
            pass

        def __del__(self, *_: object) -> None:
            pass

    def wait_ready() -> bool:
        try:
            pool.wait(PATIENCE)
        except PoolTimeout:
            return False
        return True

    with ConnectionPool(connection_class=Client, min_size=workers, open=False) as pool:
        yield wait_ready


POOLS: dict[str, Callable[[Backend, int], AbstractContextManager[WaitReady]]] = {
    "tasker": ours,
    "psycopg_pool": psycopg_pool,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="default: 1 8 64")
    parser.add_argument("--down", type=float, default=DOWN_S, help="seconds; default: 12")
    options = parser.parse_args(arguments)

    print(HEAD)
    for workers in options.workers:
        for pool in POOLS:
            if pool == "psycopg_pool" and find_spec("psycopg_pool") is None:
                print(f"{pool:<14}{workers:>7}  is not installed")
            else:
                print(f"{pool:<14}{_measured(pool, workers, options.down)}", flush=True)
    return 0


def _measured(pool: str, workers: int, down: float) -> str:
    backend = Backend()
    with POOLS[pool](backend, workers) as wait_ready:
        began = time.monotonic()
        time.sleep(down)
        backend.is_up, back = True, time.monotonic()
        tried = [when for when in backend.tried if when < back]
        if not wait_ready():
            return f"{workers:>7} were not ready within {PATIENCE:g} s"

    pause = f"{tried[-1] - tried[-2]:.2f} s" if len(tried) > 1 else "none"
    after = [when - back for when in backend.connected]
    return (
        f"{workers:>7} {backend.first_wave:>11}"
        f" {(len(tried) - backend.first_wave) / (back - began):>15.2f}"
        f" {pause:>11} {backend.most:>8}"
        f" {after[-(-workers * 9 // 10) - 1]:>10.2f} s {after[-1]:>10.2f} s"
    )


if __name__ == "__main__":
    for logger in ("tasker", "psycopg.pool"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    raise SystemExit(main())
