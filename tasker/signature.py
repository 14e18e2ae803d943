"""How a task's function is to be called: with its resource, or with a context before it.

The rule: the context comes first only if the function *requires* more positional arguments than the resource and what
was given besides. A plain function is judged by its code object, which costs a fiftieth of `inspect.signature`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any

from tasker.errors import shown

__all__ = ["ASYNCHRONOUS", "check_callable", "is_asynchronous", "is_plain", "wants_context"]

_VARARGS = inspect.CO_VARARGS
ASYNCHRONOUS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_SPECIAL = _VARARGS | ASYNCHRONOUS


def wants_context(fn: Callable[..., Any], given: int) -> bool:
    """Whether `fn` is to be called with a context before its `given` arguments (the resource included).

    A callable whose signature cannot be read is called without. Raises `TypeError` for what cannot be called either
    way, and for coroutine functions."""
    if type(fn) is FunctionType:
        if is_plain(fn.__code__, given):
            return False  # by far the most frequent case
        return _by_code(fn, fn, given)
    # pyright takes any callable for a FunctionType
    if type(fn) is MethodType and type(fn.__func__) is FunctionType:  # pyright: ignore[reportFunctionMemberAccess]
        return _by_code(fn, fn.__func__, given, bound=1)  # pyright: ignore[reportFunctionMemberAccess]
    return _by_signature(fn, given)


def is_plain(code: CodeType, given: int) -> bool:
    """Whether a function of this code takes `given` arguments and no more, whatever its defaults are."""
    return code.co_argcount == given and not (code.co_flags & _SPECIAL or code.co_kwonlyargcount)


def is_asynchronous(fn: object) -> bool:
    """Whether a call of `fn` only makes a coroutine or an asynchronous generator, which somebody would have to run."""
    # of an instance its type's method counts; a class itself is called to make an instance
    called = (fn, getattr(type(fn), "__call__", None))  # noqa: B004
    try:
        return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in called)
    except TypeError:  # a mock that passes for a function and has no code
        return False


def check_callable(
    name: str,
    value: object,
    arguments: int,
    *,
    given: str | None = None,
    thorough: bool = False,
    error: type[Exception] = TypeError,
) -> None:
    """Raise `error` unless `value` can be called with so many arguments (in words: `given`) and then does its work.

    Of other callables than functions and methods only `thorough` reads the signature: that may run code of the user's
    (it compares). One that cannot be read is believed."""
    if type(value) is FunctionType and is_plain(value.__code__, arguments):
        return
    if type(value) is MethodType:
        function: object = value.__func__  # pyright: ignore[reportFunctionMemberAccess]
        if type(function) is FunctionType and is_plain(function.__code__, arguments + 1):
            return
    default = "1 argument" if arguments == 1 else f"{arguments or 'no'} arguments"
    wanted = f"{name} must be a function that can be called with {given or default}"
    if not callable(value):
        raise error(f"{wanted}, not {shown(value)}")
    if is_asynchronous(value):
        raise error(
            f"{wanted}, not the coroutine function {shown(value)}: it is called by threads; "
            f"wrap it as lambda *a: asyncio.run({getattr(value, '__name__', 'f')}(*a))"
        )
    if not thorough and not isinstance(value, (FunctionType, MethodType)):
        return
    try:
        signature = inspect.signature(value)
    except Exception:
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError as trouble:
        raise error(f"{wanted}, not {shown(value)}: {trouble}") from None


def _by_code(fn: Callable[..., Any], function: FunctionType, given: int, bound: int = 0) -> bool:
    code = function.__code__
    if code.co_flags & ASYNCHRONOUS:
        raise _coroutine_error(fn)
    if code.co_flags & _VARARGS and not function.__dict__.keys().isdisjoint(("__wrapped__", "__signature__")):
        return _by_signature(fn, given)  # a decorator's wrapper: what it wraps says what it takes
    most = code.co_argcount - bound
    least = max(0, most - len(function.__defaults__ or ()))
    keywords = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    if code.co_flags & _VARARGS:
        most = 1 << 30
    return _decide(fn, given, least, most, needs_keywords=keywords > 0)


def _by_signature(fn: Callable[..., Any], given: int) -> bool:
    if not callable(fn):
        raise TypeError(f"a task must be callable, not {shown(fn)}")
    if is_asynchronous(fn):
        raise _coroutine_error(fn)
    try:
        parameters = inspect.signature(fn).parameters.values()
    except Exception:  # among others what `fn` raises when it is compared
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in positional)
    most = 1 << 30 if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
    needs_keywords = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    return _decide(fn, given, least, most, needs_keywords=needs_keywords)


def _decide(fn: Callable[..., Any], given: int, least: int, most: int, *, needs_keywords: bool) -> bool:
    if not needs_keywords:
        if least <= given <= most:
            return False
        if least == given + 1:
            return True
    raise TypeError(
        f"task {shown(fn)} cannot be called with the resource and {given - 1} more argument{'s' * (given != 2)}, "
        "nor with a context before them"
    )


def _coroutine_error(fn: Callable[..., Any]) -> TypeError:
    return TypeError(
        f"task {shown(fn)} is a coroutine function, and workers are threads: pass lambda resource: "
        "asyncio.run(fn(resource)), or await manager.queue_task_async(a_plain_function)"
    )
