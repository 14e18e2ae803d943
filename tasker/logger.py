"""Where tasker reports what it cannot raise, and a guard around a user's logger that may itself fail."""

from __future__ import annotations

import traceback
from typing import Any, Protocol

from tasker.guard import is_interrupt, pass_on

__all__ = ["GuardedLogger", "Logger", "traceback_of"]


class Logger(Protocol):
    """What tasker needs of a logger: four methods with %-style arguments, so any `logging.Logger` fits.

    They are called from worker threads, the burst thread and callers' threads, never under a lock of tasker's.
    Failures to create, destroy or call back are warnings or errors; everything else is debug or info."""

    def debug(self, msg: str, /, *args: object) -> object:
        """Report what only helps to find a fault."""

    def info(self, msg: str, /, *args: object) -> object:
        """Report what is normal."""

    def warning(self, msg: str, /, *args: object) -> object:
        """Report a failure that tasker makes good, such as one to create or destroy a resource."""

    def error(self, msg: str, /, *args: object) -> object:
        """Report a failure that nobody else would see, such as a callback's."""


class GuardedLogger:
    """The user's logger with its own exceptions swallowed: a broken logger may cost its messages and nothing else.

    Only an interrupt gets out."""

    __slots__ = ("_logger",)

    def __init__(self, logger: Logger) -> None:
        self._logger: Logger | None = logger

    def debug(self, msg: str, /, *args: object) -> None:
        self._log("debug", msg, args)

    def info(self, msg: str, /, *args: object) -> None:
        self._log("info", msg, args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._log("warning", msg, args)

    def error(self, msg: str, /, *args: object) -> None:
        self._log("error", msg, args)

    def leave_to_parent(self) -> None:
        """In a forked child: what is logged here is for the parent to say."""
        self._logger = None

    def _log(self, level: str, msg: str, args: tuple[Any, ...]) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, level)(msg, *args)
        except BaseException as error:
            pass_on(error)


def traceback_of(error: BaseException) -> str:
    """An exception as it would be printed, or its type if it is unable to print itself. Raises interrupts alone."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as trouble:
        if is_interrupt(trouble):
            raise
        return type(error).__name__
