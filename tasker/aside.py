"""Runs user code for threads that must not run it themselves: the timer, the burst thread, `kill()`.

Jobs wait in a deque; one thread at a time takes them in order and ends when there are none. If that thread
cannot be started, or a job keeps it for `STUCK`, `heal()` gives the rest another thread: a callback that blocks for
ever holds up no other callback for longer than that. A manager's burst thread calls it in each tick, the timer at each
of its turns.

To let go of an object may run user code as well: its destructor, or that of what it refers to. `let_go` takes such
objects over; the same thread drops them, one by one, when no job waits. No closing waits for a destructor.

`_lock` guards `_runner`, `_busy` and `_dropping`, is held for a few lines, and no job ever runs under it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import call
from typing import Any

from tasker.clock import monotonic
from tasker.handover import hand_on, move_all
from tasker.locks import new_lock, release_locks
from tasker.logger import GuardedLogger, Level
from tasker.threads import leave_child, new_thread

__all__ = ["Aside", "LoggerAside"]

STUCK = 0.1  # seconds after which a job no longer holds up those behind it

Job = Callable[[], object]


class Aside:
    """A line of jobs and the short-lived thread that runs them. A job that raises is logged."""

    def __init__(self, name: str, logger: GuardedLogger) -> None:
        self._name = name
        self._logger = logger
        self._jobs: deque[Job] = deque()
        self._garbage: deque[Any] = deque()
        self._lock = new_lock()
        self._runner: threading.Thread | None = None  # the thread that takes jobs; a stuck one is replaced
        self._taken_at = 0.0  # when the runner was started or last took something
        self._busy: list[threading.Thread] = []
        self._dropping: list[threading.Thread] = []  # those of the threads that run no job
        self.at_rest: Callable[[], object] = bool  # called when a thread has ended and nothing waits

    def run(self, *jobs: Job) -> None:
        """Run the jobs, in order, on a thread of their own; returns at once. Never raises."""
        self.run_all(list(jobs))

    def run_all(self, jobs: list[Job]) -> None:
        """As `run`; empties the list, so that the calling thread is not the last one that refers to a job."""
        if jobs:
            move_all(jobs, self._jobs)
            self._ensure_runner()

    def let_go(self, things: list[Any]) -> None:
        """Drop what is in the list, on a thread of its own, where destructors may block; returns at once.

        Empties the list. The caller must not refer to the things in any other way."""
        if things:
            move_all(things, self._garbage)
            self._ensure_runner()

    def heal(self) -> None:
        """Start a thread for jobs that have none: the last one could not start, or is kept by its job."""
        if self.waits():
            with self._lock:
                if self._runner is not None and monotonic() - self._taken_at >= STUCK:
                    self._runner = None
            self._ensure_runner()

    def run_here(self) -> None:
        """Run what waits in the calling thread: for interpreter exit, when no thread can be started any more."""
        thread = threading.current_thread()
        self._runner = thread  # a stuck one may not come back
        self._run_jobs(thread)
        self._runner = None

    def waits(self) -> bool:
        """Whether anything waits for a thread."""
        return bool(self._jobs or self._garbage)

    def idle(self) -> bool:
        """Whether no job waits or runs."""
        return not self._jobs and not self._busy

    def is_clean(self) -> bool:
        """Whether nothing waits to be dropped or is being dropped."""
        return not self._garbage and not self._dropping

    def runs_this_thread(self) -> bool:
        """Whether the calling thread is running one of the jobs, or a destructor."""
        thread = threading.current_thread()
        return thread in self._busy or thread in self._dropping

    def busy(self) -> list[str]:
        """The names of the threads that are running a job, or are kept by a destructor."""
        moves_on = self._runner if monotonic() - self._taken_at < STUCK else None
        dropping = [thread for thread in self._dropping.copy() if thread is not moves_on]
        return [thread.name for thread in (*self._busy.copy(), *dropping)]

    def _ensure_runner(self) -> None:
        with self._lock:
            if self._runner is not None:
                return
            thread = new_thread(self._work, self._name)
            self._runner = thread
            self._taken_at = monotonic()
            self._dropping.append(thread)
            try:
                thread.start()
            except BaseException as error:
                if not thread.is_alive():  # no more threads for now, no memory, or Ctrl-C: heal() tries again
                    self._runner = None
                    self._dropping.remove(thread)
                if not isinstance(error, (RuntimeError, MemoryError)):
                    raise

    def _work(self) -> None:
        thread = threading.current_thread()
        try:
            while self.waits() and self._is_wanted(thread):
                if self._jobs:
                    self._move(thread, self._dropping, self._busy)
                    self._run_jobs(thread)
                    self._move(thread, self._busy, self._dropping)
                self._drop_garbage(thread)
        except BaseException:  # no memory to let go of a lock, say: it would stay taken when this thread is gone
            release_locks()
            raise
        finally:
            with self._lock:
                for threads in (self._busy, self._dropping):
                    with contextlib.suppress(ValueError):
                        threads.remove(thread)
                if self._runner is thread:
                    self._runner = None
            if self.waits():  # came in between the last look and the lines above
                self._ensure_runner()
            else:
                self.at_rest()

    def _is_wanted(self, thread: threading.Thread) -> bool:
        return self._runner is thread or self._runner is None  # None: no other could be started in its place

    def _move(self, thread: threading.Thread, out_of: list[threading.Thread], into: list[threading.Thread]) -> None:
        with self._lock:
            into.append(thread)
            out_of.remove(thread)

    def _run_jobs(self, thread: threading.Thread) -> None:
        while self._jobs and self._is_wanted(thread):
            self._taken_at = monotonic()
            try:
                hand_on(self._jobs.popleft, call)
            except BaseException as error:
                leave_child(error)
                if type(error) is MemoryError:
                    release_locks()
                self._logger.fault("error", "%s: a job raised", self._name, error=error)
            leave_child()

    def _drop_garbage(self, thread: threading.Thread) -> None:
        while self._is_wanted(thread) and not self._jobs:
            self._taken_at = monotonic()
            try:
                self._garbage.popleft()
            except IndexError:
                return


class LoggerAside:
    """A logger for threads that must not wait for the user's: what it is told is logged aside, in order.

    The methods are those of `GuardedLogger`."""

    def __init__(self, aside: Aside, logger: GuardedLogger) -> None:
        self._aside = aside
        self._logger = logger

    def debug(self, msg: str, /, *args: object) -> None:
        if not self._logger.drops("debug"):
            self._aside.run(partial(self._logger.debug, msg, *args))

    def info(self, msg: str, /, *args: object) -> None:
        if not self._logger.drops("info"):
            self._aside.run(partial(self._logger.info, msg, *args))

    def warning(self, msg: str, /, *args: object) -> None:
        self._aside.run(partial(self._logger.warning, msg, *args))

    def then(self, job: Job) -> None:
        """Run a job when all that was told so far has been logged."""
        self._aside.run(job)

    def fault(self, level: Level, msg: str, /, *args: object, error: BaseException | None = None) -> None:
        self._aside.run(partial(self._logger.fault, level, msg, *args, error=error))

    def outage(self, msg: str, /, *args: object, error: BaseException | None = None) -> None:
        self._aside.run(partial(self._logger.outage, msg, *args, error=error))
