"""Log records on their way from a resource's process to the manager's process.

The loggers there handle them. A record with an exception brings it in two forms: the
traceback as text, which handlers print, and the exception itself, packed like the error
of a task (see `pickling`). It comes out in `exc_info`, for tools that look at its type.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from tasker.placement.remote.pickling import error_from, pack_error

__all__ = ["IDLE_RECORDS", "forward_records", "handle_record", "levels"]

# How many records are kept while the manager takes none. The oldest give way. A guess.
IDLE_RECORDS = 1000
# The field of a record in which its exception travels.
_ERROR = "tasker_error"


def levels() -> dict[str, int]:
    """The levels of those loggers that have one."""
    loggers = {"root": logging.getLogger(), **logging.root.manager.loggerDict}
    return {
        name: each.level
        for name, each in loggers.items()
        if isinstance(each, logging.Logger) and each.level
    }


def forward_records(name: str, levels: Mapping[str, int], send: Callable[[bytes], object]) -> None:
    """From now on call `send` with each record made here that passes these levels.

    `name` is the name of the worker."""
    logging.getLogger().addHandler(_Forwarder(name, send))
    for logger, level in levels.items():
        logging.getLogger(logger).setLevel(level)


def handle_record(packed: Any) -> None:
    """Have the logger of the record's name handle it here.

    Never raises: an error costs the record, no more."""
    try:
        fields = pickle.loads(packed)
        packed_error = fields.pop(_ERROR, None)
        record = logging.makeLogRecord(fields)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            if packed_error is not None:
                error = error_from(packed_error)
                record.exc_info = type(error), error, error.__traceback__
            logger.handle(record)
    except Exception:
        # A handler or a filter has raised it.
        logging.getLogger("tasker").debug(
            "tasker: a log record from elsewhere was lost", exc_info=True
        )


class _Forwarder(logging.Handler):
    """Sends records. `logging.handlers.QueueHandler` does not serve.

    Its `prepare` writes the traceback into the message and drops the exception. With
    `prepare` and `enqueue` replaced nothing of it is left but this `try`, and the
    import of its module, with sockets, costs each child 3 ms."""

    def __init__(self, name: str, send: Callable[[bytes], object]) -> None:
        super().__init__()
        self._worker = name
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = dict(record.__dict__)
            fields.update(
                msg=record.getMessage(), args=None, exc_info=None, processName=self._worker
            )
            if record.exc_info:
                fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
                if record.exc_info[1] is not None:
                    # Its type may raise when it is looked at.
                    with contextlib.suppress(Exception):
                        fields[_ERROR] = _packed_error(record.exc_info[1])
            self._send(_packed(fields))
        except Exception:
            self.handleError(record)


def _packed_error(error: BaseException) -> bytes:
    trace = error.__traceback__
    try:
        return pack_error(error)
    finally:
        # To pack it takes the traceback off, and the error may be raised again.
        error.__traceback__ = trace


def _packed(fields: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(fields)
    except Exception:
        # The user has added something to the record that cannot be pickled.
        return pickle.dumps({name: value for name, value in fields.items() if _is_picklable(value)})


def _is_picklable(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False

    return True
