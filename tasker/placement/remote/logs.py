"""Log records on their way from where a resource lives to the manager's process, whose loggers handle them.

Of an exception the record brings the traceback as text, which handlers print, and the exception itself as errors of
tasks come (see `pickling`): in `exc_info`, for tools that look at its type.
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

IDLE_RECORDS = 1000  # kept while nobody takes them; the oldest give way
_ERROR = "tasker_error"  # the field of a record in which its exception travels


def levels() -> dict[str, int]:
    """The levels of those loggers that have one."""
    loggers = {"root": logging.getLogger(), **logging.root.manager.loggerDict}
    return {
        name: each.level
        for name, each in loggers.items()
        if isinstance(each, logging.Logger) and each.level
    }


def forward_records(name: str, levels: Mapping[str, int], send: Callable[[bytes], object]) -> None:
    """Have `send` called with each record that is made here from now on and passes these levels. `name`: the
    worker's."""
    logging.getLogger().addHandler(_Forwarder(name, send))
    for logger, level in levels.items():
        logging.getLogger(logger).setLevel(level)


def handle_record(packed: Any) -> None:
    """Have it handled by the logger of its name, here. Never raises: what goes wrong costs this record."""
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
    except Exception:  # a handler's, or a filter's
        logging.getLogger("tasker").debug(
            "tasker: a log record from elsewhere was lost", exc_info=True
        )


class _Forwarder(logging.Handler):
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
                    with contextlib.suppress(Exception):  # its type raises when it is looked at
                        fields[_ERROR] = _packed_error(record.exc_info[1])
            self._send(_packed(fields))
        except Exception:
            self.handleError(record)


def _packed_error(error: BaseException) -> bytes:
    trace = error.__traceback__
    try:
        return pack_error(error)
    finally:
        error.__traceback__ = trace  # which has been taken off: it may be raised again


def _packed(fields: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(fields)
    except Exception:  # what the user added to the record
        return pickle.dumps({name: value for name, value in fields.items() if _is_picklable(value)})


def _is_picklable(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
