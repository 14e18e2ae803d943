"""What crosses between a manager and resources that live elsewhere, what cannot, and how that is said."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import traceback
from functools import partial

import pytest

from tasker import ConfigError, RemoteTaskError, background, with_value
from tests.support import remote_tasks
from tests.support.journal import Gate
from tests.support.placements import REMOTE
from tests.support.processes import children
from tests.support.waiting import PATIENCE


@pytest.fixture(params=REMOTE)
def placement(request):
    return request.param


def quotient(resource, number):
    return 1 // number


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Unpicklable(Exception):
    def __init__(self, text, lock):
        super().__init__(text, lock)


class BrokenThere(Exception):
    """Can be unpickled where it was made, but not here."""

    def __reduce__(self):
        return _broken_there, (os.getpid(),)


def _broken_there(process):
    if os.getpid() != process:
        raise LookupError("only there")
    return BrokenThere()


class Buffer(bytearray):
    """A large buffer that travels beside the pickle, as an array of numpy's does."""

    def __reduce_ex__(self, protocol):
        return Buffer, (pickle.PickleBuffer(self),)


class OnlyHere:
    """Can be pickled, but not unpickled elsewhere."""

    def __reduce__(self):
        return _only_in, (os.getpid(),)


def _only_in(process):
    if os.getpid() != process:
        raise LookupError("not here")
    return OnlyHere()


# -- what cannot be sent ---------------------------------------------------------------------------------------------


def test_an_argument_that_cannot_be_sent_is_refused_at_its_submission_and_named(remote):
    before = remote.metrics().total_tasks_arrived
    for method in (
        remote.submit,
        remote.queue_task,
        remote.run_task,
        remote.queue_task_with_priority_once_async,
    ):
        with pytest.raises(
            TypeError,
            match=r"argument 2 of a task cannot be sent to another process: <unlocked .*lock",
        ):
            method(remote_tasks.give, 1, threading.Lock(), 3)
    with pytest.raises(TypeError, match=r"argument 1 .*cannot be sent to another process"):
        list(remote.map(remote_tasks.give, [threading.Lock()]))
    assert remote.metrics().total_tasks_arrived == before


def test_a_function_that_cannot_be_sent_is_refused_at_its_submission_and_named(remote):
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the function of a task cannot be sent .*<lambda>.*lock"):
        remote.submit(lambda resource: lock)
    with pytest.raises(TypeError, match=r"the function of a task cannot be sent .*partial"):
        remote.submit(partial(remote_tasks.give, lock))
    with remote.executor() as executor, pytest.raises(TypeError, match="lock"):
        executor.submit(remote_tasks.plain_square, lock)


def test_what_is_changed_after_the_submission_is_not_seen(remote, tmp_path):
    held, numbers = Gate(tmp_path / "gate"), [1]
    future = remote.submit(remote_tasks.give, numbers, held)
    numbers.append(2)
    assert future.result(PATIENCE) == ([1], held)


