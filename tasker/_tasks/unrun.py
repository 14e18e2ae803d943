"""What looks like the result of work although the work is still to be done: a coroutine, a generator, a context manager
that nobody has entered. It would be done where the result goes, in another thread, on a resource that others use by
then, or that is destroyed.
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

# types of resources that anybody may return
_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, tuple, frozenset, type))


def _nothing() -> Any:
    return iter(())


_Manager: Any = type(contextmanager(_nothing)())


def _code_of(fn: Any) -> CodeType:
    return fn.__code__  # type: ignore[no-any-return]


# all that a decorator has made have the same code
_DECORATED = {
    _code_of(contextmanager(_nothing)): "@contextmanager function",
    _code_of(asynccontextmanager(_nothing)): "@asynccontextmanager function",
}


def suspects(resource: object) -> frozenset[type]:
    """The types of results that are looked at: one test for each result must do."""
    return UNRUN | ({type(resource)} - _PLAIN)


def maker_kind(fn: Any) -> str:
    """What kind of function it is, if it only makes what would have to be run or entered; empty if it does its work
    itself, as far as its code says."""
    while type(fn) in (partial, MethodType):
        fn = fn.func if type(fn) is partial else fn.__func__
    if type(fn) is not FunctionType:
        return ""
    code = _code_of(fn)
    return "generator function" if code.co_flags & CO_GENERATOR else _DECORATED.get(code, "")


@wrapper
def look_at(result: object, fn: Callable[..., Any], resource: object = None) -> str:
    """What `fn` should not have returned of a suspect type, in words; empty if there is nothing to say.

    Raises `TypeError` for a coroutine that nobody has begun to run, and closes it."""
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
        return ""  # somebody runs it

    raise TypeError(
        f"task {shown(fn)} returned a coroutine, which nobody runs, as workers are threads: have it return "
        "asyncio.run(...) of that, or await manager.queue_task_async(a_plain_function) in the coroutine"
    )


def refuse(hook: str, result: object) -> None:
    """Raise `TypeError` if a hook has returned a coroutine that nobody has begun to run, and close it. A generator is
    refused as well, but for `on_create`: it may be a resource."""
    kind = type(result)
    if kind not in UNRUN or (hook == "on_create" and kind is not _COROUTINE):
        return
    if kind is not _COROUTINE:
        raise TypeError(
            f"{hook} returned a generator, which nobody runs: have it do the work itself"
        )
    if _close_unbegun(result):
        raise TypeError(
            f"{hook} returned a coroutine, which nobody runs, as workers are threads: have it return asyncio.run(...) "
            "of that, or use a client that is not asynchronous"
        )


def _close_unbegun(coroutine: Any) -> bool:
    """Close a coroutine if nobody has begun to run it, or Python would warn that it was never awaited."""
    unbegun = not (coroutine.cr_running or coroutine.cr_suspended or coroutine.cr_frame is None)
    if unbegun:
        coroutine.close()
    return unbegun


def is_unentered(resource: Any) -> bool:
    """Whether it is a context manager, made by `@contextmanager`, that nobody has entered. Of others that is not known:
    many are used without."""
    if type(resource) is not _Manager:
        return False
    generator = resource.gen
    return not (generator.gi_running or generator.gi_suspended or generator.gi_frame is None)
