"""Log records on their way from where a resource lives to the manager's process, whose loggers handle them."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["IDLE_RECORDS", "forward_records", "handle_record", "levels"]

IDLE_RECORDS = 1000  # kept while nobody takes them; the oldest give way


def levels() -> dict[str, int]:
    """The levels of those loggers that have one."""
    loggers = {"root": logging.getLogger(), **logging.root.manager.loggerDict}
    return {name: each.level for name, each in loggers.items() if isinstance(each, logging.Logger) and each.level}


def forward_records(name: str, levels: Mapping[str, int], send: Callable[[bytes], object]) -> None:
    """Have `send` called with each record that is made here from now on and passes these levels. `name`: the
    worker's."""
    logging.getLogger().addHandler(_Forwarder(name, send))
    for logger, level in levels.items():
        logging.getLogger(logger).setLevel(level)


def handle_record(packed: Any) -> None:
    """Have it handled by the logger of its name, here. Never raises: what goes wrong costs this record."""
    try:
        record = logging.makeLogRecord(pickle.loads(packed))
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # a handler's, or a filter's
        logging.getLogger("tasker").debug("tasker: a log record from elsewhere was lost", exc_info=True)


class _Forwarder(logging.Handler):
    def __init__(self, name: str, send: Callable[[bytes], object]) -> None:
        super().__init__()
        self._worker = name
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = dict(record.__dict__)
            fields.update(msg=record.getMessage(), args=None, exc_info=None, processName=self._worker)
            if record.exc_info:
                fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            self._send(_packed(fields))
        except Exception:
            self.handleError(record)


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