def test_a_result_that_cannot_be_sent_is_an_error_that_names_it(remote):
    error = remote.submit(remote_tasks.make_lock).exception(PATIENCE)
    assert type(error) is RemoteTaskError
    assert "the task's result cannot be sent back: <unlocked _thread.lock" in str(error)
    assert remote.queue_task(remote_tasks.give, "alive") == "alive"
    results = remote.map(remote_tasks.lock_at_two, range(4), chunksize=4, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["int", "int", "RemoteTaskError", "int"]


def test_a_result_that_cannot_be_unpickled_here_is_an_error(remote):
    error = remote.submit(remote_tasks.call, MakesOnlyHere()).exception(PATIENCE)
    assert type(error) is RemoteTaskError
    assert "could not be unpickled here: LookupError('not here')" in str(error)
    assert remote.queue_task(remote_tasks.give, "alive") == "alive"


class MakesOnlyHere:
    def __call__(self):
        return OnlyHere()


def test_an_argument_that_cannot_be_unpickled_there_is_the_tasks_error(remote):
    error = remote.submit(remote_tasks.give, OnlyHere()).exception(PATIENCE)
    assert type(error) is RemoteTaskError
    assert "could not be unpickled" in str(error)
    assert "LookupError('not here')" in str(error)


def test_an_exception_that_cannot_be_printed_comes_back(remote):
    error = remote.submit(remote_tasks.raise_made, Unprintable).exception(PATIENCE)
    assert type(error) is Unprintable
    assert "in raise_made" in str(error.__cause__)
    assert remote.queue_task(remote_tasks.give, "alive") == "alive"


def test_an_exception_that_can_be_unpickled_there_but_not_here_is_told_of(remote):
    error = remote.submit(remote_tasks.raise_made, BrokenThere).exception(PATIENCE)
    assert type(error) is RemoteTaskError
    assert error.type_name == f"{__name__}.BrokenThere"
    assert "in raise_made" in error.traceback
    assert "only there" in error.__notes__[0]


def test_an_exception_that_holds_what_cannot_be_sent_is_told_of(remote):
    error = remote.submit(remote_tasks.raise_with_lock, Unpicklable).exception(PATIENCE)
    assert type(error) is RemoteTaskError
    assert error.type_name == f"{__name__}.Unpicklable"
    assert str(error).startswith(f"{__name__}.Unpicklable: ('text', <unlocked")


@pytest.mark.slow
def test_an_exceptions_notes_and_attributes_come_with_it(remote):
    error = remote.submit(remote_tasks.fail_with_note).exception(PATIENCE)
    assert error.__notes__ == ["a note"]
    assert error.seen == 7


def test_the_traceback_begins_with_the_users_function(remote):
    error = remote.submit(quotient, 0).exception(PATIENCE)
    assert type(error) is ZeroDivisionError
    lines = str(error.__cause__).strip().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in quotient")
    assert "in quotient" in "".join(traceback.format_exception(error))


def test_hooks_that_cannot_be_sent_are_refused_before_anything_is_started(placed_manager):
    before = children()
    lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"on_create cannot be sent to another process: .*lock"):
        placed_manager(on_create=lambda: lock)
    with pytest.raises(ConfigError, match=r"on_destroy cannot be sent to another process: .*lock"):
        placed_manager(on_destroy=lambda resource: lock)
    with pytest.raises(
        ConfigError, match=r"check_health cannot be sent to another process: .*lock"
    ):
        placed_manager(check_health=lambda error, resource: lock)
    assert children() == before


def test_without_cloudpickle_errors_name_the_extra(remote, placed_manager, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TypeError, match=r"the function of a task .*<lambda>") as caught:
        remote.submit(lambda resource: 1)
    notes = getattr(caught.value.__cause__, "__notes__", [])
    assert "tasker-pool[processes]" in "".join([str(caught.value), *notes])
    with pytest.raises(ConfigError, match=r"on_create .*<lambda>"):
        placed_manager(on_create=lambda: 1)
    assert remote.queue_task(remote_tasks.square, 6) == 36


@pytest.mark.slow
def test_values_of_the_managers_context_that_cannot_be_sent_stay_here(placed_manager):
    context = with_value(with_value(background(), "lock", threading.Lock()), "text", "sent")
    manager = placed_manager(ctx=context)
    assert manager.queue_task(remote_tasks.context_value, "lock") is None
    assert manager.queue_task(remote_tasks.context_value, "text") == "sent"


# -- large things ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16383, 16384, 16385, 65535, 65536, 65537, 10_000_000])
def test_bytes_of_any_size_cross_unharmed(remote, size):
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert remote.queue_task(remote_tasks.give, sent) == sent


@pytest.mark.parametrize("size", [65535, 65536, 10_000_000])
def test_buffers_cross_beside_the_pickle_unharmed(remote, size):
    sent = [Buffer(bytes([number]) * size) for number in range(3)]
    got = remote.queue_task(remote_tasks.give, sent)
    assert got == sent
    assert [type(each) for each in got] == [Buffer] * 3
    assert len(remote.queue_task(remote_tasks.give, [Buffer(b"x" * 70_000)] * 100)) == 100


# -- logging ---------------------------------------------------------------------------------------------------------


