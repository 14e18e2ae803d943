"""The guard around a user's logger: what that raises costs its message and nothing else."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import threading
import traceback
import weakref

import pytest

import tasker._pool.housekeeper
from tasker import TaskerError, background, with_cancel, with_timeout
from tasker._sync.guarded_logger import GuardedLogger, last_line_of, line_of, traceback_of
from tests.support.recording import Log
from tests.support.waiting import PATIENCE, eventually

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


@pytest.mark.parametrize(
    "error", [ValueError("disk full"), SystemExit(1), KeyboardInterrupt(), StopIteration()]
)
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

    class Interrupting(Exception):
        __str__ = interrupted

    with pytest.raises(type(error)):
        line_of(Interrupting())


def test_a_logger_that_lost_its_methods_or_cannot_format_comes_to_nothing():
    for level in LEVELS:
        getattr(GuardedLogger(object()), level)("message")
        getattr(GuardedLogger(Log()), level)("%d", "no number")


# -- records about an exception --------------------------------------------------------------------------------------


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


class Keeping:
    """A logger that keeps how it was called."""

    def __init__(self):
        self.calls = []


class WithKeyword(Keeping):
    def warning(self, msg, *args, exc_info=None):
        self.calls.append((msg % args, exc_info))


class WithAnyKeyword(Keeping):
    def warning(self, msg, *args, **more):
        self.calls.append((msg % args, more["exc_info"]))


class WithoutKeyword(Keeping):
    def warning(self, msg, *args):
        self.calls.append((msg % args, None))


class WithoutSignature(Keeping):
    @property
    def warning(self):
        def warning(msg, *args):
            self.calls.append((msg % args, None))

        warning.__signature__ = "not one"
        return warning


class WithAPositional(Keeping):
    def warning(self, msg, exc_info="", /, *args):
        self.calls.append((msg % (exc_info, *args), None))


@pytest.mark.parametrize("kind", [WithKeyword, WithAnyKeyword])
def test_a_logger_that_takes_exc_info_gets_the_exception_and_a_message_of_one_line(kind):
    logger, error = kind(), raised(ValueError("disk full\nand more"))
    GuardedLogger(logger).warning("%s: on_destroy raised", "main", error=error)
    assert logger.calls == [("main: on_destroy raised: ValueError: disk full ...", error)]


@pytest.mark.parametrize("kind", [WithoutKeyword, WithoutSignature, WithAPositional])
def test_a_logger_that_takes_no_exc_info_gets_the_traceback_as_text(kind):
    logger, error = kind(), raised(ValueError("disk full"))
    GuardedLogger(logger).warning("%s: on_destroy raised", "main", error=error)
    ((text, _),) = logger.calls
    first, _, rest = text.partition("\n")
    assert first == "main: on_destroy raised: ValueError: disk full"
    assert rest == traceback_of(error)


def raised_by_tasker(cause=None):
    try:
        with_timeout(background(), 0).raise_if_done()
    except TaskerError as error:
        error.__cause__ = cause
        # As tasker's own loops catch it.
        error.__traceback__ = error.__traceback__.tb_next
        return error


@pytest.mark.parametrize("kind", [WithKeyword, WithoutKeyword])
def test_an_error_of_taskers_own_is_a_line_and_nothing_more(kind):
    logger = kind()
    error = raised_by_tasker()
    assert error.__traceback__ is not None
    GuardedLogger(logger).warning("lost", error=error)
    assert logger.calls == [(f"lost: tasker.errors.DeadlineExceededError: {error}", None)]


@pytest.mark.parametrize(
    "error", [raised_by_tasker(ValueError("why")), raised(TaskerError("of the user's code"))]
)
def test_an_error_of_taskers_own_with_a_cause_or_frames_of_the_users_has_its_traceback(error):
    logger = WithKeyword()
    GuardedLogger(logger).warning("lost", error=error)
    [(_, told)] = logger.calls
    assert told is error


def test_an_error_that_tasker_has_raised_of_another_type_is_a_line_as_well():
    logger = WithKeyword()
    logged = GuardedLogger(logger)
    for own in (True, False):
        logged.fault("warning", f"lost, {own}", error=OSError("gone"), own=own)
    assert [told is None for _, told in logger.calls] == [True, False]


def test_an_outage_whose_warning_says_all_is_not_told_again_as_debug(log):
    logger = GuardedLogger(log)
    logger.outage("trying again", error=raised_by_tasker())
    logger.outage("trying again", error=raised_by_tasker())
    assert [level for level, _ in log.lines] == ["warning", "debug"]


def test_an_outage_is_a_line_for_a_logger_that_takes_no_exc_info_and_its_traceback_is_told_as_debug():
    for kind in (WithKeyword, WithoutKeyword):
        logger, details, error = kind(), kind(), raised(ValueError("disk full"))
        logger.debug = details.warning
        GuardedLogger(logger).outage("trying again", error=error)
        assert logger.calls == [
            ("trying again: ValueError: disk full", error if kind is WithKeyword else None)
        ]
        ((text, carried),) = details.calls
        assert carried is error or text.endswith(traceback_of(error))


def test_an_exception_that_cannot_be_read_is_told_by_its_type_to_every_logger():
    def refuse(*_):
        raise RuntimeError

    class Unreadable(Exception):
        __str__ = refuse

    class Unprintable(Exception):
        __traceback__ = property(refuse, refuse)

    for kind in (WithKeyword, WithoutKeyword):
        for error in (Unreadable(), Unprintable()):
            logger = kind()
            GuardedLogger(logger).warning("on_destroy raised", error=error)
            assert logger.calls == [(f"on_destroy raised: {type(error).__name__}", None)]


@pytest.mark.parametrize("kind", [WithKeyword, WithoutKeyword])
@pytest.mark.usefixtures("no_collection")
def test_nothing_of_an_exception_that_was_logged_is_kept(kind):
    class Thing:
        pass

    def fail(thing):
        raise ValueError

    def use():
        thing = Thing()
        things.append(weakref.ref(thing))
        try:
            fail(thing)
        except ValueError as error:
            guarded.warning("failed", error=error)
        logger.calls.clear()

    logger, things = kind(), []
    guarded = GuardedLogger(logger)
    use()
    assert things[0]() is None


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def records():
    """Those of loud levels of a standard logger, which is the library's own as well."""
    handler, logger = Records(), logging.getLogger("tasker")
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    yield handler.records
    logger.removeHandler(handler)
    logger.propagate = True


