"""Where tasker reports what it cannot raise, and a guard around a user's logger that may itself fail."""

from __future__ import annotations

import contextlib
import traceback
from typing import Protocol

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
    """The user's logger with its own exceptions swallowed: a broken logger may cost its messages and nothing else."""

    __slots__ = ("_logger",)

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def debug(self, msg: str, /, *args: object) -> None:
        with contextlib.suppress(BaseException):
            self._logger.debug(msg, *args)

    def info(self, msg: str, /, *args: object) -> None:
        with contextlib.suppress(BaseException):
            self._logger.info(msg, *args)

    def warning(self, msg: str, /, *args: object) -> None:
        with contextlib.suppress(BaseException):
            self._logger.warning(msg, *args)

    def error(self, msg: str, /, *args: object) -> None:
        with contextlib.suppress(BaseException):
            self._logger.error(msg, *args)


def traceback_of(error: BaseException) -> str:
    """An exception as it would be printed, or its type alone if it is unable to print itself. Never raises."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:
        return type(error).__name__