def test_log_records_arrive_before_the_result_with_the_workers_name(remote, caplog):
    with caplog.at_level(logging.WARNING):
        assert remote.queue_task(remote_tasks.log, "hello %s", "there") == "logged"
        records = [record for record in caplog.records if record.name == remote_tasks.__name__]
    assert [record.getMessage() for record in records] == ["hello there"]
    assert [record.levelname for record in records] == ["WARNING"]
    assert records[0].threadName.startswith("tasker-worker-")
    assert records[0].processName == records[0].threadName
    assert records[0].funcName == "log"


def test_a_logged_exception_arrives_with_its_traceback(remote, caplog):
    remote.queue_task(remote_tasks.log_exception)
    [record] = [record for record in caplog.records if record.name == remote_tasks.__name__]
    assert "ZeroDivisionError" in record.exc_text
    kind, error, _ = record.exc_info
    assert kind is type(error) is ZeroDivisionError
    assert "in log_exception" in str(error.__cause__)  # the traceback there
    assert record.number == 7
    assert not hasattr(record, "lock")


def test_a_logged_exception_is_raised_there_with_its_traceback_all_the_same(remote):
    with pytest.raises(ZeroDivisionError) as raised:
        remote.queue_task(remote_tasks.log_exception_and_raise)
    assert "in divide" in str(raised.value.__cause__)


def test_a_logged_exception_that_cannot_be_sent_arrives_by_its_name(remote, caplog):
    remote.queue_task(remote_tasks.log_what_cannot_be_sent)
    [record] = [record for record in caplog.records if record.name == remote_tasks.__name__]
    error = record.exc_info[1]
    assert isinstance(error, RemoteTaskError)
    assert error.type_name.endswith("CannotBeSent")
    assert "in log_what_cannot_be_sent" in record.exc_text


@pytest.mark.slow
def test_levels_of_loggers_are_those_of_the_parent(placed_manager, caplog):
    logger = logging.getLogger(remote_tasks.__name__)
    logger.setLevel(logging.ERROR)
    try:
        manager = placed_manager()
        assert not manager.queue_task(remote_tasks.is_enabled_for, logging.WARNING)
        manager.queue_task(remote_tasks.log, "not wanted")
        manager.queue_task(remote_tasks.log_error, "wanted")
    finally:
        logger.setLevel(logging.NOTSET)
    assert [
        record.getMessage() for record in caplog.records if record.name == remote_tasks.__name__
    ] == ["wanted"]


@pytest.mark.slow
def test_records_of_hooks_arrive(placed_manager, caplog):
    placed_manager(
        on_create=remote_tasks.log_and_create, on_destroy=remote_tasks.log_destroying
    ).stop()
    texts = [
        record.getMessage() for record in caplog.records if record.name == remote_tasks.__name__
    ]
    assert texts == ["creating", "destroying"]


def test_a_large_record_arrives(remote, caplog):
    remote.queue_task(remote_tasks.log, "%s", "x" * 5_000_000)
    assert [
        len(record.getMessage())
        for record in caplog.records
        if record.name == remote_tasks.__name__
    ] == [5_000_000]


def test_a_handler_that_raises_costs_its_record(remote, monkeypatch):
    class Raising(logging.Handler):
        def handle(self, record):
            raise RuntimeError("broken handler")

    handler = Raising()
    logging.getLogger(remote_tasks.__name__).addHandler(handler)
    try:
        assert remote.queue_task(remote_tasks.log, "lost") == "logged"
    finally:
        logging.getLogger(remote_tasks.__name__).removeHandler(handler)


# -- tasks that come from here ---------------------------------------------------------------------------------------


def test_classes_of_a_function_are_sent_by_value(remote):
    class Local(Exception):
        def __init__(self, code):
            super().__init__(code)

    error = remote.submit(remote_tasks.fail, Local(7)).exception(PATIENCE)
    assert error.args == (7,)
    assert type(error).__name__ == "Local"


def test_context_variables_that_cannot_be_sent_stay_behind(remote):
    token = remote_tasks.variable.set(threading.Lock())
    try:
        assert remote.queue_task(remote_tasks.see_variable) == "unset"
    finally:
        remote_tasks.variable.reset(token)
