"""`CallbackRunner`: runs user code for threads that must not run it themselves.

Those are the timer thread, the burst thread, and a thread in `kill()`.

Jobs wait in a deque. One thread at a time takes them in order, and ends when there are
none. That thread may fail to start, or a job may keep it for longer than `STUCK_S`.
Then `heal()` gives the rest another thread, so a callback that blocks for ever holds up
other callbacks for no longer than that. A manager's burst thread calls `heal()` in each
tick, the timer in each of its turns. A job that is likely to block gets a thread of its
own from the start (`run_apart`).

To drop an object may run user code as well: its destructor, or that of an object to
which it refers. `let_go` takes such objects over. The same thread drops them, one by
one, when no job waits. A manager that closes waits for no destructor.

`_lock` guards `_runner`, `_busy` and `_dropping`. It is held for a few lines, and no
job ever runs under it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import call
from typing import Any

from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import GuardedLogger, Level
from tasker._sync.handover import hand_on, move_all
from tasker._sync.locks import new_lock, release_locks
from tasker._sync.threads import leave_child, new_thread

__all__ = ["BackgroundLogger", "CallbackRunner"]

# A job that runs for longer than this no longer holds up those behind it. A guess: most
# callbacks take less.
STUCK_S = 0.1

Job = Callable[[], object]


class CallbackRunner:
    """A line of jobs, and the short-lived thread that runs them.

    What a job raises is logged."""

    def __init__(self, name: str, logger: GuardedLogger) -> None:
        self._name = name
        self._logger = logger
        self._jobs: deque[Job] = deque()
        self._garbage: deque[Any] = deque()
        self._lock = new_lock()

        # The thread that takes jobs; a stuck one is replaced.
        self._runner: threading.Thread | None = None

        # When the runner was started, or last took something.
        self._taken_at = 0.0

        # The threads that run a job, and those that run none.
        self._busy: list[threading.Thread] = []
        self._dropping: list[threading.Thread] = []

        # Called when a thread has ended and nothing waits.
        self.at_rest: Callable[[], object] = bool

    def run(self, *jobs: Job) -> None:
        """Run the jobs, in order, on another thread.

        Returns at once. Never raises."""
        self.run_all(list(jobs))

    def run_all(self, jobs: list[Job]) -> None:
        """As `run`, for the jobs in a list, which it empties.

        So the calling thread is not the last one that refers to a job."""
        if jobs:
            move_all(jobs, self._jobs)
            self._ensure_runner()

    def run_apart(self, job: Job) -> None:
        """Run a job that may block, on a thread that runs nothing else.

        Returns at once. Never raises."""
        self.run(partial(self._start_apart, job))

    def let_go(self, things: list[Any]) -> None:
        """Drop the objects in the list, on another thread, where destructors may block.

        Returns at once, with the list empty. The caller must not refer to the objects
        in any other way."""
        if things:
            move_all(things, self._garbage)
            self._ensure_runner()

    def heal(self) -> None:
        """Start a thread for what waits without one.

        The last thread could not start, or is kept by its job."""
        if self.waits():
            with self._lock:
                if self._runner is not None and monotonic() - self._taken_at >= STUCK_S:
                    self._runner = None

            self._ensure_runner()

    def run_here(self) -> None:
        """Run the waiting jobs in the calling thread.

        For the interpreter's exit, when no thread can be started any more."""
        thread = threading.current_thread()

        # From now on no stuck thread takes another job.
        self._runner = thread
        self._run_jobs(thread)
        self._runner = None

    def waits(self) -> bool:
        """Whether a job, or an object to be dropped, waits for a thread."""
        return bool(self._jobs or self._garbage)

    def idle(self) -> bool:
        """Whether no job waits or runs."""
        return not self._jobs and not self._busy

    def is_clean(self) -> bool:
        """Whether no object waits to be dropped or is being dropped."""
        return not self._garbage and not self._dropping

    def runs_this_thread(self) -> bool:
        """Whether the calling thread runs one of the jobs, or a destructor."""
        thread = threading.current_thread()
        return thread in self._busy or thread in self._dropping

    def busy(self) -> list[str]:
        """The names of the threads that run a job, or are kept by a destructor."""
        moves_on = self._runner if monotonic() - self._taken_at < STUCK_S else None
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
                # No more threads for now, no memory, or Ctrl-C: heal() tries again.
                if not thread.is_alive():
                    self._runner = None
                    self._dropping.remove(thread)
                if not isinstance(error, (RuntimeError, MemoryError)):
                    raise

    def _work(self) -> None:
        thread = threading.current_thread()
        with self._lock:
            # A Ctrl-C in its start has made it look as if it would not come.
            if thread not in self._dropping:
                return

        try:
            while self.waits() and self._is_wanted(thread):
                if self._jobs:
                    self._move(thread, self._dropping, self._busy)
                    self._run_jobs(thread)
                    self._move(thread, self._busy, self._dropping)

                self._drop_garbage(thread)
        except BaseException:
            # No memory to let go of a lock, say. The lock would stay taken when this
            # thread has ended.
            release_locks()
            raise
        finally:
            with self._lock:
                for threads in (self._busy, self._dropping):
                    with contextlib.suppress(ValueError):
                        threads.remove(thread)
                if self._runner is thread:
                    self._runner = None

            # Something may have come between the last look and the lines above.
            if self.waits():
                self._ensure_runner()
            else:
                self.at_rest()

    def _is_wanted(self, thread: threading.Thread) -> bool:
        # None: no other thread could be started in its place.
        return self._runner is thread or self._runner is None

    def _move(
        self, thread: threading.Thread, out_of: list[threading.Thread], into: list[threading.Thread]
    ) -> None:
        with self._lock:
            into.append(thread)
            out_of.remove(thread)

    def _run_jobs(self, thread: threading.Thread) -> None:
        while self._jobs and self._is_wanted(thread):
            self._taken_at = monotonic()
            self._run_job(self._jobs.popleft)

    def _run_job(self, take: Callable[[], Job]) -> None:
        try:
            hand_on(take, call)
        except BaseException as error:
            leave_child(error)
            if type(error) is MemoryError:
                release_locks()
            self._logger.fault("error", "%s: a job raised", self._name, error=error)

        leave_child()

    def _start_apart(self, job: Job) -> None:
        """Give a job a thread of its own. If none can be started, run it here."""
        thread = new_thread(self._work_apart, self._name, ([job],))
        with self._lock:
            self._busy.append(thread)

        try:
            thread.start()
        except BaseException as error:
            comes = thread.is_alive()
            if not comes:
                with self._lock:
                    self._busy.remove(thread)
            if not isinstance(error, (RuntimeError, MemoryError)):
                raise
            if not comes:
                job()

    def _work_apart(self, jobs: list[Job]) -> None:
        thread = threading.current_thread()
        with self._lock:
            # As in `_work`.
            if thread not in self._busy:
                return

        try:
            self._run_job(jobs.pop)
        finally:
            with self._lock:
                self._busy.remove(thread)
            if not self.waits():
                self.at_rest()

    def _drop_garbage(self, thread: threading.Thread) -> None:
        while self._is_wanted(thread) and not self._jobs:
            self._taken_at = monotonic()
            try:
                self._garbage.popleft()
            except IndexError:
                return


class BackgroundLogger:
    """A logger for threads that must not wait for the user's.

    The callback runner makes the records, in order.

    The methods are those of `GuardedLogger`."""

    def __init__(self, runner: CallbackRunner, logger: GuardedLogger) -> None:
        self._runner = runner
        self._logger = logger

    def debug(self, msg: str, /, *args: object) -> None:
        if not self._logger.drops("debug"):
            self._runner.run(partial(self._logger.debug, msg, *args))

    def info(self, msg: str, /, *args: object) -> None:
        if not self._logger.drops("info"):
            self._runner.run(partial(self._logger.info, msg, *args))

    def warning(self, msg: str, /, *args: object) -> None:
        self._runner.run(partial(self._logger.warning, msg, *args))

    def then(self, job: Job) -> None:
        """Run a job when all records so far have been logged."""
        self._runner.run(job)

    def fault(
        self, level: Level, msg: str, /, *args: object, error: BaseException | None = None
    ) -> None:
        self._runner.run(partial(self._logger.fault, level, msg, *args, error=error))

    def outage(self, msg: str, /, *args: object, error: BaseException | None = None) -> None:
        self._runner.run(partial(self._logger.outage, msg, *args, error=error))
