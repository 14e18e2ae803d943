"""`Logger`: the methods that tasker calls of a logger."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Logger"]


class Logger(Protocol):
    """What tasker needs of a logger: four methods with %-style arguments.

    Any `logging.Logger` fits. The methods are called by workers' and callers' threads
    and by a helper of the burst thread, never under a lock of tasker's.

    A failure to create, destroy or call back is a warning or an error. Of many in a row
    the first is one, and now and then their number; those in between are debug. The
    ordinary life of a manager is info. No task makes a record of its own.

    A method that takes the keyword `exc_info` (or any keyword), as those of `logging`
    and structlog do, is given the exception that a record is about, as in
    `warning(msg, *args, exc_info=error)`. A handler that keeps the record keeps that
    exception, and all that its frames refer to. Another method gets the traceback as
    further lines of its message. An error that tasker has raised itself, such as the
    loss of a child process, is no more than its text in the message."""

    def debug(self, msg: str, /, *args: object) -> object:
        """Report what only helps to find a fault, such as each failure of an outage."""

    def info(self, msg: str, /, *args: object) -> object:
        """Report what is normal.

        That is: started, ready, hired, retired, resource replaced, stopping,
        stopped."""

    def warning(self, msg: str, /, *args: object) -> object:
        """Report a failure that tasker makes up for.

        For example, one to create or destroy a resource."""

    def error(self, msg: str, /, *args: object) -> object:
        """Report a failure that is seen nowhere else, such as a callback's."""
