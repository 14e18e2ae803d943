"""A run of `tasker map`: from lines to outcomes.

    reader --submit--> workers --done--> lane --> main thread --> output, errors, standard error

The reader is a daemon thread, as nothing interrupts a thread that waits for input: it is left behind where that must
not be waited for. The main thread alone writes. Everything comes to it through the lane, in whatever order it ends, and
so do Ctrl-C and SIGTERM: their handler puts None there, so they interrupt nothing halfway. (A wait for the lane is
short all the same: a signal does not end it that comes just before it begins, is taken by another thread, or comes on
Windows.) A second Ctrl-C is Python's own `KeyboardInterrupt` and gives up at once, also a write that blocks.

A line is taken when it was read and is about to be submitted; each line taken comes through the lane exactly once.
From before it is read to after it is written a line holds one of `_window` places: input is read only as fast as output
is written, and memory stays flat. `map()` is not used: it waits for the next line of a slow pipe with finished results
in its hands.

Ends: the input has ended and all lines taken are written; a signal; a failure to write. After the last two the manager
is killed: what had finished is still written, the rest comes through the lane as cancelled.
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
from tasker.cli.job import CREATE_TIMEOUT, OURS, Failure, Job
from tasker.cli.loading import one_line
from tasker.cli.records import Record, UnreadableError, error_line
from tasker.errors import TaskManagerKilledError, TaskManagerShutdownError, TaskTimeoutError
from tasker.manager import TaskManager

__all__ = ["Run"]

DONE, SOME_FAILED, READER_GONE, SIGNALLED = 0, 1, 128 + 13, 128

GRACE = 5.0  # seconds for functions that run when they are cancelled
_LOOK = 0.2  # seconds after which a signal that did not wake the main thread is noticed
_LEAST_WINDOW = 64  # lines: enough to keep workers busy while results are written


_CANCELLED = (TaskManagerKilledError, TaskManagerShutdownError)


class Outcome(NamedTuple):
    """What became of a line taken: `result` is what to write, `error` why there is none; it has neither if an earlier
    run has done it. `number` counts them."""

    number: int
    record: Record
    result: bytes | None
    error: BaseException | None


class Run:
    """One run. The reader's and the main thread's fields are their own; `_taken` and `_ended` go from one to the other:
    the reader writes them before it puts what tells of them into the lane."""

    def __init__(self, job: Job, files: Files, display: Display) -> None:
        self._options = job.options
        self._task, self._work = job.task(), job.work
        self._files = files
        self._display = display
        self._lane: SimpleQueue[Outcome | None] = SimpleQueue()
        most = job.options.max_workers
        # a line's time runs while it waits, too: with a timeout none is taken that finds no worker
        self._window = threading.Semaphore(
            most if job.options.timeout else max(_LEAST_WINDOW, 4 * most)
        )
        self._manager = TaskManager(job.config(display))
        # the reader's
        self._taken = 0
        self._last_line = 0  # of the input, that was taken
        self._ended = False
        self._read_error: BaseException | None = None
        # the main thread's
        self._closing = False
        self._signal = 0
        self._written = self._done = self._failed = self._skipped = 0
        self._timed_out = False
        self._cancelled: list[int] = []  # numbers of lines
        self._early: dict[int, Outcome] = {}  # ordered: what waits for others to be written first
        self._started = monotonic()

    def run(self) -> int:
        """Take all lines, write all outcomes; return the exit status."""
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

    # -- the reader ------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            if self._options.timeout is not None:
                self._manager.wait_ready(
                    CREATE_TIMEOUT
                )  # no line is to pay for the first resources
            records = self._files.records()
            while self._has_room():
                self._take(*next(records))
        except StopIteration:
            pass
        except BaseException as error:  # the input failed
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

    # -- the main thread ---------------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while not self._signal and not (self._ended and self._written == self._taken):
            try:
                outcome = self._lane.get(timeout=_LOOK)
            except Empty:
                continue
            if outcome is not None:
                self._place(outcome)
            if self._lane.empty():  # else more is to be written now
                self._flush()
        self._flush()

    def _write_rest(self) -> None:
        with contextlib.suppress(Empty):
            while self._written + len(self._early) < self._taken:
                outcome = self._lane.get(timeout=GRACE)  # it is on its way: the manager is closed
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
            _told(error) if isinstance(error, (*OURS, Failure)) else last_line_of(error)
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
            if (
                killing or self._timed_out
            ):  # all lines may have ended, but not a function that outlasts its timeout
                self._manager.kill(GRACE)
            else:
                self._manager.stop()
        except KeyboardInterrupt:
            self._manager.kill(0.0)

    # -- signals -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """Handle the first signal; the one after it meets the handlers that were there before."""
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (
                    signal.SIG_IGN,
                    None,
                ):  # a shell's background jobs ignore Ctrl-C
                    before[number] = signal.getsignal(number)

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def handle(number: int, _: FrameType | None) -> None:
            self._signal = number
            self._lane.put(None)
            restore()  # last: from here on the next one may raise

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            restore()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _report(self, broken: OSError | KeyboardInterrupt | None) -> int:
        """Say how it ended; return the exit status."""
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


def _told(error: Exception) -> str:
    """What it says, and how often it was tried."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])
