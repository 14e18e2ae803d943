"""Results that only look like a result: the work is still to be done.

They are coroutines, generators, and context managers that were not entered. The work
would be done where the result goes: in another thread, on a resource that another task
uses by then, or that is destroyed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
)
from typing import Any

from tasker._base.callables import CO_GENERATOR
from tasker._tasks.wrapping import wrapper
from tasker.errors import shown

__all__ = ["UNRUN", "is_unentered", "look_at", "maker_kind", "refuse", "suspects"]

_COROUTINE: type = CoroutineType
UNRUN: frozenset[type] = frozenset((_COROUTINE, GeneratorType, AsyncGeneratorType))

# If a resource has one of these types, a task may return an object of the same type.
_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, tuple, frozenset, type))


def _nothing() -> Any:
    return iter(())


_Manager: Any = type(contextmanager(_nothing)())


def _code_of(fn: Any) -> CodeType:
    return fn.__code__  # type: ignore[no-any-return]


# All functions that one decorator has made have the same code.
_DECORATED = {
    _code_of(contextmanager(_nothing)): "@contextmanager function",
    _code_of(asynccontextmanager(_nothing)): "@asynccontextmanager function",
}


def suspects(resource: object) -> frozenset[type]:
    """The types of results that are looked at.

    It is one set, so that a worker needs only one test for each result."""
    return UNRUN | ({type(resource)} - _PLAIN)


def maker_kind(fn: Any) -> str:
    """The kind of a function that only makes what would have to be run or entered.

    "" if it does its work itself, as far as its code tells."""
    while type(fn) in (partial, MethodType):
        fn = fn.func if type(fn) is partial else fn.__func__
    if type(fn) is not FunctionType:
        return ""

    code = _code_of(fn)
    return "generator function" if code.co_flags & CO_GENERATOR else _DECORATED.get(code, "")


@wrapper
def look_at(result: object, fn: Callable[..., Any], resource: object = None) -> str:
    """What `fn` should not have returned, in words; "" if its result is all right.

    The result is of a suspect type. Raises `TypeError` for a coroutine that was not
    begun, and closes it."""
    kind = type(result)
    if kind is not _COROUTINE:
        return (
            "a generator"
            if kind in UNRUN
            else "its resource"
            if result is resource and kind not in _PLAIN
            else ""
        )
    if not _close_unbegun(result):
        # It is being run already.
        return ""

    raise TypeError(
        f"task {shown(fn)} returned a coroutine, which nobody runs, as workers are threads: "
        "have it return asyncio.run(...) of that, or await "
        "manager.queue_task_async(a_plain_function) in the coroutine"
    )


def refuse(hook: str, result: object) -> None:
    """Raise `TypeError` if a hook returned a coroutine that was not begun; close it.

    A generator is refused as well, except from `on_create`: it may be a resource."""
    kind = type(result)
    if kind not in UNRUN or (hook == "on_create" and kind is not _COROUTINE):
        return

    if kind is not _COROUTINE:
        raise TypeError(
            f"{hook} returned a generator, which nobody runs: have it do the work itself"
        )
    if _close_unbegun(result):
        raise TypeError(
            f"{hook} returned a coroutine, which nobody runs, as workers are threads: have it "
            "return asyncio.run(...) of that, or use a client that is not asynchronous"
        )


def _close_unbegun(coroutine: Any) -> bool:
    """Close a coroutine that was not begun; returns whether it was so.

    If it stayed open, Python would warn that it was never awaited."""
    unbegun = not (coroutine.cr_running or coroutine.cr_suspended or coroutine.cr_frame is None)
    if unbegun:
        coroutine.close()
    return unbegun


def is_unentered(resource: Any) -> bool:
    """Whether it is a context manager of `@contextmanager` that was not entered.

    Other context managers do not count: many are used without being entered."""
    if type(resource) is not _Manager:
        return False

    generator = resource.gen
    return not (generator.gi_running or generator.gi_suspended or generator.gi_frame is None)
