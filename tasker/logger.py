"""`Logger`: what tasker needs of a logger."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Logger"]


class Logger(Protocol):
    """What tasker needs of a logger: four methods with %-style arguments, so any `logging.Logger` fits.

    They are called from workers' and callers' threads and a helper of the burst thread, never under a lock of tasker's.
    Failures to create, destroy or call back are warnings or errors, the first of many and their number now and then;
    the ordinary life of a manager is info, the failures between those that are told are debug. None for each task.

    A method that takes the keyword `exc_info` (or any keyword), as those of `logging` and structlog do, is given the
    exception that a record is about: `warning(msg, *args, exc_info=error)`. A handler that keeps the record keeps that
    exception, and what its frames refer to. Another method gets the traceback as further lines of its message."""

    def debug(self, msg: str, /, *args: object) -> object:
        """Report what only helps to find a fault: each failure of an outage, say."""

    def info(self, msg: str, /, *args: object) -> object:
        """Report what is normal: started, ready, hired, retired, resource replaced, stopping, stopped."""

    def warning(self, msg: str, /, *args: object) -> object:
        """Report a failure that tasker makes good, such as one to create or destroy a resource."""

    def error(self, msg: str, /, *args: object) -> object:
        """Report a failure that nobody else would see, such as a callback's."""
