"""Calls and their outcomes as bytes: what crosses between a manager and a place where a resource lives.

A call is packed when it is submitted, in the submitter's thread: what cannot be serialized is refused there, and what
is changed later is not seen (but for large buffers, which are not copied). Whatever plain pickle would send as a name
that only this program's `__main__` knows is sent by value, with cloudpickle: the other side does not import `__main__`.

An outcome is a result, or an error. An exception is pickled where it was raised if it survives being pickled and
unpickled; if not, its type's name, text and traceback are what `RemoteTaskError` says. The traceback there becomes its
`__cause__` here, so that it prints.

Both sides import this module, so it needs little.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FunctionType
from typing import Any

from tasker._sync.threads import leave_child
from tasker._tasks.wrapping import Progress, users_function, users_traceback, wrapper
from tasker.errors import RemoteTaskError, put_note, shown
from tasker.placement.remote import protocol

__all__ = [
    "Outcome",
    "Packed",
    "RemoteTraceback",
    "Verdict",
    "error_from",
    "opened",
    "outcome_of",
    "pack_call",
    "pack_error",
    "pack_reason",
    "pack_result",
    "pack_value",
    "unpack",
]

Buffers = list[Any]
Outcome = tuple[int, bytes, Buffers]  # RESULT or ERROR, and what goes with it
Verdict = (
    bool | bytes
)  # whether a resource is healthy after an error; or, as in an ERROR, what `check_health` raised

_MAIN = b"\x8c\x08__main__"  # as the name of a module it looks like this, as a text too
_APART = 65536  # bytes from which on a buffer travels beside the pickle and is not copied into it
_UNNAMED = pickle.dumps(("an exception that cannot even be named", "", "", None))
_UNTOLD = {healthy: pickle.dumps((_UNNAMED, healthy)) for healthy in (False, True)}
_INSTALL = "install cloudpickle (the extra: tasker-pool[processes])"


class RemoteTraceback(Exception):
    """The traceback of an error where it was raised: the `__cause__` of that error here."""

    def __init__(self, text: str, packed: bytes = b"") -> None:
        super().__init__(text)
        self.packed = packed  # the error, as it has come

    def __str__(self) -> str:
        return f"\n\n{self.args[0].rstrip()}\n"


class Packed:
    """A call, ready to be sent, as often as it takes."""

    __slots__ = ("__qualname__", "body", "buffers", "progress")

    def __init__(self, body: bytes, buffers: Buffers, progress: Progress | None, name: str) -> None:
        self.body: bytes = body
        self.buffers: Buffers = buffers
        self.progress: Progress | None = (
            progress  # where the results of a call of several steps are noted
        )
        self.__qualname__: str = name  # of the user's function: errors name a task by it


# -- values --------------------------------------------------------------------------------------------------------


class _NotFoundThereError(Exception):
    """Plain pickle would send a name that the other side does not know."""


class _ByReference(pickle.Pickler):
    """Plain pickle, but for what is defined in `__main__`."""

    def reducer_override(self, value: Any) -> Any:
        if (
            isinstance(value, (FunctionType, type))
            and getattr(value, "__module__", None) == "__main__"
        ):
            raise _NotFoundThereError
        return NotImplemented


def pack_value(value: object, *, apart: bool = True) -> tuple[bytes, Buffers]:
    """A value as bytes, and, `apart`, large buffers of it beside them. Raises whatever pickling raises."""
    buffers: Buffers = []

    def take_apart(buffer: pickle.PickleBuffer) -> bool:
        if not apart or buffer.raw().nbytes < _APART:
            return True  # into the pickle
        buffers.append(buffer.raw())
        return False

    try:
        body = pickle.dumps(value, 5, buffer_callback=take_apart)
        if body.rfind(_MAIN) >= 0:
            buffers.clear()
            file = io.BytesIO()
            _ByReference(file, 5, buffer_callback=take_apart).dump(value)
            body = file.getvalue()
        return body, buffers
    except Exception as error:
        try:
            cloudpickle: Any = import_module("cloudpickle")  # which has no types
        except ImportError:
            if isinstance(error, _NotFoundThereError):
                raise pickle.PicklingError(
                    f"it contains what is defined in __main__: {_INSTALL}"
                ) from None
            put_note(error, "for lambdas, closures and functions of __main__, ", _INSTALL)
            raise error from None
    buffers.clear()
    by_value: bytes = cloudpickle.dumps(value, 5, buffer_callback=take_apart)
    return by_value, buffers


def _apart(value: Any) -> Any:
    """Large `bytes` as a buffer, which comes out as `bytes` again: pickle would copy them on both sides."""
    return pickle.PickleBuffer(value) if type(value) is bytes and len(value) >= _APART else value


def unpack(body: Any, buffers: Sequence[Any] = ()) -> Any:
    """What was packed. Raises whatever unpickling raises."""
    return pickle.loads(body, buffers=buffers)


# -- calls ---------------------------------------------------------------------------------------------------------


def pack_call(
    fn: Callable[..., Any], args: tuple[Any, ...], wants_context: bool, variables: Any
) -> Packed:
    """A call of a task. Raises `TypeError` that names what cannot be serialized."""
    users = users_function(fn, args)
    name = str(getattr(users, "__qualname__", None) or type(users).__qualname__)
    try:
        body, buffers = pack_value(
            (fn, tuple([_apart(each) for each in args]), wants_context, variables)
        )
    except Exception as error:
        raise _refusal(users, args[1:] if users is not fn else args, error) from error
    last = args[-1] if args else None
    return Packed(body, buffers, last if isinstance(last, Progress) else None, name)


def _refusal(fn: Any, args: tuple[Any, ...], error: Exception) -> TypeError:
    named = [
        ("the function", fn),
        *((f"argument {number}", value) for number, value in enumerate(args, 1)),
    ]
    for what, value in named:
        try:
            pack_value(value)
        except Exception as trouble:
            return TypeError(
                f"{what} of a task cannot be sent to another process: {shown(value)}: {_text(trouble)}"
            )
    return TypeError(f"the task {shown(fn)} cannot be sent to another process: {_text(error)}")


# -- outcomes ------------------------------------------------------------------------------------------------------


def pack_error(error: BaseException) -> bytes:
    """An exception as bytes, whatever it is."""
    stripped = users_traceback(error.__traceback__)
    try:
        trace = "".join(traceback.format_exception(type(error), error, stripped))
    except BaseException:  # it is unable to print itself
        trace = "".join(traceback.format_tb(stripped)) + f"{type(error).__qualname__}\n"
    text = _text(error)
    whole: bytes | None
    try:
        pickle.dumps(
            text
        )  # what `str()` returns may be of a type that does not survive it; then it does not, either
        whole, _ = pack_value(error.with_traceback(None), apart=False)
        if type(unpack(whole)) is not type(error):
            whole = None
    except BaseException:
        whole = None
    return pickle.dumps((_plain(_type_name(error)), _plain(text), _plain(trace), whole))


def error_from(body: Any) -> BaseException:
    """The exception that was packed, with its remote traceback as the cause."""
    type_name, text, trace, whole = pickle.loads(body)
    error: BaseException = RemoteTaskError(
        f"{type_name}: {text}" if text else type_name, type_name, trace
    )
    if whole is not None:
        try:
            original: BaseException = pickle.loads(whole)
            original.__cause__ = RemoteTraceback(trace, bytes(body))  # which its type may refuse
            return original
        except BaseException as trouble:
            put_note(error, "it could not be unpickled here: ", _text(trouble))
    error.__cause__ = RemoteTraceback(trace, bytes(body))
    return error


def pack_reason(error: BaseException) -> bytes:
    """An error that has come, or was made here, to be sent back.

    One that has come goes as it came: to pack it anew takes its traceback away, which its user may see by now."""
    try:
        cause = error.__cause__
        return cause.packed if isinstance(cause, RemoteTraceback) else pack_error(error)
    except Exception:  # its type raises when it is looked at
        return _UNNAMED


def pack_result(value: object) -> tuple[bytes, Buffers]:
    """A result as bytes. Raises `RemoteTaskError` when it cannot be serialized."""
    try:
        return pack_value(_apart(value))
    except Exception as error:
        raise RemoteTaskError(
            f"the task's result cannot be sent back: {shown(value)}: {_text(error)}",
            _type_name(error),
        ) from error


def _healthy(error: BaseException) -> Verdict:
    return True


@wrapper
def outcome_of(
    fn: Callable[..., Any], *args: Any, judge: Callable[[BaseException], Verdict] = _healthy
) -> Outcome:
    """The outcome of a call, ready to be sent; that of an error has the verdict of `judge` with it. Raises nothing."""
    try:
        result = fn(*args)
        leave_child()
        return protocol.RESULT, *pack_result(result)
    except BaseException as error:
        leave_child(error)
        verdict: Verdict = False
        try:
            verdict = judge(error)  # before it is packed, which takes its traceback away
            return protocol.ERROR, pickle.dumps((pack_error(error), verdict)), []
        except BaseException:  # its type raises when it is looked at, or there is no memory
            return protocol.ERROR, _UNTOLD[verdict is True], []


def opened(kind: int, body: Any, buffers: Sequence[Any] = ()) -> tuple[BaseException | None, Any]:
    """An outcome that has come: an error and the verdict on it, or `None` and the result."""
    if kind == protocol.ERROR:
        packed, verdict = pickle.loads(body)
        return error_from(packed), verdict
    try:
        return None, unpack(body, buffers)
    except Exception as error:
        return RemoteTaskError(
            f"the task's result could not be unpickled here: {shown(error)}", _type_name(error)
        ), True


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _text(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except BaseException:
        return f"<{type(error).__name__} that cannot be printed>"


def _plain(text: str) -> str:
    """A text and nothing more, whatever type of text it is."""
    return str.__str__(text)
