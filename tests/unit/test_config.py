"""`Config`: defaults, what is refused and how, context managers as resources, `unhealthy_on`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import pickle
import sqlite3
import threading
import traceback
import weakref
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from fractions import Fraction
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from tasker import (
    Config,
    ConfigError,
    Processes,
    Ray,
    TaskerError,
    TaskManager,
    TaskManagerKilledError,
    Threads,
    background,
    unhealthy_on,
    with_cancel,
)
from tests.support.configs import (
    WRONG,
    Collector,
    asynchronous_session,
    config,
    coroutine,
    generator,
    is_healthy,
)
from tests.support.errors import Sick
from tests.support.recording import Log
from tests.support.waiting import PATIENCE, eventually

# -- what it is ----------------------------------------------------------------------------------------------------


def test_three_fields_are_required_and_the_rest_have_their_documented_defaults():
    made = config()
    assert made.on_create is list
    assert made.worker_count == 3
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(Config)}
    del fields["on_create"], fields["on_destroy"], fields["worker_count"]
    assert fields.pop("check_health")(ValueError()) is True
    assert fields == {
        "name": "tasker",
        "ctx": background(),
        **dict.fromkeys(("on_check", "check_after", "keepalive", "check_timeout", "on_reset")),
        **dict.fromkeys(("on_abort", "abandon_after", "eject_after", "timeout", "run_timeout")),
        "max_worker_count": None,
        "burst_interval": 0.1,
        "max_retries": 3,
        "create_timeout": 30.0,
        "resource_pool_size": None,
        "run_task_limit": None,
        "logger": logging.getLogger("tasker"),
        "collector": None,
        "burst_task_threshold": 0,
        "burst_worker_count": 2,
        "queue_size": 0,
        "propagate_contextvars": True,
        "placement": Threads(),
    }
    for missing in ("on_create", "on_destroy", "worker_count"):
        arguments = {"on_create": list, "on_destroy": list.clear, "worker_count": 3}
        del arguments[missing]
        with pytest.raises(TypeError, match=missing):
            Config(**arguments)


def test_it_is_frozen_and_takes_keywords_only():
    made = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.worker_count = 4
    with pytest.raises(TypeError):
        Config(list, list.clear, 3)
    with pytest.raises(TypeError, match="workers"):
        config(workers=3)


def test_fields_stay_as_they_were_given():
    logger, collector, ctx = Log(), Collector(), with_cancel(background())
    given = {
        "name": "reports",
        "ctx": ctx,
        "max_worker_count": 3,
        "burst_interval": timedelta(milliseconds=250),
        "max_retries": 0,
        "create_timeout": Fraction(1, 2),
        "resource_pool_size": 0,
        "run_task_limit": 1,
        "logger": logger,
        "collector": collector,
        "burst_task_threshold": 10,
        "burst_worker_count": 1,
        "queue_size": 1,
        "propagate_contextvars": False,
        "placement": Processes(),
    }
    made = config(**given)
    for name, value in given.items():
        assert getattr(made, name) is value


def test_replace_makes_a_variant_that_is_checked_again():
    made = config(name="one")
    variant = dataclasses.replace(made, name="two", worker_count=5)
    assert (made.name, made.worker_count, variant.name, variant.worker_count) == (
        "one",
        3,
        "two",
        5,
    )
    assert variant.on_create is made.on_create
    assert variant.max_worker_count is None  # still to be resolved, by the new number
    with pytest.raises(ConfigError, match="worker_count"):
        dataclasses.replace(made, worker_count=0)
    with pytest.raises(ConfigError, match="max_worker_count"):
        dataclasses.replace(config(max_worker_count=3), worker_count=4)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "replace": dataclasses.replace,
    "asdict": lambda made: Config(**{**dataclasses.asdict(made), "placement": made.placement}),
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
    "deepcopy of a pickled one": lambda made: copy.deepcopy(pickle.loads(pickle.dumps(made))),
}


@pytest.fixture(params=COPIES)
def copied(request):
    return COPIES[request.param]


def test_a_copy_is_equal(copied):
    for made in (
        config(),
        config(
            check_health=is_healthy,
            logger=logging.getLogger("elsewhere"),
            burst_interval=timedelta(seconds=1),
        ),
        config(placement=Processes(grace=1.5)),
        config(placement=Ray(num_cpus=0.5, resources={"gpu": 1})),
    ):
        assert copied(made) == made


def test_a_copy_has_the_same_background_and_the_same_logger(copied):
    made = copied(config())
    assert made.ctx is background()
    assert made.logger is logging.getLogger("tasker")


def test_a_copy_judges_as_unhealthy_on_was_told(copied):
    made = copied(config(check_health=unhealthy_on(OSError, KeyError)))
    assert [made.check_health(error) for error in (TimeoutError(), KeyError(), ValueError())] == [
        False,
        False,
        True,
    ]


class Opened:
    """A context manager at the top level of a module, where pickle finds it."""

    open = 0
    _lock = threading.Lock()  # several workers enter at once

    def __enter__(self):
        with self._lock:
            Opened.open += 1
        return self

    def __exit__(self, *_):
        with self._lock:
            Opened.open -= 1


def test_managers_of_a_config_and_of_its_copy_enter_and_exit_what_is_theirs(copied):
    made = Config.from_context_manager(
        Opened, worker_count=2, resource_pool_size=1, burst_interval=0
    )
    assert Opened.open == 0
    with TaskManager(copied(made)) as second:
        with TaskManager(made) as first:
            assert second.wait_ready(PATIENCE)
            assert first.wait_ready(PATIENCE)
            assert Opened.open == 6
        assert Opened.open == 3
        assert second.queue_task(lambda resource: type(resource).__name__) == "Opened"
    assert Opened.open == 0
    assert (first.stop().destroy_errors, second.stop().destroy_errors) == (0, 0)


def test_a_copy_has_the_same_context_and_one_that_can_end_cannot_be_pickled():
    ctx = with_cancel(background())
    made = config(ctx=ctx)
    for how in (copy.copy, copy.deepcopy, dataclasses.replace):
        assert how(made).ctx is ctx
    assert dataclasses.asdict(made)["ctx"] is ctx
    with pytest.raises(TypeError, match="a context cannot be pickled"):
        pickle.dumps(made)
    ctx.cancel()


def test_a_config_of_what_cannot_be_pickled_says_so_as_pickle_does():
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(config(on_create=lambda: 1))


def test_the_largest_and_smallest_right_values_are_taken():
    for options in (
        {"worker_count": 1},
        {"worker_count": 10_000, "max_worker_count": 10_000},
        {"burst_interval": 0},
        {"burst_interval": 0.0},
        {"burst_interval": timedelta(0)},
        {"burst_interval": 3600},
        {"create_timeout": 1e-9},
        {"create_timeout": timedelta(days=1)},
        {"max_retries": 0},
        {"resource_pool_size": 0},
        {"resource_pool_size": 100},
        {"run_task_limit": 1},
        {"queue_size": 1},
        {"burst_task_threshold": 1, "burst_worker_count": 1},
        {"logger": logging.LoggerAdapter(logging.getLogger("other"), {})},
        {"logger": Mock()},
        {"collector": Mock()},
        {"on_create": Mock(), "on_destroy": Mock(), "check_health": Mock()},
        {
            "on_create": Mock(spec=list),
            "on_destroy": Mock(spec=list.clear),
            "check_health": Mock(spec=config),
        },
        {
            "on_create": functools.partial(sqlite3.connect, ":memory:"),
            "on_destroy": sqlite3.Connection.close,
        },
        {
            "on_create": lambda size=10: [0] * size,
            "on_destroy": lambda resource, *, force=True: None,
        },
        {
            "on_create": dict,
            "on_destroy": dict.update,
        },  # its signature cannot be read, so it is believed
        {"check_health": bool},
        {"check_health": lambda error, resource: True},
        {"check_health": functools.partial(lambda kinds, error, resource: True, (OSError,))},
    ):
        config(**options)


# -- what it refuses -----------------------------------------------------------------------------------------------


def test_every_wrong_value_is_refused_with_the_field_the_value_and_what_is_allowed():
    for field, value, allowed in WRONG:
        with pytest.raises(ConfigError) as caught:
            config(**{field: value})
        message = str(caught.value)
        assert message.startswith(f"{field} must "), (field, value, message)
        assert repr(value) in message, (field, value, message)
        assert allowed in message, (field, value, message)


@pytest.mark.parametrize("field", ["check_after", "keepalive", "check_timeout"])
def test_a_time_of_checks_is_refused_where_there_is_no_check(field):
    with pytest.raises(
        ConfigError, match=rf"^{field} must be None where there is no on_check, not 1\.5"
    ):
        config(**{field: 1.5})
    assert getattr(config(on_check=bool, **{field: 1.5}), field) == 1.5
    zero = "more than 0" if field != "check_after" else "0 or more"
    for wrong in (-1, float("nan"), float("inf"), "1", True, *([0] if "more" in zero[:4] else [])):
        with pytest.raises(
            ConfigError, match=f"^{field} must be None, a number of seconds .*{zero}"
        ):
            config(on_check=bool, **{field: wrong})


def test_methods_of_a_logger_or_a_collector_that_a_call_would_not_run_are_refused_by_name():
    def generator(*_):
        yield

    logger = SimpleNamespace(debug=print, info=print, warning=generator, error=print)
    with pytest.raises(ConfigError, match=r"^logger\.warning .* a generator function"):
        config(logger=logger)
    logger = SimpleNamespace(debug=print, info=print, warning=print, error=coroutine)
    with pytest.raises(ConfigError, match=r"^logger\.error .* coroutine function"):
        config(logger=logger)
    collector = Collector()
    collector.record_retry = coroutine
    with pytest.raises(ConfigError, match=r"^collector\.record_retry .* coroutine function"):
        config(collector=collector)


def test_the_error_is_a_value_error_and_one_of_taskers():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, TaskerError)


def test_a_manager_takes_nothing_but_a_config():
    for value in (None, {}, Config, 3):
        with pytest.raises(ConfigError, match="config must be a Config"):
            TaskManager(value)


# -- context managers as resources ---------------------------------------------------------------------------------


class Records:
    """A factory of context managers that records where each of them is entered and exited, and with what error."""

    def __init__(self, resource=lambda number: number):
        self.lock = threading.Lock()
        self.made = 0
        self.entered, self.exited = {}, {}
        self.errors = {}
        self.resource = resource

    @contextmanager
    def open(self):
        with self.lock:
            number, self.made = self.made, self.made + 1
            self.entered[number] = threading.get_ident()
        error = None
        try:
            yield self.resource(number)
        except BaseException as raised:
            error = raised
            raise
        finally:
            with self.lock:
                assert number not in self.exited, "exited twice"
                self.exited[number] = threading.get_ident()
                self.errors[number] = type(error)
            del error


def test_entering_creates_and_exiting_destroys():
    records = Records()
    made = Config.from_context_manager(records.open, worker_count=2, name="opened", max_retries=1)
    assert isinstance(made, Config)
    assert (made.worker_count, made.name, made.max_retries) == (2, "opened", 1)
    first, second = made.on_create(), made.on_create()
    assert (first, second) == (0, 1)
    made.on_destroy(first)
    assert list(records.exited) == [0]
    made.on_destroy(second)
    assert list(records.exited) == [0, 1]


def test_what_is_exited_is_forgotten():
    records = Records(resource=lambda number: None)
    made = Config.from_context_manager(records.open, worker_count=2)
    for _ in range(5):
        made.on_destroy(made.on_create())
    assert made.on_destroy.__self__._entered == {}
    assert list(records.exited) == list(range(5))


def test_a_factory_that_fails_to_enter_leaves_nothing_behind():
    class Failing:
        def __enter__(self):
            raise OSError("down")

        def __exit__(self, *_):
            raise AssertionError("never entered")

    made = Config.from_context_manager(Failing, worker_count=2)
    with pytest.raises(OSError, match="down"):
        made.on_create()
    assert made.on_destroy.__self__._entered == {}


@pytest.mark.parametrize(
    "resource",
    [
        pytest.param(lambda number: None, id="None"),
        pytest.param(lambda number, shared=[]: shared, id="one object"),
    ],
)
def test_a_thread_exits_what_it_entered_itself_even_if_all_yield_the_same_object(resource):
    records = Records(resource)
    made = Config.from_context_manager(records.open, worker_count=2)
    turn, threads = [threading.Event() for _ in range(4)], []

    def own(number):
        mine = made.on_create()
        turn[number].set()
        turn[3].wait(PATIENCE)
        made.on_destroy(mine)

    for number in range(3):
        threads.append(threading.Thread(target=own, args=(number,)))
        threads[-1].start()
        assert turn[number].wait(PATIENCE)
    here = made.on_create()
    made.on_destroy(here)
    assert records.exited == {3: threading.get_ident()}
    turn[3].set()
    for thread in threads:
        thread.join(PATIENCE)
    assert records.exited == records.entered
    assert len(set(records.entered.values())) == 4


def test_a_thread_that_entered_none_exits_one_that_nobody_else_is_left_with():
    records = Records(resource=lambda number: "same")
    made = Config.from_context_manager(records.open, worker_count=1)
    resource = made.on_create()
    thread = threading.Thread(
        target=made.on_destroy, args=(resource,)
    )  # a run_task pool destroys where it closes
    thread.start()
    thread.join(PATIENCE)
    assert list(records.exited) == [0]


@pytest.mark.parametrize(
    "resource", [lambda number: [number], lambda number: None], ids=["own", "None"]
)
def test_workers_enter_and_exit_each_context_manager_once_in_their_own_thread(resource):
    records = Records(resource)
    made = Config.from_context_manager(
        records.open,
        worker_count=3,
        resource_pool_size=0,
        check_health=unhealthy_on(Sick),
        max_retries=0,
        logger=Log(),
    )

    def fail(resource):
        raise Sick

    with TaskManager(made) as manager:
        assert manager.wait_ready(PATIENCE)
        users = Counter(
            manager.submit(lambda resource: threading.get_ident()).result() for _ in range(20)
        )
        assert set(users) <= set(records.entered.values())
        for future in [manager.submit(fail) for _ in range(4)]:
            assert isinstance(future.exception(PATIENCE), Sick)
        assert manager.run_task(lambda resource: threading.get_ident()) == threading.get_ident()
    # the failures broke four, but closing may come before the last of them are replaced
    assert records.made >= 3 + 1 + 1
    assert records.exited == records.entered
    assert Counter(records.errors.values()) == {Sick: 4, type(None): records.made - 4}


class Session:
    """A context manager that keeps what its `__exit__` is given, and does there what it is told."""

    def __init__(self, exits, at_exit=lambda error: None):
        self.exits, self.at_exit = exits, at_exit

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.exits.append((kind, error, traceback))
        return self.at_exit(error)


@pytest.fixture
def exits():
    return []


@pytest.fixture
def opened(exits, log):
    """`opened(**options)`: a manager on sessions that note in `exits` how they end, killed if it is left open."""
    managers = []

    def make(at_exit=lambda error: None, **options):
        options = {
            "worker_count": 1,
            "max_worker_count": 1,
            "check_health": unhealthy_on(Sick),
            "max_retries": 0,
            "logger": log,
            "burst_interval": 0,
            **options,
        }
        managers.append(
            TaskManager(Config.from_context_manager(lambda: Session(exits, at_exit), **options))
        )
        return managers[-1]

    yield make
    for manager in managers:
        assert manager.kill(PATIENCE).abandoned == ()


def be_sick(session):
    raise Sick("half done")


@pytest.mark.usefixtures("no_pauses")
def test_what_broke_a_resource_reaches_its_exit_with_the_traceback_of_the_task(opened, exits):
    manager = opened()
    error = manager.submit(be_sick).exception(PATIENCE)
    eventually(lambda: exits)
    ((kind, told, traceback),) = exits
    assert kind is Sick
    assert told is error
    assert traceback is error.__traceback__
    assert traceback.tb_frame.f_code is be_sick.__code__
    manager.queue_task(lambda session: None)  # on another
    manager.stop()
    assert exits[1:] == [(None, None, None)]


@pytest.mark.usefixtures("no_pauses")
def test_each_resource_that_a_task_broke_is_exited_with_the_error_of_its_own_attempt(opened, exits):
    raised = []

    def fail_twice(session):
        if len(raised) < 2:
            raised.append(Sick(len(raised)))
            raise raised[-1]

    with opened(max_retries=2) as manager:
        manager.queue_task(fail_twice)
    assert [error for _, error, _ in exits] == [*raised, None]


def test_an_error_that_leaves_its_resource_healthy_is_not_told_at_its_end(opened, exits):
    with opened() as manager:
        assert isinstance(
            manager.submit(lambda session: 1 / 0).exception(PATIENCE), ZeroDivisionError
        )
        manager.queue_task(lambda session: None)
    assert exits == [(None, None, None)]


def test_a_check_that_raises_breaks_a_resource_by_the_error_that_it_was_to_judge(opened, exits):
    with opened(check_health=lambda error: 1 / 0) as manager:
        assert isinstance(manager.submit(be_sick).exception(PATIENCE), Sick)
    assert exits[0][0] is Sick


def test_the_resources_of_a_killed_manager_are_exited_with_that(opened, exits):
    manager = opened(worker_count=2, max_worker_count=2, resource_pool_size=1)
    assert manager.wait_ready(PATIENCE)
    manager.kill(PATIENCE)
    assert [kind for kind, _, _ in exits] == [TaskManagerKilledError] * 3
    assert "tasker was killed" in str(exits[0][1])


def test_a_resource_that_run_task_does_not_keep_is_exited_with_what_its_task_raised(opened, exits):
    manager = opened(resource_pool_size=0)
    for task in (be_sick, lambda session: 1 / 0):
        with pytest.raises((Sick, ZeroDivisionError)) as caught:
            manager.run_task(task)
        assert exits.pop()[1] is caught.value
    manager.run_task(lambda session: None)
    assert exits.pop() == (None, None, None)


def test_a_resource_of_the_pool_is_exited_with_what_broke_it_and_kept_after_other_errors(
    opened, exits
):
    manager = opened(resource_pool_size=1)
    with pytest.raises(ZeroDivisionError):
        manager.run_task(lambda session: 1 / 0)
    assert exits == []
    with pytest.raises(Sick) as caught:
        manager.run_task(be_sick)
    assert [error for _, error, _ in exits] == [caught.value]


def test_what_an_exit_returns_swallows_nothing(opened, exits):
    manager = opened(at_exit=lambda error: True)
    assert isinstance(manager.submit(be_sick).exception(PATIENCE), Sick)
    with pytest.raises(Sick):
        manager.run_task(be_sick)
    report = manager.stop()
    assert (report.failed, report.destroy_errors) == (2, 0)
    assert [kind for kind, _, _ in exits][:2] == [Sick, Sick]


def raise_again(error):
    if error is not None:
        raise error


def raise_another(error):
    if error is not None:
        raise OSError("cannot roll back")


def test_an_exit_that_raises_what_it_was_given_is_not_reported_and_leaves_its_traceback_alone(
    opened, log
):
    manager = opened(at_exit=raise_again)
    with pytest.raises(Sick):
        manager.run_task(be_sick)
    future = manager.submit(be_sick)
    assert isinstance(future.exception(PATIENCE), Sick)
    assert manager.stop().destroy_errors == 0
    assert traceback.extract_tb(future.exception().__traceback__)[0].name == "be_sick"
    assert len(traceback.extract_tb(future.exception().__traceback__)) == 1
    assert log.loud() == []


def test_an_exit_that_raises_something_else_is_reported(opened, log):
    manager = opened(at_exit=raise_another)
    assert isinstance(manager.submit(be_sick).exception(PATIENCE), Sick)
    assert manager.stop().destroy_errors == 1
    assert "cannot roll back" in log.loud()[0]


@pytest.mark.usefixtures("no_pauses")
def test_a_transaction_that_broke_is_rolled_back_and_a_healthy_one_committed():
    done = []

    @contextmanager
    def transaction():
        try:
            yield done
        except Sick:
            done.append("rolled back")
            raise
        else:
            done.append("committed")

    made = Config.from_context_manager(
        transaction, worker_count=1, check_health=unhealthy_on(Sick), max_retries=0
    )
    with TaskManager(made) as manager:
        assert isinstance(manager.submit(be_sick).exception(PATIENCE), Sick)
        assert manager.queue_task(list.copy) == ["rolled back"]
    assert done == ["rolled back", "committed"]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "at_exit", [lambda error: None, raise_again, raise_another], ids=["quiet", "again", "other"]
)
@pytest.mark.parametrize("way", ["submit", "run_task", "run_task without a pool"])
def test_nothing_of_an_error_is_kept_after_the_exit_that_it_was_given(
    opened, exits, log, at_exit, way
):
    class Held:
        pass

    watched = []

    def fail(session):
        held = Held()
        watched.append(weakref.ref(held))
        raise Sick

    manager = opened(
        at_exit=at_exit, resource_pool_size=0 if way == "run_task without a pool" else None
    )
    if way == "submit":
        assert isinstance(manager.submit(fail).exception(PATIENCE), Sick)
    else:
        with contextlib.suppress(Sick):
            manager.run_task(fail)
    eventually(lambda: exits)
    exits.clear()
    eventually(lambda: watched[0]() is None)
    log.lines.clear()


def test_a_wrong_factory_is_refused_by_that_name():
    for factory, says in (
        (None, "called with no arguments"),
        (lambda slot, size: size, "called with no arguments, or with a Slot"),
        (coroutine, "asyncio"),
        (asynchronous_session, "outside of asyncio"),
        (generator, "decorate it with @contextlib.contextmanager"),
    ):
        with pytest.raises(ConfigError, match=f"factory must be .*{says}"):
            Config.from_context_manager(factory, worker_count=1)
    with pytest.raises(ConfigError, match="worker_count"):
        Config.from_context_manager(Records().open, worker_count=0)
    with pytest.raises(TypeError, match="takes no on_create"):
        Config.from_context_manager(Records().open, worker_count=1, on_create=list)


# -- unhealthy_on --------------------------------------------------------------------------------------------------


def test_errors_of_the_given_types_and_their_subclasses_are_unhealthy():
    check = unhealthy_on(OSError, KeyError)
    for error in (OSError(), ConnectionResetError(), TimeoutError(), KeyError()):
        assert check(error) is False, error
    for error in (ValueError(), LookupError(), IndexError(), Exception()):
        assert check(error) is True, error
    assert unhealthy_on(Exception)(ValueError()) is False


def test_unhealthy_on_takes_one_or_more_exception_types_and_nothing_else():
    with pytest.raises(ConfigError, match="at least one exception type"):
        unhealthy_on()
    for value in (OSError(), "OSError", int, None, (OSError, KeyError)):
        with pytest.raises(ConfigError, match="takes exception types") as caught:
            unhealthy_on(ValueError, value)
        assert repr(value) in str(caught.value)
