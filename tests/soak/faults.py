"""The faults that the soak injects.

Some are faults of the user's functions, others befall the engine itself.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasker import TaskLifecycleTimestamps
from tasker._sync.parking import gil_enabled
from tests.soak.journal import Journal
from tests.soak.ledger import Job, Ledger, Resource

__all__ = [
    "ERRORS",
    "HOOK_ERRORS",
    "HOOK_ERRORS_IN_MAIN",
    "Burden",
    "Burdened",
    "Chaos",
    "Collector",
    "Hooks",
    "Listener",
    "Log",
    "fail",
    "steal_wake_up",
    "trip",
    "unreliable_threads",
]


class Sick(Exception):
    """The error that breaks a resource."""


class Unprintable(Sick):
    """An error that cannot even be shown, and refuses notes."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def add_note(self, note: str, /) -> None:
        raise RuntimeError("no notes")


class Fatal(BaseException):
    """A user's own error, which `except Exception` does not catch."""


class Tripped(BaseException):
    """An error that is injected into the engine; its log shows the name."""


class Undecided:
    """A verdict that is neither true nor false."""

    def __bool__(self) -> bool:
        raise RuntimeError("no verdict")


# The errors that tasks raise, with the job's number, by the name of the act.
ERRORS: dict[str, type[BaseException]] = {
    "raises": ValueError,
    "is sick": Sick,
    "is sick and unprintable": Unprintable,
    "raises SystemExit": SystemExit,
    "raises KeyboardInterrupt": KeyboardInterrupt,
    "raises GeneratorExit": GeneratorExit,
    "raises its own BaseException": Fatal,
    "raises MemoryError": MemoryError,
    "raises StopIteration": StopIteration,
}

# The longest block.
BLOCKED_S = 0.3

HOOK_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    Unprintable,
    SystemExit,
    KeyboardInterrupt,
    Fatal,
)
# In the main thread every other error is an interrupt, which is for the program: see
# `tasker._sync.guard`.
HOOK_ERRORS_IN_MAIN: tuple[type[BaseException], ...] = (OSError, Unprintable)


class Chaos:
    """The dice of one round.

    Every fault that strikes is noted. Children learn of it from files in `folder`.
    """

    def __init__(self, seed: str, folder: Path | None = None) -> None:
        # One for many threads, so chance decides which of them gets which number.
        self.rng = random.Random(seed)
        self._folder = folder
        self._calm = False
        self._outage_until = {"outage": 0.0, "late outage": 0.0}
        self._plague_at = 0.0
        self._struck: list[str] = []

    def calm_down(self) -> None:
        """End all faults."""
        self._calm = True
        if self._folder is not None:
            (self._folder / "calm").touch()

    def is_calm(self) -> bool:
        return self._calm

    def begin_outage(self, seconds: float, *, late: bool) -> None:
        """For so long no resource can be made, or each breaks at its first use."""
        kind = "late outage" if late else "outage"
        self._outage_until[kind] = time.monotonic() + seconds
        if self._folder is not None:
            (self._folder / kind).write_text(repr(self._outage_until[kind]))

    def is_out(self, kind: str = "outage") -> bool:
        return time.monotonic() < self._outage_until[kind]

    def begin_plague(self) -> None:
        """All resources that were made so far are dead."""
        self._plague_at = time.monotonic()
        if self._folder is not None:
            (self._folder / "plague").write_text(repr(self._plague_at))

    def plague_at(self) -> float:
        return self._plague_at

    def strikes(self, fault: str, chance: float) -> bool:
        """Whether a fault happens now."""
        if self.is_calm() or self.rng.random() >= chance:
            return False

        self.note(fault)
        return True

    def note(self, fault: str) -> None:
        self._struck.append(fault)

    def counts(self) -> Counter[str]:
        """The faults by kind."""
        return Counter(self._struck)

    def raise_in(self, hook: str, chance: float) -> None:
        """Perhaps raise something from a function of the user's."""
        if self.strikes(f"{hook} raises", chance):
            raise self.rng.choice(self._hook_errors())(hook)

    def _hook_errors(self) -> tuple[type[BaseException], ...]:
        in_main = threading.current_thread() is threading.main_thread()
        return HOOK_ERRORS_IN_MAIN if in_main else HOOK_ERRORS

    def delay(self, hook: str, chance: float) -> None:
        """Make a function of the user's slow, perhaps."""
        if self.strikes(f"{hook} is slow", chance):
            time.sleep(self.rng.random() * 0.01)

    def block(self, what: str, chance: float) -> None:
        """Let code of the user's block for a while, perhaps."""
        if self.strikes(f"{what} blocks", chance):
            time.sleep(self.rng.random() * BLOCKED_S)


