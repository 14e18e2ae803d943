"""What runs where the resources live: hooks, tasks and errors at the top level of a module, where a child finds them.

Processes tell each other through files: a `Journal` of lines, each written at once, and a `Gate` to wait at.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasker import Context, current_context, current_resource

PATIENCE = 50.0  # seconds after which a wait has failed; nothing that passes waits that long

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@dataclass(frozen=True)
class Journal:
    """A file to which any process adds lines."""

    path: Path

    def note(self, *words: object) -> None:
        with self.path.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def of(self, verb: str) -> list[str]:
        """What is noted under a word."""
        return [line.removeprefix(f"{verb} ") for line in self.lines() if line.startswith(f"{verb} ")]

    # -- hooks -----------------------------------------------------------------------------------------------------

    def create(self) -> Resource:
        resource = Resource(self)
        self.note("created", resource.key)
        return resource

    def destroy(self, resource: Resource) -> None:
        assert resource.pid == os.getpid(), "destroyed somewhere else"
        self.note("destroyed", resource.key)

    def destroy_badly(self, resource: Resource) -> None:
        self.destroy(resource)
        raise OSError("will not close")

    def create_at_second(self) -> Resource:
        self.note("tried", os.getpid())
        if len(self.of("tried")) == 1:
            raise OSError("down")
        return self.create()


@dataclass(frozen=True)
class Gate:
    """Closed until `open()`, for any process; `reach()` says that somebody stands before it."""

    path: Path

    @property
    def _reached(self) -> Path:
        return self.path.with_suffix(".reached")

    def open(self) -> None:
        self.path.touch()

    def is_open(self) -> bool:
        return self.path.exists()

    def reach(self) -> None:
        self._reached.write_text(str(os.getpid()))

    def is_reached(self) -> bool:
        return self._reached.exists()

    def await_reached(self) -> int:
        """Wait until somebody stands before it; his process."""
        until(lambda: self.is_reached() and self._reached.read_text(), f"somebody before {self.path.name}")
        return int(self._reached.read_text())

    def pass_through(self) -> None:
        """Wait until it is open, for ever if need be, whatever else happens: deaf."""
        self.reach()
        while not self.is_open():
            time.sleep(0.002)

    # -- hooks -----------------------------------------------------------------------------------------------------

    def create(self) -> Gate:
        self.pass_through()
        return self

    def destroy(self, resource: object) -> None:
        self.pass_through()

    def judge(self, error: Exception, resource: object) -> bool:
        self.pass_through()
        return True


@dataclass(frozen=True)
class Session:
    """A context manager that notes what its `__exit__` is given, and raises that again."""

    journal: Journal

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self.journal.note("exited", kind and kind.__name__, error)
        if error is not None:
            raise error


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what nothing signals."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.002)


class Resource:
    """Knows where it was made."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.key = uuid.uuid4().hex
        self.pid = os.getpid()
        self.thread = threading.get_ident()
        self.uses = 0
        self.broken = False


class Sick(Exception):
    """The error that breaks a resource in these tests."""


def is_healthy(error: Exception) -> bool:
    return not isinstance(error, Sick)


def is_whole(error: Exception, resource: Resource) -> bool:
    """Looks at the resource, and at an error that cannot be sent."""
    resource.journal.note("asked", os.getpid() == resource.pid, type(error).__name__)
    return not resource.broken


def cannot_judge(error: Exception, resource: Resource) -> bool:
    raise OSError(f"cannot ask {resource.key}")


class Faithful(Exception):
    """An error of two arguments that survives pickling."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Lossy(Exception):
    """An error of two arguments that does not: its `args` are not what its constructor wants."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


# -- hooks ---------------------------------------------------------------------------------------------------------


def nothing() -> None:
    """Creates a resource that is None."""


def forget(resource: object) -> None:
    pass


def cannot_create() -> None:
    raise OSError("down for ever")


@contextmanager
def entered(journal: Journal) -> Iterator[str]:
    journal.note("entered", os.getpid())
    yield "resource"
    journal.note("left", os.getpid())


# -- tasks ---------------------------------------------------------------------------------------------------------


def key(resource: Resource) -> str:
    return resource.key


def is_with_a_resource() -> bool:
    resource = current_resource()
    return isinstance(resource, Resource) and resource.pid == os.getpid()


def is_current(resource: object) -> bool:
    return current_resource() is resource


def process_of(resource: object) -> int:
    return os.getpid()


def give(resource: object, *values: Any) -> Any:
    return values[0] if len(values) == 1 else values


def add_up(resource: object, first: int, second: int) -> int:
    return first + second


@dataclass
class Adder:
    second: int

    def add(self, resource: object, first: int) -> int:
        return first + self.second

    __call__ = add


def square(resource: object, number: int) -> int:
    return number * number


def square_unless_seven(resource: object, number: int) -> int:
    if number == 7:
        raise Faithful(number, "seven")
    return number * number


def fail(resource: object, error: BaseException) -> None:
    raise error


def fail_lossily(resource: object) -> None:
    raise Lossy(7, "seven")


def break_at_first(resource: Resource, broken: int) -> str:
    """Breaks so many resources with an error that cannot be sent."""
    resource.journal.note("attempt", resource.key)
    resource.broken = len(resource.journal.of("attempt")) <= broken
    if resource.broken:
        raise Lossy(7, "seven")
    return resource.key


