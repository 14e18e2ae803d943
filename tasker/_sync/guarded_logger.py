"""`GuardedLogger`: where tasker reports what it cannot raise.

It is a user's logger with a guard around it, as that may itself fail.

A record about an exception carries it as `exc_info`, for handlers that print it and for
tools that group by it. A logger whose methods take no such argument gets the traceback
in the text instead.

An error that tasker has raised itself has a text that says all, and frames that say
nothing: a child process was killed, say. Its record is that text alone.
"""

from __future__ import annotations

import logging
import os.path
import traceback
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal

from tasker._base.callables import CO_VARKEYWORDS, signature_of
from tasker._sync.guard import is_interrupt, pass_on
from tasker._sync.recurring import OUTAGE, Faults
from tasker.errors import TaskerError, is_a

if TYPE_CHECKING:
    from tasker.logger import Logger

__all__ = ["GuardedLogger", "Level", "last_line_of", "line_of", "ours", "traceback_of"]

Level = Literal["warning", "error"]
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# Where the code of tasker is.
_HERE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")


class GuardedLogger:
    """The user's logger, with its own exceptions swallowed.

    A broken logger costs its messages and nothing else: only an interrupt gets out.
    `error` is the exception that the record is about. Its type and text end the
    message.

    `fault` is for what may come again and again. It is logged at its level now and
    then, and else as debug."""

    def __init__(self, logger: Logger) -> None:
        self._logger: Logger | None = logger
        if not isinstance(logger, logging.Logger):
            # `_takes_exc_info` may need it as the interpreter ends, when it is too late
            # to import it.
            __import__("inspect")

        self.faults: Faults = Faults()

    def debug(self, msg: str, /, *args: object, error: BaseException | None = None) -> None:
        self._log("debug", msg, args, error)

    def info(self, msg: str, /, *args: object, error: BaseException | None = None) -> None:
        self._log("info", msg, args, error)

    def warning(self, msg: str, /, *args: object, error: BaseException | None = None) -> None:
        self._log("warning", msg, args, error)

    def error(self, msg: str, /, *args: object, error: BaseException | None = None) -> None:
        self._log("error", msg, args, error)

    def fault(
        self,
        level: Level,
        msg: str,
        /,
        *args: object,
        error: BaseException | None = None,
        own: bool = False,
        kind: str = "",
    ) -> None:
        """Log a fault at its level, if the last of its kind was long enough ago.

        Else it is debug. `kind=""` means that the message is the kind. `own`: tasker
        has raised the error itself, although its type is not tasker's."""
        more = self.faults.came(kind or msg, msg, args)
        if more is None:
            self._log("debug", msg, args, error, own=own)
        else:
            self._log(level, msg, args, error, more, own=own)

    def outage(
        self, msg: str, /, *args: object, error: BaseException | None = None, own: bool = False
    ) -> None:
        """Log that a worker lacks its resource, as `fault` does.

        All such faults of a manager at a time are one outage. Each is logged as debug
        as well, unless a warning has just said all. The warning is one line for a
        logger that takes no `exc_info`."""
        more = self.faults.came(OUTAGE, held=True)
        if more is not None:
            self._log("warning", msg, args, error, more, brief=True, own=own)
        if more is None or not (error is None or _says_all(error, own)):
            self._log("debug", msg, args, error, own=own)

    def drops(self, level: str) -> bool:
        """Whether a standard logger makes no record of this level.

        `False` where only the user's code could tell. `isEnabledFor` does not serve: it
        may wait for a lock that `logging` holds while a handler is made or closed."""
        logger = self._logger
        kind = type(logger)
        if not issubclass(kind, logging.Logger) or not isinstance(logger, logging.Logger):
            return logger is None

        for name in ("isEnabledFor", "getEffectiveLevel", level):
            if getattr(kind, name) is not getattr(logging.Logger, name):
                return False

        number = _LEVELS[level]
        return (
            logger.disabled
            or logger.manager.disable >= number
            or logger.getEffectiveLevel() > number
        )

    def leave_to_parent(self) -> None:
        """Log nothing from now on: in a forked child, the parent logs it."""
        self._logger = None

    def _log(
        self,
        level: str,
        msg: str,
        args: tuple[object, ...],
        error: BaseException | None,
        more: str = "",
        *,
        brief: bool = False,
        own: bool = False,
    ) -> None:
        if self.drops(level):
            return

        try:
            method: Callable[..., object] = getattr(self._logger, level)
            if error is None:
                method(f"{msg}%s" if more else msg, *args, *((more,) if more else ()))
                return

            line = line_of(error)
            if not line:
                method(f"{msg}: %s%s", *args, type(error).__name__, more)
            elif _says_all(error, own):
                method(f"{msg}: %s%s", *args, last_line_of(error), more)
            elif _takes_exc_info(method):
                method(f"{msg}: %s%s", *args, line, more, exc_info=error)
            elif brief:
                method(f"{msg}: %s%s", *args, last_line_of(error), more)
            else:
                method(f"{msg}: %s%s\n%s", *args, line, more, traceback_of(error))
        except BaseException as trouble:
            pass_on(trouble)


