"""The guard around a user's logger: what that raises costs its message and nothing else."""

from __future__ import annotations

import concurrent.futures
import logging
import traceback

import pytest

from tasker.logger import GuardedLogger, traceback_of
from tasker.usercode import last_line_of
from tests.conftest import Log

LEVELS = ["debug", "info", "warning", "error"]


def test_messages_and_arguments_reach_the_logger_as_they_are():
    for level in LEVELS:
        log = Log()
        assert getattr(GuardedLogger(log), level)("%s of %d", "one", 2) is None
        assert log.lines == [(level, "one of 2")]


def test_a_standard_logger_fits(caplog):
    with caplog.at_level(logging.DEBUG, "test.guarded"):
        for level in LEVELS:
            getattr(GuardedLogger(logging.getLogger("test.guarded")), level)("%s of %d", "one", 2)
    assert [record.levelname.lower() for record in caplog.records] == LEVELS
    assert {record.getMessage() for record in caplog.records} == {"one of 2"}


@pytest.mark.parametrize("error", [ValueError("disk full"), SystemExit(1), KeyboardInterrupt(), StopIteration()])
def test_nothing_that_a_logger_raises_comes_through(error):
    class Broken:
        def __getattr__(self, name):
            def fail(*_):
                raise error

            return fail

    def use():
        for level in LEVELS:
            getattr(GuardedLogger(Broken()), level)("message %s", 1)

    with concurrent.futures.ThreadPoolExecutor(1) as another:
        another.submit(use).result()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_interrupt_that_comes_while_a_logger_is_called_comes_through(error, level):
    """In the main thread, the only one in which signal handlers run."""

    class Interrupted:
        def __getattr__(self, name):
            raise error

    with pytest.raises(type(error)):
        getattr(GuardedLogger(Interrupted()), level)("message")


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_interrupt_that_comes_while_an_exception_is_printed_comes_through(monkeypatch, error):
    def interrupted(*_):
        raise error

    for name in ("format_exception", "format_exception_only"):
        monkeypatch.setattr(traceback, name, interrupted)
    for text in (traceback_of, last_line_of):
        with pytest.raises(type(error)):
            text(ValueError())


def test_a_logger_that_lost_its_methods_or_cannot_format_comes_to_nothing():
    for level in LEVELS:
        getattr(GuardedLogger(object()), level)("message")
        getattr(GuardedLogger(Log()), level)("%d", "no number")
