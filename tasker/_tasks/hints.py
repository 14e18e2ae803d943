"""Explanations where a function may not be called as its author expects.

They are a note on an error, and a warning at the submission.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, TracebackType
from typing import Any

from tasker._base.callables import CO_VARARGS, CO_VARKEYWORDS
from tasker._base.identity import ByIdentity
from tasker._tasks.signature import TO_ASK, asking_parameter, behind, wants_context
from tasker._tasks.wrapping import WRAPPERS
from tasker.errors import put_note

__all__ = ["explain_call", "warn_of_own_parameters"]

# Found in the text of Python's `TypeError` for a call with wrong arguments.
_OF_A_CALL = r"\b(takes|missing|expected|too many|got multiple values for|unexpected)\b.*\bargument"

# The folder of the package. A frame whose file is elsewhere is the user's.
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")

# The names of parameters that were warned of. The key is their function's code.
_warned: ByIdentity[set[str]] = ByIdentity()


def explain_call(
    error: TypeError,
    traceback: TracebackType | None,
    fn: Callable[..., Any] | None,
    args: tuple[Any, ...] | None,
    wanted: bool,
) -> None:
    """Note on the error of a failed call whether a context was passed, and why.

    Adds nothing if the function has begun. `traceback` begins with the first frame of
    the function, if there is one. `args` are the arguments after the resource.
    `wanted`: whether a context was passed before the resource."""
    # The task was settled meanwhile, or this is no function of the user's.
    if fn is None or args is None or getattr(fn, "__code__", None) in WRAPPERS:
        return

    # The user's objects are looked into, and may raise.
    with contextlib.suppress(Exception):
        if re.search(_OF_A_CALL, str(error)) and not _has_begun(traceback):
            more = f"{len(args)} more argument{'s' * (len(args) != 1)}"
            if wanted:
                name = asking_parameter(fn, len(args) + 1)
                why = (
                    f"a context, the resource and {more}: a parameter called {name!r} asks for "
                    "the context"
                )
            else:
                why = (
                    f"the resource and {more}, and without a context. Its first parameter "
                    f"would have to ask for one: {TO_ASK}. A wrapper that begins with *args "
                    "is asked for what functools.wraps says that it wraps"
                )
            put_note(error, "the task was called ", f"with {why}")


def _has_begun(traceback: TracebackType | None) -> bool:
    """Whether the function has begun.

    Wrappers that take any arguments and hand them on do not count."""
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_flags & CO_VARARGS:
            return True
        traceback = traceback.tb_next

    return False


def warn_of_own_parameters(fn: Callable[..., Any], given: int, options: Iterable[str]) -> None:
    """Warn of a function's parameters that have the names of these options.

    Its author may expect that the function gets the options, and it does not. There is
    one warning for each function. There is none where the parameter is given by
    position or by a partial, as that leaves no doubt. `given` counts the arguments, the
    resource included. Where warnings are errors this raises, each time."""
    for name in options:
        for function in _functions(fn):
            if name in function.__code__.co_varnames and _leaves_open(fn, function, name, given):
                _warn(function, name)


def _functions(fn: object) -> Iterator[FunctionType]:
    """The function that a call of `fn` runs, and those to which it hands names on."""
    while fn is not None:
        function, _, _ = behind(fn)
        if type(function) is not FunctionType:
            return

        yield function
        hands_on = function.__code__.co_flags & CO_VARKEYWORDS
        own: dict[str, Any] = {**function.__dict__, **(getattr(fn, "__dict__", None) or {})}
        fn = own.get("__wrapped__") if hands_on else None


def _leaves_open(fn: Any, function: FunctionType, name: str, given: int) -> bool:
    """Whether a parameter of the function gets nothing by position or by name."""
    _, filled, named = behind(fn)
    try:
        taken = filled + given + wants_context(fn, given)
    except TypeError:
        # The submission raises it, too.
        return False

    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if name not in names or name in named:
        return False

    place = names.index(name)
    return place >= code.co_argcount or place >= max(taken, code.co_posonlyargcount)


def _warn(function: FunctionType, name: str) -> None:
    warned = _warned.get(function.__code__)
    if warned is not None and name in warned:
        return

    # The level of the first frame that is not of this package: the user's line.
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back

    called = function.__qualname__
    warnings.warn(
        f"{name}= is an option of tasker's here: {called}() does not get it, and has a parameter "
        f"{name!r} of its own. To give it that, pass functools.partial({function.__name__}, "
        f"{name}=...) or a lambda; that also says that {name}= is meant for tasker",
        UserWarning,
        stacklevel=level,
    )

    if warned is None:
        _warned.put(function.__code__, {name})
    else:
        warned.add(name)