# The logger of the code that belongs to no manager.
ours: GuardedLogger = GuardedLogger(logging.getLogger("tasker"))


def _says_all(error: BaseException, own: bool) -> bool:
    """Whether the text of an error is all that a reader may want.

    That is one of tasker's own, which has no cause, and to which no frame of other code
    has led. Raises interrupts alone."""
    if not own and not is_a(error, TaskerError):
        return False

    try:
        trace = error.__traceback__
        while trace is not None:
            if not trace.tb_frame.f_code.co_filename.startswith(_HERE):
                return False
            trace = trace.tb_next

        return error.__cause__ is None and (error.__suppress_context__ or not error.__context__)
    except BaseException as trouble:
        if is_interrupt(trouble):
            raise
        return False


def _takes_exc_info(method: Callable[..., object]) -> bool:
    """Whether a method takes the keyword `exc_info`.

    It is looked at for each record about an exception. To remember the answer would
    keep the methods that a lazy logger makes anew."""
    function: Any = method
    if type(function) is MethodType:
        function = function.__func__
    if type(function) is FunctionType and not function.__dict__:
        code = function.__code__
        named = code.co_varnames[
            code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount
        ]
        return "exc_info" in named or code.co_flags & CO_VARKEYWORDS != 0

    try:
        parameters = signature_of(method).parameters
    except Exception:
        # Its signature cannot be read.
        return False

    given = parameters.get("exc_info")
    if given is not None:
        return given.kind in (given.KEYWORD_ONLY, given.POSITIONAL_OR_KEYWORD)
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def traceback_of(error: BaseException) -> str:
    """An exception as it would be printed; its type if it cannot print itself.

    Raises interrupts alone."""
    return _read(lambda: "".join(traceback.format_exception(error))) or type(error).__name__


def last_line_of(error: BaseException) -> str:
    """The end of a traceback: an exception's type and whole text, or its type alone.

    Raises interrupts alone."""
    return (
        _read(lambda: "".join(traceback.format_exception_only(error)).strip())
        or type(error).__name__
    )


def line_of(error: BaseException) -> str:
    """An exception's type and the first line of its text; empty if it cannot be read.

    Raises interrupts alone."""

    def line() -> str:
        kind = type(error)
        module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
        first, _, more = str(error).strip().partition("\n")

        # A handler would read the traceback as well.
        _ = error.__traceback__

        return f"{module}{kind.__qualname__}{f': {first}' if first else ''}{' ...' if more else ''}"

    return _read(line)


def _read(text: Callable[[], str]) -> str:
    try:
        return text()
    except BaseException as trouble:
        if is_interrupt(trouble):
            raise
        return ""
