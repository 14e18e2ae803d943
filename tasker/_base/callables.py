"""What is known of a callable without calling it.

That is how many arguments it takes, and whether a call does the work or only makes an
object that would have to be run.

A plain function is judged by its code object, which costs a fiftieth of
`inspect.signature`. `inspect` is imported where it is needed. Its import takes half as
long as that of tasker, and few programs need it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from tasker.errors import shown

if TYPE_CHECKING:
    from inspect import Signature

__all__ = [
    "ASYNC_GENERATOR",
    "COROUTINE",
    "CO_GENERATOR",
    "CO_VARARGS",
    "CO_VARKEYWORDS",
    "DEFERRED",
    "DEFERS_ANNOTATIONS",
    "GENERATOR",
    "MARK",
    "PLACEHOLDER",
    "check_callable",
    "deferred_kind",
    "has_placeholder",
    "is_plain",
    "kind_of_code",
    "plainly_takes",
    "signature_of",
]

# Flags of code, as `inspect` has them.
CO_VARARGS = 0x04
CO_VARKEYWORDS = 0x08
CO_GENERATOR = 0x20
_CO_COROUTINE = 0x80
_CO_ASYNC_GENERATOR = 0x200

DEFERRED = _CO_COROUTINE | _CO_ASYNC_GENERATOR | CO_GENERATOR
"""The flags of code that a call does not run: it only makes an object."""

COROUTINE = "a coroutine function"
GENERATOR = "a generator function"
ASYNC_GENERATOR = "an asynchronous generator function"

MARK = "_is_coroutine_marker"
"""The attribute that `inspect.markcoroutinefunction` sets."""

_SPECIAL = CO_VARARGS | DEFERRED

DEFERS_ANNOTATIONS = sys.version_info >= (3, 14)
"""Whether annotations are evaluated only when they are asked for."""

PLACEHOLDER: Any = getattr(functools, "Placeholder", None)
"""Stands in a partial for an argument that is yet to come. From Python 3.14 on."""


def is_plain(code: CodeType, given: int) -> bool:
    """Whether a function of this code takes `given` arguments and no more.

    Its defaults do not count."""
    return code.co_argcount == given and not (code.co_flags & _SPECIAL or code.co_kwonlyargcount)


def plainly_takes(fn: object, given: int) -> bool:
    """Whether `fn` is a plain function that takes so many arguments and no more.

    A method or a partial of one counts, too."""
    function, filled, more = _behind(fn)
    return (
        not more and type(function) is FunctionType and is_plain(function.__code__, filled + given)
    )


def _behind(fn: object) -> tuple[Any, int, bool]:
    """The function that a method or a partial calls, and what they give to it.

    That is the number of arguments before those of the caller, and whether there are
    others than these."""
    inner: Any = fn
    filled, more = 0, False
    while type(inner) in (MethodType, partial):
        if hasattr(inner, "__func__"):
            inner, filled = inner.__func__, filled + 1
        else:
            more = more or bool(inner.keywords) or has_placeholder(inner)
            inner, filled = inner.func, filled + len(inner.args)

    return inner, filled, more


def has_placeholder(fn: partial[Any]) -> bool:
    """Whether an argument between those of a partial is yet to come."""
    return PLACEHOLDER is not None and any(each is PLACEHOLDER for each in fn.args)


def kind_of_code(code: CodeType) -> str:
    """The kind of function whose call only makes an object.

    In words with their article; empty if a call runs the code."""
    flags = code.co_flags
    if flags & _CO_COROUTINE:
        return COROUTINE
    if flags & _CO_ASYNC_GENERATOR:
        return ASYNC_GENERATOR
    return GENERATOR if flags & CO_GENERATOR else ""


def deferred_kind(fn: object) -> str:
    """The kind of `fn` if a call of it only makes an object that would have to be run.

    In the words of `kind_of_code`; empty if a call does the work."""
    inner, _, _ = _behind(fn)
    if type(inner) is FunctionType and MARK not in inner.__dict__:
        return kind_of_code(inner.__code__)

    if type(inner) in (BuiltinFunctionType, type):
        return ""

    import inspect

    # Of an instance the method of its type counts. A class is itself called.
    called = (fn, getattr(type(fn), "__call__", None))  # noqa: B004
    try:
        if any(map(inspect.iscoroutinefunction, called)):
            return COROUTINE
        if any(map(inspect.isasyncgenfunction, called)):
            return ASYNC_GENERATOR
        return GENERATOR if any(map(inspect.isgeneratorfunction, called)) else ""
    except TypeError:
        # A mock that passes for a function and has no code.
        return ""


def check_callable(
    name: str,
    value: object,
    arguments: int,
    *,
    given: str | None = None,
    or_none: bool = False,
    thorough: bool = False,
    error: type[Exception] = TypeError,
) -> None:
    """Raise `error` unless a call of `value` with so many arguments does its work.

    `given` tells the arguments in words. With `or_none` the error says that `None` is
    allowed; the caller has looked for that. The signature of a callable that is no
    function or method is read only if `thorough`, as that may run code of the user's
    (it compares). One whose signature cannot be read is believed."""
    if plainly_takes(value, arguments):
        return

    default = "1 argument" if arguments == 1 else f"{arguments or 'no'} arguments"
    allowed = "None or a function" if or_none else "a function"
    wanted = f"{name} must be {allowed} that can be called with {given or default}"
    if not callable(value):
        raise error(f"{wanted}, not {shown(value)}")

    kind = deferred_kind(value)
    if kind == GENERATOR:
        raise error(
            f"{wanted}, not the generator function {shown(value)}: "
            "a call of it runs nothing of its body"
        )
    if kind:
        raise error(
            f"{wanted}, not the coroutine function {shown(value)}: it is called by threads; "
            f"wrap it as lambda *a: asyncio.run({getattr(value, '__name__', 'f')}(*a))"
        )

    if not thorough and not isinstance(value, (FunctionType, MethodType)):
        return

    try:
        signature = signature_of(value)
    except Exception:
        return

    try:
        signature.bind(*[None] * arguments)
    except TypeError as trouble:
        raise error(f"{wanted}, not {shown(value)}: {trouble}") from None


def signature_of(fn: Callable[..., Any], *, follow_wrapped: bool = True) -> Signature:
    """As `inspect.signature`, without the annotations of Python functions.

    They are left out from CPython 3.14 on, where it would evaluate them. They are code
    of the user's, and raise `NameError` for a name that is imported for type checkers
    alone."""
    import inspect

    return inspect.signature(
        _bare(fn, follow_wrapped) if DEFERS_ANNOTATIONS else fn, follow_wrapped=follow_wrapped
    )


def _bare(fn: Any, follow_wrapped: bool) -> Any:
    """The same callable without annotations.

    That is possible as far as a call of it is known to run a function written in
    Python."""
    kind: type[object] = type(fn)  # pyright: ignore[reportUnknownVariableType]
    if kind is partial:
        return partial(_bare(fn.func, follow_wrapped), *fn.args, **fn.keywords)

    if kind is MethodType:
        return MethodType(_bare(fn.__func__, follow_wrapped), fn.__self__)

    if kind is not FunctionType:
        called = kind.__dict__.get("__call__")
        own = getattr(fn, "__dict__", ())
        if type(called) is not FunctionType or "__signature__" in own or "__wrapped__" in own:
            return fn

        return MethodType(_bare(called, follow_wrapped), fn)

    if "__signature__" in fn.__dict__:
        return fn
    if follow_wrapped and "__wrapped__" in fn.__dict__:
        return _bare(fn.__wrapped__, follow_wrapped)

    bare = FunctionType(fn.__code__, {}, fn.__name__, fn.__defaults__, fn.__closure__)
    bare.__kwdefaults__ = fn.__kwdefaults__

    return bare
