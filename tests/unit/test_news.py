"""What a manager tells of its ordinary life, and that it costs nothing where nobody listens."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import threading
import time

import pytest

import tasker._sync.recurring
from tasker import TaskManager, ThreadPoolExecutor
from tasker._sync.guarded_logger import GuardedLogger, ours
from tasker._sync.locks import holds_lock
from tests.support.errors import Sick
from tests.support.recording import Log
from tests.support.waiting import PATIENCE, eventually


def infos(log):
    return [text for level, text in log.lines if level == "info"]


def sick(resource):
    raise Sick


def test_the_life_of_a_manager_is_told_as_info(new_manager, log):
    manager = new_manager(name="main", worker_count=2, max_worker_count=3)
    assert manager.wait_ready(PATIENCE)
    assert manager.queue_task(lambda resource: 1) == 1
    assert isinstance(manager.submit(lambda resource: 1 / 0).exception(PATIENCE), ZeroDivisionError)
    assert manager.join(PATIENCE)
    manager.stop()
    assert infos(log) == [
        "main: started, workers: 2, at most: 3",
        "main: ready, workers with resources: 2",
        "main: stopping, tasks waiting: 0, running: 0",
        "main: stopped (drained), tasks completed: 1, failed: 1, cancelled: 0, never started: 0, "
        "errors of on_destroy: 0, threads abandoned: 0",
    ]
    assert log.loud() == []


def test_the_end_is_told_before_stop_returns(new_manager, log):
    for _ in range(20):
        manager = new_manager()
        manager.stop()
        assert "stopped" in infos(log)[-1]
    assert sum("stopped" in line for line in infos(log)) == 20


def test_a_kill_is_told_also_when_it_overtakes_a_stop(new_manager, log):
    manager = new_manager(name="main", worker_count=1, max_worker_count=1)
    future = manager.submit(lambda ctx, resource: ctx.wait(PATIENCE))
    eventually(future.running)
    waiting = manager.submit(lambda resource: 0)
    manager._engine.lifecycle.request_stop()
    eventually(lambda: any("stopping" in line for line in infos(log)))
    manager.kill(PATIENCE)
    assert infos(log)[-3:] == [
        "main: stopping, tasks waiting: 1, running: 1",
        "main: being killed, tasks waiting: 1, running: 1",
        "main: stopped (killed), tasks completed: 1, failed: 0, cancelled: 1, never started: 1, "
        "errors of on_destroy: 0, threads abandoned: 0",
    ]
    assert waiting.cancelled() or waiting.exception() is not None


def test_a_resource_that_is_replaced_is_told_with_its_worker_and_the_error(new_manager, log):
    manager = new_manager(name="main", worker_count=1, max_worker_count=1)
    assert manager.wait_ready(PATIENCE)
    assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
    assert manager.queue_task(lambda resource: resource.number) == 1
    (line,) = [line for line in infos(log) if "replaced" in line]
    first, _, trace = line.partition("\n")
    assert (
        first == "main-worker-1: the resource is broken and is replaced: tests.support.errors.Sick"
    )
    assert "in sick" in trace
    with pytest.raises(Sick):
        manager.run_task(sick)
    assert any(line.startswith("main, run_task: the resource is broken") for line in infos(log))


def test_whoever_waits_for_a_task_is_told_before_a_logger_that_blocks_hears_of_its_resource(
    new_manager, factory
):
    gate, reached = threading.Event(), threading.Event()

    class Blocking(Log):
        def info(self, msg, /, *args):
            if "replaced" in msg:
                reached.set()
                assert gate.wait(PATIENCE)

    manager = new_manager(worker_count=2, max_worker_count=2, logger=Blocking())
    try:
        assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
        assert reached.wait(PATIENCE)
        assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
    finally:
        gate.set()


@pytest.mark.slow
def test_hiring_and_retiring_is_told(new_manager, log):
    manager = new_manager(worker_count=1, max_worker_count=3, burst_interval=0.01, name="main")
    gate = threading.Event()
    futures = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(20)]
    eventually(lambda: any("hired" in line for line in infos(log)))
    gate.set()
    assert all(future.result(PATIENCE) for future in futures)
    eventually(lambda: any(line.startswith("main: retired") for line in infos(log)))
    assert all("workers now: " in line for line in infos(log) if "hired" in line)


def test_the_life_of_the_drop_in_is_told_as_debug(caplog):
    with caplog.at_level(logging.DEBUG, "tasker"), ThreadPoolExecutor(2, "calls") as pool:
        assert pool.submit(int).result() == 0
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "calls: started, workers: 0, at most: 2"
    assert "calls: stopped (drained), tasks completed: 1" in texts[-1]
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


def test_a_manager_that_was_forgotten_tells_its_end(factory, log):
    from tasker import Config

    config = Config(
        on_create=factory.create, on_destroy=factory.destroy, worker_count=1, logger=log
    )
    manager = TaskManager(config)
    del manager
    gc.collect()
    eventually(lambda: any("stopped" in line for line in infos(log)))


# -- outages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def settled_soon(monkeypatch):
    monkeypatch.setattr(tasker._sync.recurring, "SETTLED_S", 0.05)


def test_the_end_of_an_outage_is_told_with_the_count(
    new_manager, factory, log, short_pauses, settled_soon
):
    factory.fail_next = [OSError("down")] * 20
    manager = new_manager(name="main", worker_count=4, max_worker_count=4)
    assert manager.wait_ready(PATIENCE)
    eventually(lambda: len(log.loud()) == 2, "the end of the outage")
    begin, end = log.loud()
    assert begin == "main: on_create raised, trying again: OSError: down"
    assert end.startswith("main: resources are made again after 20 failures in ")
    manager.queue_task(lambda resource: None)
    assert len(log.loud()) == 2


def test_an_outage_that_is_over_when_the_manager_stops_is_told_to_be_over(
    new_manager, factory, log, short_pauses
):
    factory.fail_next = [OSError("down")]
    manager = new_manager(name="main", worker_count=1, max_worker_count=1)
    assert manager.wait_ready(PATIENCE)
    manager.stop()
    assert log.loud()[1:] == ["main: resources are made again after 1 failure in 0.0 s"]


def test_a_manager_that_is_closed_in_an_outage_says_so(new_manager, factory, log, short_pauses):
    factory.fail_always = OSError("down")
    manager = new_manager(name="main", worker_count=1, max_worker_count=1)
    eventually(log.loud)
    manager.kill()
    assert log.loud()[-1].startswith("main: closed in an outage, after ")


@pytest.mark.slow
def test_an_outage_with_one_resource_left_is_not_over(
    new_manager, factory, log, short_pauses, settled_soon
):
    manager = new_manager(name="main", worker_count=1, max_worker_count=2, burst_interval=0)
    assert manager.wait_ready(PATIENCE)
    factory.fail_always = OSError("down")
    manager._engine.crew.hire(1)
    eventually(log.loud)
    looks = []
    look = manager._engine.news.look
    manager._engine.news.look = lambda *, whole: looks.append(whole) or look(whole=whole)
    eventually(lambda: len(looks) > 3)
    assert not any(looks)
    assert len(log.loud()) == 1
    factory.fail_always = None
    eventually(lambda: len(log.loud()) == 2)


def test_a_pool_does_not_rest_before_its_outage_is_over(new_manager, factory, log, short_pauses):
    factory.fail_next = [OSError("down")]
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert manager.wait_ready(PATIENCE)
    assert not manager._engine.housekeeper._is_quiet()
    manager._engine.logger.faults.all()
    eventually(manager._engine.housekeeper._is_quiet)


# -- other faults that come again and again --------------------------------------------------------------------------


def fails(what):
    def fail(*_):
        raise ValueError(what)

    return fail


@pytest.mark.parametrize("where", ["check_health", "on_destroy", "collector", "callback", "lambda"])
def test_of_a_hook_that_raises_each_time_the_first_is_told_and_at_the_end_how_many(
    new_manager, factory, log, where, no_pauses
):
    class Collector:
        def __getattr__(self, name):
            return fails("here") if name == "record_failure" else lambda *_: None

    options = {
        "check_health": {"check_health": fails("here"), "max_retries": 0},
        "on_destroy": {"on_destroy": lambda resource: (factory.destroy(resource), fails("here")())},
        "collector": {"collector": Collector()},
    }
    manager = new_manager(name="main", worker_count=1, max_worker_count=1, **options.get(where, {}))
    for _ in range(30):
        future = manager.submit(sick, once=True)
        if where == "callback":
            future.add_done_callback(fails("here"))
        if where == "lambda":
            future.add_done_callback(lambda done: fails("here")())
        assert isinstance(future.exception(PATIENCE), Sick)
    manager.stop()
    loud = [
        line for line in log.loud() if "break before they" not in line and "made again" not in line
    ]
    assert len([line for line in loud if "here" in line]) == 1
    assert sum("ValueError: here\n" in text for _, text in log.lines) >= 30, "each is told as debug"
    (end,) = [line for line in loud if "is over" in line]
    assert " times in " in end


def test_different_callbacks_are_different_faults(new_manager, log):
    manager = new_manager()
    for _ in range(2):
        for what in ("one", "two"):
            future = manager.submit(lambda resource: 0)
            future.add_done_callback(ONE if what == "one" else TWO)
            future.result(PATIENCE)
    manager.join()
    assert sum("the first callback" in line for line in log.loud()) == 1
    assert sum("the second callback" in line for line in log.loud()) == 1


def ONE(done):
    raise ValueError("the first callback")


def TWO(done):
    raise ValueError("the second callback")


def test_failures_that_nobody_looked_at_are_each_told(new_manager, log):
    manager = new_manager()
    for _ in range(5):
        manager.submit(lambda resource: 1 / 0)
    manager.stop()
    gc.collect()
    eventually(lambda: sum("nobody asked" in line for line in log.loud()) == 5)


# -- threads and locks -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_logged_under_a_lock_or_by_a_thread_that_serves_others(
    new_manager, factory, short_pauses
):
    engines, wrong, told = [], [], set()

    class Watching(Log):
        def _keep(self, level, msg, args):
            told.add(level)
            name = threading.current_thread().name
            if name.endswith(("-burst", "-timer")):
                wrong.append((name, msg % args))
            if engines and holds_lock(*engines[0].own_parts(), ours.faults):
                wrong.append(("a lock", msg % args))

    factory.fail_next = [OSError("down")] * 3
    options = {"on_destroy": lambda resource: (factory.destroy(resource), fails("on_destroy")())}
    manager = new_manager(
        logger=Watching(), worker_count=2, max_worker_count=6, burst_interval=0.01, **options
    )
    engines.append(manager._engine)
    assert manager.wait_ready(PATIENCE)
    futures = [
        manager.submit((lambda resource: time.sleep(0.005)) if number % 5 else sick)
        for number in range(60)
    ]
    for future in futures:
        future.add_done_callback(fails("callback"))
    assert manager.run_task(lambda resource: 7) == 7
    concurrent.futures.wait(futures, PATIENCE)
    manager.submit(lambda ctx, resource: ctx.wait(PATIENCE))
    manager.kill(PATIENCE)
    assert wrong == []
    assert told == {"debug", "info", "warning", "error"}


def test_a_signal_handler_that_interrupts_the_counting_of_a_fault_does_not_wait_for_the_closing(
    new_manager,
):
    manager = new_manager()
    for faults in (manager._engine.logger.faults, ours.faults):
        with faults._lock:
            assert manager._engine.closing_needs_this_thread()
    assert not manager._engine.closing_needs_this_thread()


# -- loggers that do not listen --------------------------------------------------------------------------------------


class Deaf(logging.Logger):
    """A logger that knows by itself what it does not want to hear."""

    def isEnabledFor(self, level):
        raise AssertionError("asked on a thread that must not ask")


@pytest.mark.parametrize(
    ("level", "dropped"),
    [
        (logging.DEBUG, []),
        (logging.INFO, ["debug"]),
        (logging.WARNING, ["debug", "info"]),
        (60, ["debug", "info", "warning", "error"]),
    ],
)
def test_what_a_standard_logger_drops_is_known_without_asking_it(level, dropped):
    logger = logging.Logger("test.news", level)
    guarded = GuardedLogger(logger)
    for name in ("debug", "info", "warning", "error"):
        assert (
            guarded.drops(name)
            is (name in dropped)
            is not logger.isEnabledFor(getattr(logging, name.upper()))
        )


def test_levels_of_parents_and_what_is_switched_off_altogether_count():
    parent, child = logging.getLogger("test.news"), logging.getLogger("test.news.child")
    parent.setLevel(logging.INFO)
    try:
        assert not GuardedLogger(child).drops("info")
        child.disabled = True
        assert GuardedLogger(child).drops("error")
        child.disabled = False
        logging.disable(logging.ERROR)
        assert GuardedLogger(child).drops("error")
    finally:
        logging.disable(logging.NOTSET)
        child.disabled = False
        parent.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "logger", [Log(), Deaf("deaf"), logging.LoggerAdapter(logging.Logger("a", 60), {})]
)
def test_of_any_other_logger_nothing_is_known(logger):
    assert not GuardedLogger(logger).drops("info")


def test_no_thread_is_started_to_tell_a_standard_logger_what_it_drops(new_manager, monkeypatch):
    started = []
    start = threading.Thread.start
    monkeypatch.setattr(
        threading.Thread, "start", lambda thread: (started.append(thread.name), start(thread))
    )
    manager = new_manager(name="main", logger=logging.Logger("silent", logging.WARNING))
    manager.queue_task(lambda resource: 0)
    manager.stop()
    assert not any("-aside" in name for name in started)