def break_at_item(resource: Resource, item: int, *, journal: Journal) -> int:
    """Breaks its resource at the first visit of item 3."""
    journal.note("item", item)
    resource.broken = item == 3 and journal.of("item").count("3") == 1
    if resource.broken:
        raise Lossy(item, "three")
    return item


def fail_with_a_cause(resource: object) -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("then") from error


def note(resource: Resource, word: object) -> None:
    resource.journal.note("ran", word)


def count_uses(resource: Resource) -> int:
    resource.uses += 1
    return resource.uses


def sick_at_first(resource: Resource, sick: int) -> tuple[str, int]:
    """Breaks so many resources, then returns the last one's key and what it took."""
    resource.journal.note("attempt", resource.key)
    attempts = len(resource.journal.of("attempt"))
    if attempts <= sick:
        raise Sick(f"attempt {attempts}")
    return resource.key, attempts


def hold(context: Context, resource: object, gate: Gate) -> str:
    """Stands before a gate until it opens or the context ends; says how that was."""
    gate.reach()
    deadline = time.monotonic() + PATIENCE
    while not gate.is_open() and time.monotonic() < deadline:
        if context.wait(0.005):
            return type(context.err()).__name__
    return "opened"


def pass_deaf(resource: object, gate: Gate) -> str:
    gate.pass_through()
    return "passed"


def until_cancelled(context: Context, resource: Resource, gate: Gate, journal: Journal) -> None:
    """Listens, and notes how its context ended."""
    gate.reach()
    context.wait(PATIENCE)
    journal.note("ended", context.cancelled(), type(context.err()).__name__, type(context.cause()).__name__)


def looks_stopping(context: Context, resource: object, gate: Gate) -> tuple[bool, bool]:
    before = context.stopping()
    gate.reach()
    until(context.stopping, "the manager to stop")
    return before, context.cancelled()


def look_at_context(context: Context, resource: object) -> tuple[bool, object, object, bool]:
    return context is current_context(), context.err(), context.remaining(), context.stopping()


def remaining(resource: object) -> float | None:
    return current_context().remaining()


def context_value(context: Context, resource: object, key: object) -> object:
    return context.value(key)


def call_on_done(context: Context, resource: Resource, gate: Gate) -> None:
    context.on_done(lambda: resource.journal.note("told", threading.current_thread() is threading.main_thread()))
    gate.reach()
    context.wait(PATIENCE)


def see_variable(resource: object) -> str:
    seen = variable.get("unset")
    variable.set("by a task")
    return seen


def plain_square(number: int) -> int:
    return number * number


def plain_add(first: int, *, second: int) -> int:
    return first + second


def sick_at_item(resource: Resource, item: int, *, journal: Journal) -> int:
    """Breaks its resource at the first visit of item 3."""
    journal.note("item", item)
    if item == 3 and journal.of("item").count("3") == 1:
        raise Sick
    return item


def hold_and_be_sick(context: Context, resource: object, gate: Gate) -> None:
    gate.reach()
    context.wait(PATIENCE)
    raise Sick


def create_behind(gate: Gate, journal: Journal) -> Resource:
    gate.pass_through()
    return journal.create()


# -- what crosses ----------------------------------------------------------------------------------------------------


def make_lock(resource: object) -> Any:
    return threading.Lock()


def lock_at_two(resource: object, number: int) -> Any:
    return threading.Lock() if number == 2 else number


def call(resource: object, function: Callable[[], Any]) -> Any:
    return function()


async def fetch(resource: object) -> int:
    return 7


def fetch_later(resource: object) -> Any:
    return fetch(resource)


async def aclose(resource: object) -> None:
    pass


def close_later(resource: object) -> Any:
    return aclose(resource)


def connect_later() -> Any:
    return fetch(None)


def fetch_at_two(resource: object, number: int) -> Any:
    return fetch(resource) if number == 2 else number


@contextmanager
def entered_by_nobody() -> Iterator[str]:
    yield "a session"


def create_unentered() -> Any:
    return entered_by_nobody()


def call_nothing(resource: object) -> None:
    pass


def raise_made(resource: object, make: Callable[[], BaseException]) -> None:
    raise make()


def raise_with_lock(resource: object, kind: type[Exception]) -> None:
    raise kind("text", threading.Lock())


def fail_with_note(resource: object) -> None:
    error = ValueError("noted")
    error.add_note("a note")
    error.seen = 7  # type: ignore[attr-defined]
    raise error


logger = logging.getLogger(__name__)


def log(resource: object, *message: Any) -> str:
    logger.warning(*message)
    return "logged"


def is_enabled_for(resource: object, level: int) -> bool:
    return logger.isEnabledFor(level)


def log_error(resource: object, message: str) -> None:
    logger.error(message)


def log_exception(resource: object) -> None:
    try:
        divmod(1, 0)
    except ZeroDivisionError:
        logger.exception("divided", extra={"lock": threading.Lock(), "number": 7})


def divide(number: int) -> int:
    return 1 // number


def log_exception_and_raise(resource: object) -> None:
    try:
        divide(0)
    except ZeroDivisionError:
        logger.exception("divided")
        raise


class CannotBeSent(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock())


def log_what_cannot_be_sent(resource: object) -> None:
    try:
        raise CannotBeSent
    except CannotBeSent:
        logger.exception("not to be sent")


def log_and_create() -> None:
    logger.warning("creating")


def log_destroying(resource: object) -> None:
    logger.warning("destroying")