def fails(what):
    def fail(*_):
        raise ValueError(what)

    return fail


def unseen(new_manager, **_):
    manager = new_manager()
    manager.submit(fails("here"))
    assert manager.join(PATIENCE)
    gc.collect()


def in_on_create(new_manager, factory, **_):
    factory.fail_next = [ValueError("here")]
    new_manager()


def in_on_destroy(new_manager, factory, **_):
    new_manager(on_destroy=lambda resource: (factory.destroy(resource), fails("here")())).stop()


def in_check_health(new_manager, **_):
    new_manager(check_health=fails("here"), max_retries=0).submit(fails("healthy?")).exception(
        PATIENCE
    )


def in_a_collector(new_manager, **_):
    class Collector:
        def __getattr__(self, name):
            return fails("here")

    new_manager(collector=Collector()).submit(lambda resource: None).result(PATIENCE)


def in_a_callback(new_manager, **_):
    new_manager().submit(lambda resource: None).add_done_callback(fails("here"))


def in_a_contexts_callback(**_):
    context = with_cancel(background())
    context.on_done(fails("here"))
    context.cancel()


def in_a_tick(new_manager, monkeypatch, **_):
    heal, left = tasker._pool.housekeeper.Housekeeper._heal, [1]

    def heal_or_fail(housekeeper):
        if left:
            left.pop()
            raise ValueError("here")
        heal(housekeeper)

    monkeypatch.setattr(tasker._pool.housekeeper.Housekeeper, "_heal", heal_or_fail)
    new_manager()


def where_a_worker_falls(new_manager, monkeypatch, **_):
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert manager.wait_ready(PATIENCE)
    (worker,) = manager._engine.crew.members
    monkeypatch.setattr(type(worker), "_failed", fails("here"))
    manager.submit(fails("a task")).exception(PATIENCE)


def where_no_thread_starts(new_manager, monkeypatch, **_):
    start, left = threading.Thread.start, [1]

    def start_or_fail(thread):
        if "-worker-" in thread.name and left:
            left.pop()
            raise RuntimeError("here")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    new_manager()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "scene",
    [
        unseen,
        in_on_create,
        in_on_destroy,
        in_check_health,
        in_a_collector,
        in_a_callback,
        in_a_contexts_callback,
        in_a_tick,
        where_a_worker_falls,
        where_no_thread_starts,
    ],
)
def test_every_record_about_an_exception_carries_it(
    new_manager, factory, records, monkeypatch, scene
):
    logger = logging.getLogger("tasker")
    scene(
        new_manager=lambda **options: new_manager(logger=logger, **options),
        factory=factory,
        monkeypatch=monkeypatch,
    )
    eventually(lambda: any("here" in record.getMessage() for record in records), "the record")
    for record in [record for record in records if "here" in record.getMessage()]:
        kind, error, trace = record.exc_info
        assert (kind, error.args, trace) == (type(error), ("here",), error.__traceback__)
        assert "\n" not in record.getMessage()
