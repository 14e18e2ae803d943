"""A run of `tasker map`: from lines to outcomes.

    reader --submit--> workers --done--> lane --> main thread --> output, errors,
                                                                  standard error

The reader is a daemon thread, because nothing can interrupt a thread that waits for
input. A run that must not wait for the reader leaves it behind.

The main thread alone writes. All outcomes come to it through the lane, in the order in
which they end. Ctrl-C and SIGTERM come through the lane, too: their handler puts `None`
there, so they interrupt nothing halfway. Each wait for the lane is short all the same.
A signal may not end it: one that comes just before the wait begins, one that another
thread takes, and any on Windows. A second Ctrl-C is Python's own `KeyboardInterrupt`.
It gives up at once, even in a write that blocks.

A line is *taken* when it was read and is about to be submitted. Each line taken comes
through the lane exactly once. A line holds one of the places of `_window` from before
it is read until after it is written. So input is read only as fast as output is
written, and memory stays flat. `map()` is not used, because it may hold results that
are finished while it waits for the next line of a slow pipe.

A run ends when the input has ended and all lines taken are written, at a signal, or
when a write fails. After a signal or a failure the manager is killed. Results that were
finished are still written, and all other lines come through the lane as cancelled.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator, Iterator
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NamedTuple

from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import last_line_of
from tasker._sync.threads import new_thread
from tasker.cli.display import Display
from tasker.cli.files import Files
from tasker.cli.job import CREATE_TIMEOUT_S, OURS, Failure, Job
from tasker.cli.loading import one_line
from tasker.cli.records import Record, UnreadableError, error_line
from tasker.errors import TaskManagerKilledError, TaskManagerShutdownError, TaskTimeoutError
from tasker.manager import TaskManager

__all__ = ["Run"]

DONE, SOME_FAILED, READER_GONE, SIGNALLED = 0, 1, 128 + 13, 128

# How long functions that run may take to end when they are cancelled. A guess.
GRACE_S = 5.0
# How soon the main thread notices a signal that did not wake it. A guess: to a user it
# is at once, and to wake five times a second costs nothing.
_LOOK_S = 0.2
# How many lines are taken at once, at least. A guess: it keeps workers busy while
# results are written.
_LEAST_WINDOW = 64


_CANCELLED = (TaskManagerKilledError, TaskManagerShutdownError)


class Outcome(NamedTuple):
    """The outcome of a line that was taken.

    `number` counts the lines taken. `result` is what to write, `error` is why there is
    no result. Both are `None` if an earlier run has done the line."""

    number: int
    record: Record
    result: bytes | None
    error: BaseException | None


class Run:
    """One run.

    The reader and the main thread have fields of their own. The main thread also reads
    `_taken` and `_ended`. The reader writes them before it puts an outcome or `None`
    into the lane, which has the main thread look (R1)."""

    def __init__(self, job: Job, files: Files, display: Display) -> None:
        self._options = job.options
        self._task, self._work = job.task(), job.work
        self._files = files
        self._display = display
        self._lane: SimpleQueue[Outcome | None] = SimpleQueue()

        most = job.options.max_workers
        # A line's time runs while it waits, too. So with a timeout a line is taken only
        # if there is a worker for it.
        self._window = threading.Semaphore(
            most if job.options.timeout else max(_LEAST_WINDOW, 4 * most)
        )
        self._manager = TaskManager(job.config(display))

        # The reader's fields.
        self._taken = 0
        # The number, in the input, of the last line that was taken.
        self._last_line = 0
        self._ended = False
        self._read_error: BaseException | None = None

        # The main thread's fields.
        self._closing = False
        self._signal = 0
        self._written = self._done = self._failed = self._skipped = 0
        self._timed_out = False
        # Numbers of lines.
        self._cancelled: list[int] = []
        # With `--ordered`: the outcomes that wait until those before them are written.
        self._early: dict[int, Outcome] = {}
        self._started = monotonic()

    def run(self) -> int:
        """Take all lines, write all outcomes, and return the exit status."""
        reader = new_thread(self._read, "tasker map-reader")
        broken: OSError | KeyboardInterrupt | None = None

        with self._signals():
            try:
                reader.start()
                self._write_all()
            except (OSError, KeyboardInterrupt) as error:
                broken = error

            self._close(killing=broken is not None or self._signal != 0)
            if self._signal and broken is None:
                try:
                    self._write_rest()
                except (OSError, KeyboardInterrupt) as error:
                    broken = error

        return self._report(broken)

    # -- the reader --------------------------------------------------------------------

    def _read(self) -> None:
        try:
            # No line's time is to pay for the first resources.
            if self._options.timeout is not None:
                self._manager.wait_ready(CREATE_TIMEOUT_S)

            records = self._files.records()
            while self._has_room():
                self._take(*next(records))
        except StopIteration:
            pass
        except BaseException as error:
            # The input failed.
            self._read_error = error
        finally:
            self._files.input.close()
            self._ended = True
            self._lane.put(None)

    def _has_room(self) -> bool:
        self._window.acquire()
        return not self._closing

    def _take(self, line: int, record: Record, is_done: bool) -> None:
        number = self._taken
        self._taken, self._last_line = number + 1, line

        def ended(result: bytes | None, error: BaseException | None) -> None:
            self._lane.put(Outcome(number, record, result, error))

        if is_done:
            ended(None, None)
            return

        timeout = self._options.timeout
        try:
            self._manager.queue_task_with_callback(
                self._task, ended, self._work, record, timeout=timeout
            )
        except TaskManagerShutdownError as error:
            ended(None, error)

    # -- the main thread ---------------------------------------------------------------

    def _write_all(self) -> None:
        while not self._signal and not (self._ended and self._written == self._taken):
            try:
                outcome = self._lane.get(timeout=_LOOK_S)
            except Empty:
                continue
            if outcome is not None:
                self._place(outcome)
            # Otherwise more is to be written now.
            if self._lane.empty():
                self._flush()

        self._flush()

    def _write_rest(self) -> None:
        with contextlib.suppress(Empty):
            while self._written + len(self._early) < self._taken:
                # The manager is closed, so each outcome is on its way.
                outcome = self._lane.get(timeout=GRACE_S)
                if outcome is not None:
                    self._place(outcome)

        for number in sorted(self._early):
            self._write(self._early.pop(number))
        self._flush()

    def _place(self, outcome: Outcome) -> None:
        """Write an outcome, or keep it until its turn."""
        if not self._options.ordered:
            self._write(outcome)
            return

        self._early[outcome.number] = outcome
        while (following := self._early.pop(self._written, None)) is not None:
            self._write(following)

    def _write(self, outcome: Outcome) -> None:
        self._written += 1
        if outcome.error is not None:
            self._write_failure(outcome.record, outcome.error)
        elif outcome.result is None:
            self._skipped += 1
        else:
            self._done += 1
            with self._display.out_of_the_way():
                self._files.output.write(outcome.result)

        self._display.advance()
        self._window.release()

    def _write_failure(self, record: Record, error: BaseException) -> None:
        text = one_line(
            _text(error) if isinstance(error, (*OURS, Failure)) else last_line_of(error)
        )
        place = error.place if isinstance(error, Failure) else ""
        if isinstance(error, _CANCELLED):
            text = "cancelled"
            self._cancelled.append(record.line)
        else:
            self._failed += 1
            self._timed_out = self._timed_out or isinstance(error, TaskTimeoutError)
            self._display.say(f"line {record.line}: {text}{f' ({place})' if place else ''}")

        if self._files.errors is not None:
            self._files.errors.write(
                error_line(record, text, place, unreadable=isinstance(error, UnreadableError))
            )

    def _flush(self) -> None:
        with self._display.out_of_the_way():
            self._files.flush()

    def _close(self, *, killing: bool) -> None:
        """End the manager and, unless it waits for input, the reader."""
        self._closing = True
        self._window.release()
        self._workers = self._manager.stats().active_workers

        try:
            # All lines may have ended, but a function may outlast its timeout.
            if killing or self._timed_out:
                self._manager.kill(GRACE_S)
            else:
                self._manager.stop()
        except KeyboardInterrupt:
            self._manager.kill(0.0)

    # -- signals -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """Handle the first signal.

        The next one meets the handlers that were there before."""
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # A shell's background jobs ignore Ctrl-C.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.getsignal(number)

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def handle(number: int, _: FrameType | None) -> None:
            self._signal = number
            self._lane.put(None)
            # Last, as from here on the next signal may raise.
            restore()

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            restore()

    # -- the end -----------------------------------------------------------------------

    def _report(self, broken: OSError | KeyboardInterrupt | None) -> int:
        """Say how the run ended, and return the exit status."""
        if isinstance(broken, BrokenPipeError):
            self._display.close()
            return READER_GONE

        if isinstance(broken, OSError):
            self._display.say(f"writing failed: {broken}")
        if self._read_error is not None:
            self._display.say(f"reading failed after line {self._last_line}: {self._read_error}")
        if self._signal:
            cancelled = (
                f"; cancelled: {', '.join(map(str, sorted(self._cancelled)))}"
                if self._cancelled
                else ""
            )
            name = signal.Signals(self._signal).name
            self._display.say(f"{name}: the last line taken was {self._last_line}{cancelled}")

        self._display.table(self._figures())

        if self._signal:
            return SIGNALLED + self._signal
        return SOME_FAILED if broken or self._read_error or self._failed else DONE

    def _figures(self) -> Iterator[tuple[str, object]]:
        metrics = self._manager.metrics()
        seconds = monotonic() - self._started
        yield "lines", self._written
        yield "done", self._done
        yield "failed", self._failed
        yield "cancelled", len(self._cancelled)
        if self._options.resume is not None:
            yield "skipped", self._skipped
        yield "retries", metrics.total_tasks_retried
        yield "workers", self._workers
        yield "seconds", f"{seconds:.2f}"
        yield "lines a second", f"{(self._written - self._skipped) / seconds:.1f}"
        yield "mean milliseconds", f"{metrics.average_execution_time * 1000:.2f}"
        yield "p95 milliseconds", f"{metrics.p95_execution_time * 1000:.2f}"
        yield "p99 milliseconds", f"{metrics.p99_execution_time * 1000:.2f}"


def _text(error: Exception) -> str:
    """The text of an error, and its notes: how often the line was tried."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])