class Hooks:
    """What a `Config` takes of the user's for a resource."""

    def __init__(self, chaos: Chaos, ledger: Ledger | Journal) -> None:
        self._chaos = chaos
        self._ledger = ledger

    def create(self) -> Resource:
        self._ledger.entered("on_create")
        if self._chaos.is_out() and self._chaos.strikes("on_create fails for a while", 1.0):
            raise ConnectionError("outage")

        self._chaos.delay("on_create", 0.05)
        self._chaos.raise_in("on_create", 0.1)

        return self._ledger.created()

    def destroy(self, resource: Resource) -> None:
        self._ledger.entered("on_destroy")
        self._chaos.delay("on_destroy", 0.05)
        self._ledger.destroyed(resource)
        self._chaos.raise_in("on_destroy", 0.1)

    def healthy(self, error: Exception) -> Any:
        self._ledger.entered("check_health")
        self._chaos.raise_in("check_health", 0.02)
        if self._chaos.strikes("check_health answers neither yes nor no", 0.05):
            return self._chaos.rng.choice([None, "", 0, [1], "yes", Undecided()])

        return not isinstance(error, Sick)

    def check(self, resource: Resource) -> object:
        self._interfere("on_check", resource)
        return not self._chaos.strikes("on_check returns False", 0.05)

    def reset(self, resource: Resource) -> None:
        self._interfere("on_reset", resource)

    def _interfere(self, hook: str, resource: Resource) -> None:
        self._ledger.borrow(resource, hook)

        try:
            self._chaos.delay(hook, 0.05)
            self._ledger.may_be_deaf()
            self._chaos.block(hook, 0.02)
            self._chaos.raise_in(hook, 0.05)
        finally:
            self._ledger.hand_back(resource, hook)


class Aborts:
    """An `on_abort`."""

    def __init__(self, chaos: Chaos, ledger: Ledger) -> None:
        self._chaos = chaos
        self._ledger = ledger

    def abort(self, resource: Resource) -> None:
        self._chaos.note("a call is aborted")
        self._ledger.entered("on_abort")
        # The worker, and what it runs. There is none if a caller of run_task uses it.
        runs = [
            (worker, worker.task)
            for worker in self._ledger.engine.crew.everyone()
            if worker.resource is resource
        ]

        try:
            self._chaos.delay("on_abort", 0.3)
            self._chaos.raise_in("on_abort", 0.1)
        finally:
            if resource.ends or any(worker.task is not task for worker, task in runs):
                self._ledger.broken("a resource was used or destroyed before on_abort returned")


class Log:
    """A logger that formats its messages, and blocks or raises now and then.

    Some messages of the engine tell of a fault of its own. They are violations.
    """

    def __init__(self, chaos: Chaos, ledger: Ledger) -> None:
        self._chaos = chaos
        self._ledger = ledger

    def debug(self, msg: str, /, *args: object) -> None:
        self._ledger.entered("the logger")
        self._chaos.block("the logger", 0.02)
        self._chaos.raise_in("the logger", 0.05)
        text = msg % args
        met_an_error = "the burst thread met" in text and not text.endswith("that is over")
        if "lost to an error" in text or (met_an_error and "Tripped" not in text):
            self._ledger.broken(text)

    info = warning = error = debug


class Listener(logging.Handler):
    """A handler for the logs of tasks in children. It raises now and then."""

    def __init__(self, chaos: Chaos, ledger: Ledger) -> None:
        super().__init__()
        self._chaos = chaos
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        self._ledger.heard.add(int(record.getMessage()))
        if not str(record.processName).startswith(f"{self._ledger.name}-"):
            self._ledger.broken(f"a log record came from {record.processName}")
        if self._chaos.strikes("a log handler raises", 0.05):
            raise OSError("the log is full")


