"""`python -m benchmarks.outage`: a backend that is down, and how a pool comes back.

A line is printed for each number of workers: the attempts to make a resource while the
backend is down, which are the first wave and then so many a second; the last pause
between two attempts; the most attempts at once after the first wave; and the seconds
until nine tenths of the workers, and all of them, have resources after the backend is
back.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Sequence

from tasker import Config, TaskManager

WORKERS = (1, 8, 64)
DOWN_S = 12.0

# What it takes to connect, or to be refused.
CONNECT_S = 0.02

HEAD = "workers  first wave  then, a second  last pause  at once     90 % after      all after"


class Backend:
    """Refuses connections until it is up, and notes who tries when."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.under_way = 0
        self.tried: list[float] = []
        self.connected: list[float] = []
        self.most = 0
        self.is_up = False

    def connect(self) -> object:
        """Make a resource."""
        with self._lock:
            self.tried.append(time.monotonic())
            self.under_way += 1
            self.most = max(self.most, self.under_way)

        time.sleep(CONNECT_S)
        with self._lock:
            self.under_way -= 1
            if not self.is_up:
                raise ConnectionRefusedError("the backend is down")
            self.connected.append(time.monotonic())
            return object()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="default: 1 8 64")
    parser.add_argument("--down", type=float, default=DOWN_S, help="seconds; default: 12")
    options = parser.parse_args(arguments)

    logging.getLogger("tasker").setLevel(logging.CRITICAL)
    print(HEAD)
    for workers in options.workers:
        print(_measured(workers, options.down), flush=True)
    return 0


def _measured(workers: int, down: float) -> str:
    backend = Backend()
    config = Config(
        on_create=backend.connect,
        on_destroy=lambda resource: None,
        worker_count=workers,
        max_worker_count=workers,
    )

    with TaskManager(config) as manager:
        began = time.monotonic()
        while len(backend.tried) < workers or backend.under_way:
            time.sleep(0.001)
        first_wave, backend.most = len(backend.tried), 0

        time.sleep(max(0.0, began + down - time.monotonic()))
        backend.is_up, back = True, time.monotonic()
        tried, most = [when for when in backend.tried if when < back], backend.most
        if not manager.wait_ready(60):
            return f"{workers:>7} were not ready within 60 s"

    after = [when - back for when in backend.connected]
    return (
        f"{workers:>7} {first_wave:>11} {(len(tried) - first_wave) / (back - began):>15.2f}"
        f" {tried[-1] - tried[-2]:>9.2f} s {most:>8}"
        f" {after[-(-workers * 9 // 10) - 1]:>12.2f} s {after[-1]:>12.2f} s"
    )


if __name__ == "__main__":
    raise SystemExit(main())
