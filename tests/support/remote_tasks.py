"""Tasks and hooks that run where the resources live: at the top level of a module, where a child finds them."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasker import Context, Slot, current_context, current_resource, current_slot
from tests.support.errors import Faithful, Lossy, Sick
from tests.support.journal import Gate, Journal, Resource
from tests.support.waiting import PATIENCE, eventually

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


def is_healthy(error: Exception) -> bool:
    return not isinstance(error, Sick)


def is_whole(error: Exception, resource: Resource) -> bool:
    """Looks at the resource, and at an error that cannot be sent."""
    resource.journal.note("asked", os.getpid() == resource.pid, type(error).__name__)
    return not resource.broken


def cannot_judge(error: Exception, resource: Resource) -> bool:
    raise OSError(f"cannot ask {resource.key}")


# -- hooks ---------------------------------------------------------------------------------------------------------


def nothing() -> None:
    """Creates a resource that is None."""


def forget(resource: object) -> None:
    pass


def cannot_create() -> None:
    raise OSError("down for ever")


def check(resource: Resource) -> bool:
    resource.journal.note("checked", resource.key, os.getpid() == resource.pid)
    return not resource.broken


def check_lossily(resource: Resource) -> None:
    if not check(resource):
        raise Lossy(7, "gone")


def check_fatally(resource: Resource) -> None:
    if not check(resource):
        os._exit(7)


def check_behind(gate: Gate, resource: Resource) -> bool:
    """The first one stands before a gate."""
    if check(resource) and not gate.is_reached():
        gate.pass_through()
    return True


def check_behind_if_broken(gate: Gate, resource: Resource) -> bool:
    if not check(resource):
        gate.pass_through()
    return True


def reset(resource: Resource) -> None:
    resource.journal.note("reset", resource.key, resource.uses, os.getpid() == resource.pid)
    resource.uses = 0


def reset_lossily(resource: Resource) -> None:
    reset(resource)
    if resource.broken:
        raise Lossy(7, "cannot roll back")


def reset_fatally(resource: Resource) -> None:
    reset(resource)
    if resource.broken:
        os._exit(7)


def reset_behind(gate: Gate, resource: Resource) -> None:
    reset(resource)
    if resource.broken:
        gate.pass_through()


@contextmanager
def entered(journal: Journal) -> Iterator[str]:
    journal.note("entered", os.getpid())
    yield "resource"
    journal.note("left", os.getpid())


@contextmanager
def entered_in_slot(journal: Journal, slot: Slot) -> Iterator[str]:
    journal.note("entered", slot.index)
    yield "resource"
    journal.note("left", current_slot().index)


def create_in_slot(journal: Journal, slot: Slot) -> Resource:
    assert current_slot() == slot
    journal.note("slot", slot.index, slot.generation, slot.reason, slot.worker)
    return journal.create()


def destroy_in_slot(resource: Resource) -> None:
    resource.journal.note("freed", current_slot().index)
    resource.journal.destroy(resource)


def create_two_at_once(gate: Gate, journal: Journal) -> Resource:
    """The next ones when the gate is open."""
    if len(journal.of("created")) >= 2:
        gate.pass_through()
    return journal.create()


def note_slot(word: str, resource: Resource) -> None:
    resource.journal.note(word, current_slot().index)


def abort_in_slot(gate: Gate, resource: Resource) -> None:
    note_slot("aborted", resource)
    gate.open()


def judge_in_slot(error: Exception, resource: Resource) -> bool:
    resource.journal.note("judged", current_slot().index)
    return False


@dataclass(frozen=True)
class Aborter:
    """An `on_abort` that lets those pass who stand before a gate."""

    gate: Gate
    journal: Journal

    def __call__(self, resource: Resource) -> None:
        here = os.getpid() == resource.pid
        self.journal.note("aborted", resource.key, here, threading.get_ident() != resource.thread)
        self.gate.open()


def abort_by_breaking(resource: Resource) -> None:
    """Ends what stands `stand_until_broken`."""
    resource.broken = True


def abort_fatally(resource: Resource) -> None:
    os._exit(7)


@dataclass(frozen=True)
class RaisingAborter(Aborter):
    def __call__(self, resource: Resource) -> None:
        super().__call__(resource)
        raise OSError("cannot abort")


# -- tasks ---------------------------------------------------------------------------------------------------------


def key(resource: Resource) -> str:
    return resource.key


def is_with_a_resource() -> bool:
    resource = current_resource()
    return isinstance(resource, Resource) and resource.pid == os.getpid()


def is_current(resource: object) -> bool:
    return current_resource() is resource


def spoil(resource: Resource) -> str:
    """Breaks its resource, and does not say so."""
    resource.broken = True
    return resource.key


def slot_of(resource: object, *items: object) -> Slot:
    return current_slot()


def slot_and_call(resource: object, function: Callable[[], Any]) -> tuple[Slot, Any]:
    return current_slot(), function()


def index_of_slot() -> int:
    return current_slot().index


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


def fail_if_bad(resource: Resource) -> None:
    if resource.broken:
        raise ValueError("bad")
    time.sleep(0.002)  # so that the bad one gets tasks as well


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


def stand_until_broken(resource: Resource) -> None:
    """Deaf; ends when its resource is broken, and breaks down."""
    resource.journal.note("stands", resource.key)
    while not resource.broken:
        time.sleep(0.002)
    raise Sick


def cancel_and_stand_until_broken(context: Context, resource: Resource) -> None:
    context.cancel()
    stand_until_broken(resource)


def cancel_and_pass_deaf(context: Context, resource: object, gate: Gate) -> str:
    context.cancel()
    gate.pass_through()
    return "passed"


def until_cancelled(context: Context, resource: Resource, gate: Gate, journal: Journal) -> None:
    """Listens, and notes how its context ended."""
    gate.reach()
    context.wait(PATIENCE)
    journal.note(
        "ended", context.cancelled(), type(context.err()).__name__, type(context.cause()).__name__
    )


def looks_stopping(context: Context, resource: object, gate: Gate) -> tuple[bool, bool]:
    before = context.stopping()
    gate.reach()
    eventually(context.stopping, "the manager to stop")
    return before, context.cancelled()


def look_at_context(context: Context, resource: object) -> tuple[bool, object, object, bool]:
    return context is current_context(), context.err(), context.remaining(), context.stopping()


def remaining(resource: object) -> float | None:
    return current_context().remaining()


def context_value(context: Context, resource: object, key: object) -> object:
    return context.value(key)


def call_on_done(context: Context, resource: Resource, gate: Gate) -> None:
    context.on_done(
        lambda: resource.journal.note("told", threading.current_thread() is threading.main_thread())
    )
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


def environment_at_start(resource: object) -> dict[str, str]:
    """The environment with which this process was started."""
    begun = Path("/proc/self/environ").read_text().split("\0")
    return dict(each.split("=", 1) for each in begun if each)
