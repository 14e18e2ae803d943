"""Calls and their outcomes as bytes.

A call is packed at its submission, in the submitter's thread. A call that cannot be
serialized is refused there. Later changes to its arguments are not seen, except in
large buffers, which are not copied. Plain pickle sends a function or class by its name.
If that is a name in this program's `__main__`, which the other side does not import,
cloudpickle sends the definition itself.

An outcome is a result or an error. An exception is pickled where it was raised, if it
survives pickling and unpickling. If not, a `RemoteTaskError` takes its place, with the
name of its type, its text and its traceback. The remote traceback becomes the
`__cause__` of the error here, so that it prints.

Both sides import this module, so it imports little.
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
# RESULT or ERROR, and the body and buffers of the message.
Outcome = tuple[int, bytes, Buffers]
# Whether a resource is healthy after an error. If `check_health` raised, the body of an
# ERROR with what it raised.
Verdict = bool | bytes

# How the name of the module looks in a pickle. A text looks the same.
_MAIN = b"\x8c\x08__main__"
# A buffer of this size travels beside the pickle, and is not copied into it. A guess:
# for a smaller one the copy costs less than another part of the message.
_APART_BYTES = 65536
_UNNAMED = pickle.dumps(("an exception that cannot even be named", "", "", None))
_UNTOLD = {healthy: pickle.dumps((_UNNAMED, healthy)) for healthy in (False, True)}
_INSTALL = "install cloudpickle (the extra: tasker-pool[processes])"


class RemoteTraceback(Exception):
    """The traceback of an error on the other side: its `__cause__` here."""

    def __init__(self, text: str, packed: bytes = b"") -> None:
        super().__init__(text)
        # The error as it came.
        self.packed = packed

    def __str__(self) -> str:
        return f"\n\n{self.args[0].rstrip()}\n"


class Packed:
    """A call, ready to be sent, once for each attempt."""

    __slots__ = ("__qualname__", "body", "buffers", "progress")

    def __init__(self, body: bytes, buffers: Buffers, progress: Progress | None, name: str) -> None:
        self.body: bytes = body
        self.buffers: Buffers = buffers
        # Where the results of steps are noted, if the call has several.
        self.progress: Progress | None = progress
        # Of the user's function: errors name a task by it.
        self.__qualname__: str = name


# -- values ----------------------------------------------------------------------------


class _NotFoundThereError(Exception):
    """Plain pickle would send a name that the other side does not know."""


class _ByReference(pickle.Pickler):
    """Plain pickle that refuses what is defined in `__main__`."""

    def reducer_override(self, value: Any) -> Any:
        if (
            isinstance(value, (FunctionType, type))
            and getattr(value, "__module__", None) == "__main__"
        ):
            raise _NotFoundThereError
        return NotImplemented


def pack_value(value: object, *, apart: bool = True) -> tuple[bytes, Buffers]:
    """A value as bytes, and, if `apart`, its large buffers beside them.

    Raises whatever pickling raises."""
    buffers: Buffers = []

    def take_apart(buffer: pickle.PickleBuffer) -> bool:
        # `True` has it copied into the pickle.
        if not apart or buffer.raw().nbytes < _APART_BYTES:
            return True

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
            # It has no types.
            cloudpickle: Any = import_module("cloudpickle")
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
    """Large `bytes` as a buffer, which comes out as `bytes` again.

    Pickle would copy them on both sides."""
    if type(value) is bytes and len(value) >= _APART_BYTES:
        return pickle.PickleBuffer(value)
    return value


def unpack(body: Any, buffers: Sequence[Any] = ()) -> Any:
    """The value that was packed. Raises whatever unpickling raises."""
    return pickle.loads(body, buffers=buffers)


# -- calls -----------------------------------------------------------------------------


def pack_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    wants_context: bool,
    variables: Any,
    values: Sequence[bytes] = (),
) -> Packed:
    """Pack the call of a task, with the packed values of its parent.

    Raises a `TypeError` that names what has no pickle."""
    users = users_function(fn, args)
    name = str(getattr(users, "__qualname__", None) or type(users).__qualname__)
    try:
        body, buffers = pack_value(
            (fn, tuple([_apart(each) for each in args]), wants_context, variables, values)
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
                f"{what} of a task cannot be sent to another process: "
                f"{shown(value)}: {_text(trouble)}"
            )
    return TypeError(f"the task {shown(fn)} cannot be sent to another process: {_text(error)}")


# -- outcomes --------------------------------------------------------------------------


def pack_error(error: BaseException) -> bytes:
    """An exception as bytes, whatever it is."""
    stripped = users_traceback(error.__traceback__)
    try:
        trace = "".join(traceback.format_exception(type(error), error, stripped))
    except BaseException:
        # It is unable to print itself.
        trace = "".join(traceback.format_tb(stripped)) + f"{type(error).__qualname__}\n"
    text = _text(error)

    whole: bytes | None
    try:
        # `str()` may return a type of its own that cannot be pickled. Then the error
        # cannot be, either.
        pickle.dumps(text)
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
            # Its type may refuse this.
            original.__cause__ = RemoteTraceback(trace, bytes(body))
            return original
        except BaseException as trouble:
            put_note(error, "it could not be unpickled here: ", _text(trouble))

    error.__cause__ = RemoteTraceback(trace, bytes(body))
    return error


def pack_reason(error: BaseException) -> bytes:
    """Pack an error that came from the other side, or was made here, to send it there.

    One that came is sent as it came. To pack it anew would take its traceback away, and
    the user may already hold the error."""
    try:
        cause = error.__cause__
        return cause.packed if isinstance(cause, RemoteTraceback) else pack_error(error)
    except Exception:
        # Its type raises when it is looked at.
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
    """The outcome of a call, ready to be sent. Raises nothing.

    An error has the verdict of `judge` on it."""
    try:
        result = fn(*args)
        leave_child()
        return protocol.RESULT, *pack_result(result)
    except BaseException as error:
        leave_child(error)
        verdict: Verdict = False
        try:
            # First, as to pack the error takes its traceback away.
            verdict = judge(error)
            return protocol.ERROR, pickle.dumps((pack_error(error), verdict)), []
        except BaseException:
            # Its type raises when it is looked at, or there is no memory.
            return protocol.ERROR, _UNTOLD[verdict is True], []


def opened(kind: int, body: Any, buffers: Sequence[Any] = ()) -> tuple[BaseException | None, Any]:
    """Unpack an outcome: an error and the verdict on it, or `None` and the result."""
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
