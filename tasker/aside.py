"""Runs user code for threads that must not run it themselves: the timer, the burst thread, `kill()`.

Jobs wait in a deque; one daemon thread at a time takes them in order and ends when there are none. If that thread
cannot be started, or a job keeps it for `STUCK`, whoever calls `heal()` now and then (a manager's burst thread, the
timer) gives the rest another thread: a callback that blocks for ever holds up no other callback for longer than that.

`_lock` guards the two fields below it, is held for a few lines, and no job ever runs under it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

from tasker.logger import GuardedLogger
from tasker.threads import new_thread

__all__ = ["Aside"]

STUCK = 0.1  # seconds after which a job no longer holds up those behind it

Job = Callable[[], object]


class Aside:
    """A line of jobs and the short-lived daemon thread that runs them. A job that raises is logged."""

    def __init__(self, name: str, logger: GuardedLogger) -> None:
        self._name = name
        self._logger = logger
        self._jobs: deque[Job] = deque()
        self._lock = threading.RLock()
        self._runner: threading.Thread | None = None  # the thread that takes jobs; a stuck one is replaced
        self._taken_at = 0.0  # when the runner was started or last took a job
        self._busy: list[threading.Thread] = []

    def run(self, *jobs: Job) -> None:
        """Run the jobs, in order, on a thread of their own; returns at once. Never raises."""
        if jobs:
            self._jobs.extend(jobs)
            self._ensure_runner()

    def heal(self) -> None:
        """Start a thread for jobs that have none: the last one could not start, or is kept by its job."""
        if self._jobs:
            with self._lock:
                if self._runner is not None and time.monotonic() - self._taken_at >= STUCK:
                    self._runner = None
            self._ensure_runner()

    def run_here(self) -> None:
        """Run what waits in the calling thread: for interpreter exit, when no thread can be started any more."""
        thread = threading.current_thread()
        self._runner = thread  # a stuck one may not come back
        self._run_all(thread)
        self._runner = None

    def waits(self) -> bool:
        """Whether a job waits for a thread."""
        return bool(self._jobs)

    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._jobs and not self._busy

    def runs_this_thread(self) -> bool:
        """Whether the calling thread is running one of the jobs."""
        return threading.current_thread() in self._busy

    def busy(self) -> list[str]:
        """The names of the threads that are running a job."""
        return [thread.name for thread in tuple(self._busy)]

    def _ensure_runner(self) -> None:
        with self._lock:
            if self._runner is not None:
                return
            thread = new_thread(self._work, self._name)
            self._runner = thread
            self._taken_at = time.monotonic()
            self._busy.append(thread)
            try:
                thread.start()
            except BaseException as error:
                if not thread.is_alive():  # no more threads for now, no memory, or Ctrl-C: heal() tries again
                    self._runner = None
                    self._busy.remove(thread)
                if not isinstance(error, (RuntimeError, MemoryError)):
                    raise

    def _work(self) -> None:
        thread = threading.current_thread()
        try:
            self._run_all(thread)
        finally:
            with self._lock:
                with contextlib.suppress(ValueError):
                    self._busy.remove(thread)
                if self._runner is thread:
                    self._runner = None
            if self._jobs:  # came in between the last look and the lines above
                self._ensure_runner()

    def _run_all(self, thread: threading.Thread) -> None:
        while self._runner is thread or self._runner is None:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            self._taken_at = time.monotonic()
            try:
                job()
            except BaseException as error:
                self._logger.error("%s: %r raised %r", self._name, job, error)
            del job