class Collector:
    """A collector that counts, then blocks or raises now and then."""

    def __init__(self, chaos: Chaos, ledger: Ledger) -> None:
        self._chaos = chaos
        self._ledger = ledger
        self._told: list[str] = []

    def counts(self) -> Counter[str]:
        return Counter(self._told)

    def _tell(self, event: str) -> None:
        self._told.append(event)
        self._ledger.entered("the collector")
        self._chaos.block("the collector", 0.002)
        self._chaos.raise_in("the collector", 0.02)

    def record_arrival(self) -> None:
        self._tell("arrived")

    def record_completion(self, stamps: TaskLifecycleTimestamps) -> None:
        self._tell(
            "completed"
            if stamps.queued_at <= stamps.started_at <= stamps.finished_at
            else "back in time"
        )

    def record_failure(self, stamps: TaskLifecycleTimestamps) -> None:
        self._tell("failed" if stamps.queued_at <= stamps.finished_at else "back in time")

    def record_retry(self) -> None:
        self._tell("retried")

    def metrics(self) -> None:
        self._chaos.block("the collector", 0.002)
        if self._chaos.strikes("the collector raises", 0.02):
            raise OSError("no metrics")


class _Collecting(threading.local):
    """Of the calling thread."""

    now = False
    """Whether the garbage collector runs on it."""


_collecting = _Collecting()


def _note_collection(phase: str, _: dict[str, int]) -> None:
    _collecting.now = phase == "start"


gc.callbacks.append(_note_collection)


class Burden:
    """An object that a task carries along. Its destructor may block.

    In a child it is a plain number.
    """

    def __init__(self, chaos: Chaos, ledger: Ledger) -> None:
        self._chaos = chaos
        self._ledger = ledger

    def __del__(self) -> None:
        # The garbage collector runs on any thread. Without the GIL a thread at any
        # point may run a destructor for another thread that has dropped the object.
        if gil_enabled() and not _collecting.now:
            self._ledger.entered("a destructor")
        self._chaos.block("a destructor", 0.03)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ()


class Burdened(int):
    """A number with a burden."""

    burden: Burden


def fail(job: Job) -> None:
    """Raise the error that the job is to raise."""
    if job.act == "recurses for ever":
        fail(job)
    raise ERRORS[job.act](job.number)


def trip(chaos: Chaos, holder: Any, name: str) -> None:
    """Let a method of the engine meet an error now and then.

    Only the burst thread may call it.
    """
    method = getattr(holder, name)

    def tripping(*args: Any) -> Any:
        if chaos.strikes("the burst thread meets an error", 0.05):
            raise Tripped
        return method(*args)

    setattr(holder, name, tripping)


def steal_wake_up(chaos: Chaos, engine: Any) -> None:
    """Take the announcement of a waiting thread, and do not wake it.

    A thread that is interrupted before it wakes the other does the same.
    """
    room = engine.queue.room
    with contextlib.suppress(IndexError):
        engine.queue.idle.announced.pop()
        chaos.note("a wake-up gets lost")

    with contextlib.suppress(IndexError), room._lock:
        room._called[room._line[0]] = time.monotonic()
        room._line.popleft()
        chaos.note("one that waits for room is not told of its turn")


@contextlib.contextmanager
def unreliable_threads(chaos: Chaos, name: str) -> Iterator[None]:
    """Now and then no thread starts for the manager called `name`.

    That concerns its workers, and the thread for its callbacks.
    """
    start = threading.Thread.start

    def unreliable(thread: threading.Thread) -> None:
        if thread.name.startswith((f"{name}-worker", f"{name}-aside")) and chaos.strikes(
            "no thread can start", 0.1
        ):
            raise chaos.rng.choice([RuntimeError, MemoryError])("can't start new thread")
        start(thread)

    threading.Thread.start = unreliable  # type: ignore[method-assign, assignment]

    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
