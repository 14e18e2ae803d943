"""To let go of an object may run its destructor, which is the user's: never on a service thread, never under a lock.

Whatever ends a task or a context from outside lets go of what the user gave: arguments, the function, callbacks,
context variables, values of contexts, what the user hung on the future, the future itself. Each test gives one such way
things whose destructor records where it runs.
"""

from __future__ import annotations

import contextvars
import gc
import threading
from functools import partial
from types import SimpleNamespace

import pytest

import tasker._sync.timer
import tasker._tasks.context
import tasker._tasks.future
from tasker import TaskTimeoutError, background, with_timeout, with_value
from tasker._sync.parking import gil_enabled
from tasker._tasks.future import TaskFuture
from tasker.threadpool import ThreadPoolExecutor
from tests.support.errors import Sick
from tests.support.recording import Log
from tests.support.waiting import PATIENCE, eventually

pytestmark = [
    pytest.mark.skipif(
        not gil_enabled(), reason="without the GIL the thread that made an object drops it"
    ),
    pytest.mark.usefixtures("no_collection"),
]

SERVICE_THREADS = ("-burst", "tasker-timer")


class Grave:
    """Makes things, and records where each is dropped."""

    def __init__(self) -> None:
        self.made = 0
        self.dropped: list[
            tuple[str, str, list[str]]
        ] = []  # what, in which thread, under which locks
        self.locks: dict[str, object] = {}

    def watch(self, engine) -> None:
        """Look at the locks of this engine, too."""
        engine.queue._take_lock = threading.RLock()  # which knows who holds it
        parts = (
            engine,
            engine.queue,
            engine.queue.room,
            engine.crew,
            engine.counters,
            engine.runner,
            engine.pool,
        )
        for part in (*parts, engine.user, engine.housekeeper):
            for name, value in vars(part).items():
                if hasattr(value, "_is_owned"):
                    self.locks[f"{type(part).__name__}.{name}"] = value

    def held(self) -> list[str]:
        shared = {
            "context._lock": tasker._tasks.context._lock,
            "timer._lock": tasker._sync.timer._timer._lock,
            "future._first_waiter": tasker._tasks.future._first_waiter,
        }
        return [name for name, lock in (self.locks | shared).items() if lock._is_owned()]

    def thing(self, what: str) -> Thing:
        self.made += 1
        return Thing(self, what)

    def record(self, what: str) -> None:
        self.dropped.append((what, threading.current_thread().name, self.held()))

    def check(self, *kinds: str) -> None:
        """All have been dropped, things of these kinds among them, and nowhere where a destructor may not run."""
        eventually(
            lambda: len([each for each in self.dropped if each[0] != "log"]) == self.made,
            "the last destructor",
        )
        assert set(kinds) <= {what for what, _, _ in self.dropped}
        wrong = [each for each in self.dropped if each[1].endswith(SERVICE_THREADS) or each[2]]
        assert wrong == []

    def threads_of(self, what: str) -> set[str]:
        return {thread for kind, thread, _ in self.dropped if kind == what}


class Thing:
    def __init__(self, grave: Grave, what: str) -> None:
        self.grave = grave
        self.what = what

    def __del__(self) -> None:
        self.grave.record(self.what)


class RecordingLog(Log):
    """A logger that records where it is called as well."""

    def __init__(self, grave: Grave) -> None:
        super().__init__()
        self.grave = grave

    def _keep(self, level, msg, args):
        super()._keep(level, msg, args)
        self.grave.record("log")


variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")
KINDS = ("argument", "function", "callback", "context variable", "attribute")


def submit(submit_task, grave: Grave, run=lambda: None, **options) -> list[TaskFuture]:
    """Submit a call that refers to things in every way; the list is all that refers to the future."""

    def in_context():
        variable.set(grave.thing("context variable"))
        in_closure, in_callback = grave.thing("function"), grave.thing("callback")
        future = submit_task(lambda *_: run() and in_closure, grave.thing("argument"), **options)
        future.attribute = grave.thing("attribute")
        future.add_done_callback(lambda _: in_callback)
        return [future]

    return contextvars.copy_context().run(in_context)


@pytest.fixture
def grave():
    return Grave()


@pytest.fixture
def busy(new_manager, grave):
    """A manager with one worker, busy until `gate` is set; it listens to its context."""

    def busy(**options):
        manager = new_manager(
            **{"worker_count": 1, "max_worker_count": 1, "max_retries": 5, **options}
        )
        grave.watch(manager._engine)
        gate, running = threading.Event(), threading.Event()

        def hold(ctx, resource):
            ctx.on_done(gate.set)
            running.set()
            gate.wait(PATIENCE)

        held = manager.submit(hold)
        assert running.wait(PATIENCE)
        return SimpleNamespace(manager=manager, gate=gate, held=held)

    return busy


# -- each way ---------------------------------------------------------------------------------------------------------


def test_kill_lets_go_of_waiting_tasks_elsewhere(busy, grave):
    world = busy()
    for _ in range(20):
        submit(world.manager.submit, grave).clear()
    submit(world.manager.submit, grave, priority=True).clear()
    world.manager.kill(PATIENCE)
    grave.check(*KINDS)


def test_kill_lets_go_of_running_tasks_elsewhere(new_manager, grave, monkeypatch):
    manager = new_manager(worker_count=1, max_worker_count=1)
    engine = manager._engine
    grave.watch(engine)
    gate, running = threading.Event(), threading.Event()

    def run():
        running.set()
        gate.wait(PATIENCE)

    worker = engine.crew.members[0]
    submit(manager.submit, grave, run).clear()
    assert running.wait(PATIENCE)
    fail = TaskFuture._fail_from_outside

    def fail_slowly(task, *args):
        """Returns when nobody else refers to the task, its worker neither."""
        settled = fail(task, *args)
        gate.set()
        eventually(
            lambda: worker.task is None and not worker.thread.is_alive(), "the end of the worker"
        )
        return settled

    monkeypatch.setattr(TaskFuture, "_fail_from_outside", fail_slowly)
    manager.kill(0.05)
    grave.check(*KINDS)


def test_kill_lets_go_of_what_hangs_on_contexts_of_running_tasks_elsewhere(new_manager, grave):
    manager = new_manager(worker_count=1, max_worker_count=1)
    grave.watch(manager._engine)
    running, gate = threading.Event(), threading.Event()

    def run(ctx, resource):
        child = with_value(ctx, "key", grave.thing("value"))  # kept by its parent alone
        child.on_done(partial(id, grave.thing("callback")))
        del child
        running.set()
        gate.wait(PATIENCE)

    manager.submit(run)
    assert running.wait(PATIENCE)
    killer = threading.Thread(target=manager.kill, args=(PATIENCE,))
    killer.start()
    grave.check("value", "callback")  # while the task still runs
    gate.set()
    killer.join(PATIENCE)


def test_a_timeout_lets_go_of_a_waiting_task_elsewhere(busy, grave):
    world = busy(burst_interval=0.01)
    for _ in range(10):
        submit(world.manager.submit, grave, timeout=0.02).clear()
    eventually(
        lambda: (
            {"argument", "function", "callback", "context variable"}
            <= {each[0] for each in grave.dropped}
        )
    )
    assert not any("worker" in name for name in grave.threads_of("argument"))  # it is busy
    world.gate.set()
    grave.check(*KINDS)


def test_a_timeout_lets_go_of_a_running_task_elsewhere(new_manager, grave):
    manager = new_manager(worker_count=1, max_worker_count=1)
    grave.watch(manager._engine)
    gate = threading.Event()
    futures = []

    def run(ctx, resource, argument):
        child = with_value(ctx, "key", grave.thing("value"))
        child.on_done(gate.set)
        del child, argument
        gate.wait(PATIENCE)

    futures.append(manager.submit(run, grave.thing("argument"), timeout=0.05))
    with pytest.raises(TaskTimeoutError):
        futures[0].result(PATIENCE)
    futures.clear()
    submit(manager.submit, grave, lambda: threading.Event().wait(0.1), timeout=0.05).clear()
    assert manager.join(PATIENCE)
    grave.check("value", *KINDS)


def test_where_no_resource_can_be_made_tasks_are_let_go_of_elsewhere(new_manager, grave, factory):
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=1, create_timeout=0.05, burst_interval=0.01)
    grave.watch(manager._engine)
    for _ in range(10):
        submit(manager.submit, grave).clear()
    grave.check(*KINDS)
    assert {name for _, name, _ in grave.dropped} <= {f"{manager._engine.name}-aside", "MainThread"}


@pytest.mark.slow
def test_a_compaction_lets_go_of_dead_entries_elsewhere(busy, grave):
    log = RecordingLog(grave)
    world = busy(logger=log)
    for _ in range(50):
        submit(world.manager.submit, grave)[0].cancel()
        submit(
            world.manager.submit, grave, timeout=0.01, priority=True
        ).clear()  # a failure that nobody sees
    grave.check(*KINDS)  # the only worker is busy: nobody else takes entries out
    eventually(lambda: len(log.loud()) >= 50, "the log")
    grave.check()
    world.gate.set()


def test_a_context_whose_deadline_passes_is_let_go_of_elsewhere(grave):
    def make_and_forget():
        top = with_timeout(with_value(background(), "key", grave.thing("value above")), 0.02)
        top.on_done(partial(id, grave.thing("callback")))
        with_value(top, "key", grave.thing("value of a child"))  # kept by its parent alone
        with_value(with_timeout(top, 0.01), "key", grave.thing("value of a child's child"))
        with_timeout(with_value(background(), "key", grave.thing("value alone")), 0.01)

    make_and_forget()
    grave.check(
        "value above", "callback", "value of a child", "value of a child's child", "value alone"
    )
    eventually(tasker._sync.timer.runner.is_clean)


def test_kill_lets_go_of_what_hangs_on_contexts_of_run_task_elsewhere(new_manager, grave, factory):
    factory.any_thread = True
    manager = new_manager(worker_count=1, resource_pool_size=1)
    grave.watch(manager._engine)
    running, gate = threading.Event(), threading.Event()

    def run(ctx, resource):
        child = with_value(ctx, "key", grave.thing("value"))
        child.on_done(partial(id, grave.thing("callback")))
        del child
        running.set()
        gate.wait(PATIENCE)

    caller = threading.Thread(target=manager.run_task, args=(run,))
    caller.start()
    assert running.wait(PATIENCE)
    killer = threading.Thread(target=manager.kill, args=(PATIENCE,))
    killer.start()
    grave.check("value", "callback")  # while it still runs
    gate.set()
    caller.join(PATIENCE)
    killer.join(PATIENCE)


def test_an_error_of_on_create_is_let_go_of_elsewhere(new_manager, grave):
    manager = new_manager(worker_count=1, burst_interval=0.01)
    grave.watch(manager._engine)
    assert manager.wait_ready(PATIENCE)
    error = OSError("down")
    error.attribute = grave.thing("error")
    manager._engine.user.create_error = (
        error  # of a worker that was dismissed before it tried again
    )
    del error
    manager._engine.queue.stir()
    grave.check("error")
    assert not any("worker" in name for name in grave.threads_of("error"))


def test_an_initializer_that_raises_lets_go_of_waiting_calls_elsewhere(grave, monkeypatch):
    monkeypatch.setattr("tasker.threadpool._log_failure", lambda: None)
    gate = threading.Event()

    def initialize():
        gate.wait(PATIENCE)
        raise OSError("cannot initialize")

    pool = ThreadPoolExecutor(1, initializer=initialize)
    grave.watch(pool._task_engine)
    for _ in range(20):
        submit(pool.submit, grave).clear()
    gate.set()
    pool.shutdown()
    grave.check("argument", "function", "callback", "attribute")
    assert grave.threads_of("argument") == {f"{pool._task_engine.name}-aside"}


@pytest.mark.slow
@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize("end", ["kill", "timeout", "cancel, then stop"])
def test_retries_that_pause_are_let_go_of_elsewhere(new_manager, grave, end, monkeypatch):
    monkeypatch.setattr("tasker._pool.backoff.Backoff.task_pause", lambda *_: 1000.0)
    manager = new_manager(worker_count=1, max_worker_count=1, burst_interval=0.01, max_retries=5)
    engine = manager._engine
    grave.watch(engine)

    def fail():
        raise Sick

    options = {"timeout": 0.3} if end == "timeout" else {}
    first = submit(manager.submit, grave, fail, **options)
    eventually(lambda: engine.queue._later, "the retry")
    if end == "kill":
        first.clear()
        manager.kill(0.2)
    elif end == "timeout":
        first.clear()
    else:
        assert first.pop().cancel()
        assert manager.stop(PATIENCE).drained
    grave.check(*KINDS)


def test_a_closed_manager_keeps_no_task_that_its_collector_held_up(new_manager, grave):
    gate, asked = threading.Event(), threading.Event()

    class Collector:
        def record_arrival(self):
            pass

        def record_completion(self, stamps):
            asked.set()
            gate.wait(PATIENCE)

        def metrics(self):
            return None

        record_failure = record_retry = record_completion

    manager = new_manager(
        worker_count=1, max_worker_count=1, collector=Collector(), burst_interval=0.01
    )
    submit(manager.submit, grave).clear()
    assert asked.wait(PATIENCE)
    eventually(lambda: manager._engine.housekeeper._settling, "a tick")
    stopper = threading.Thread(target=manager.stop)
    stopper.start()
    gate.set()
    stopper.join(PATIENCE)
    grave.check(*KINDS)  # the manager is there


# -- destructors that block -------------------------------------------------------------------------------------------


class Blocking:
    """A thing whose destructor does not return before `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.reached = threading.Event()

    def thing(self):
        world = self

        class Thing:
            def __del__(self):
                world.reached.set()
                world.gate.wait(5 * PATIENCE)

        return Thing()


@pytest.fixture
def blocking():
    blocking = Blocking()
    yield blocking
    blocking.gate.set()
    eventually(tasker._sync.timer.runner.is_clean)


@pytest.mark.slow
def test_kill_returns_although_a_destructor_blocks_and_names_its_thread(busy, blocking):
    world = busy()
    waiting = world.manager.submit(lambda *_: None, blocking.thing())
    others = [world.manager.submit(lambda *_: None) for _ in range(5)]
    reports = []
    killer = threading.Thread(target=lambda: reports.append(world.manager.kill(0.2)), daemon=True)
    killer.start()
    assert blocking.reached.wait(PATIENCE)
    killer.join(PATIENCE)
    assert not blocking.gate.is_set()
    assert [report.abandoned for report in reports] == [(f"{world.manager._engine.name}-aside",)]
    assert all(isinstance(future.exception(PATIENCE), Exception) for future in (waiting, *others))


@pytest.mark.parametrize("where", ["waiting", "running", "context"])
def test_while_a_destructor_blocks_all_deadlines_are_kept_and_workers_go_on(
    new_manager, blocking, where
):
    manager = new_manager(worker_count=2, max_worker_count=2, burst_interval=0.01)
    gate = threading.Event()
    held = [
        manager.submit(lambda _: gate.wait(PATIENCE)) for _ in range(2 if where == "waiting" else 1)
    ]
    eventually(lambda: all(each.running() for each in held))
    if where == "context":
        with_timeout(with_value(background(), "key", blocking.thing()), 0.01)
    elif where == "waiting":
        manager.submit(lambda *_: None, blocking.thing(), timeout=0.02)
    else:
        hold = SimpleNamespace(run=lambda _, *args: gate.wait(PATIENCE))
        manager.submit(
            lambda ctx, resource: with_value(ctx, "key", blocking.thing()) and hold.run(0),
            timeout=0.05,
        )
    assert blocking.reached.wait(PATIENCE)

    ended = threading.Event()
    with_timeout(background(), 0.01).on_done(ended.set)
    assert ended.wait(PATIENCE)
    late = manager.submit(lambda ctx, resource: ctx.wait(PATIENCE), timeout=0.02)
    with pytest.raises(TaskTimeoutError):
        late.result(PATIENCE)
    gate.set()
    assert manager.queue_task(lambda _: 1) == 1
    assert manager.join(PATIENCE)
    assert not blocking.gate.is_set()


@pytest.mark.slow
def test_a_healthy_stop_does_not_wait_for_a_destructor(new_manager, blocking, monkeypatch):
    monkeypatch.setattr("tasker._pool.lifecycle._JOIN_S", 0.1)
    manager = new_manager(worker_count=1, max_worker_count=1, burst_interval=0.01)
    gate = threading.Event()
    manager.submit(lambda _: gate.wait(PATIENCE))
    manager.submit(lambda *_: None, blocking.thing(), timeout=0.02)
    assert blocking.reached.wait(PATIENCE)
    gate.set()
    report = manager.stop(PATIENCE)
    assert not blocking.gate.is_set()
    assert report.drained
    assert report.abandoned == (f"{manager._engine.name}-aside",)


def test_the_error_of_a_kill_is_no_reason_to_keep_anything(busy, grave):
    world = busy()
    future = submit(world.manager.submit, grave)[0]
    world.manager.kill(PATIENCE)
    error = future.exception()
    eventually(
        lambda: (
            {"argument", "function", "callback", "context variable"}
            <= {each[0] for each in grave.dropped}
        )
    )
    del future, error
    grave.check(*KINDS)


def test_a_failure_that_nobody_saw_is_not_logged_under_a_lock(new_manager):
    logged = []

    class Logger:
        debug = info = warning = lambda *_: None

        def error(self, *_):
            logged.append(threading.current_thread())

    def fail(resource):
        raise LookupError

    manager = new_manager(logger=Logger())
    kept = [manager.submit(fail)]
    assert manager.join(PATIENCE)
    eventually(lambda: manager.stats().running_tasks == 0)  # nor does the worker refer to it
    with manager._engine.counters._lock:  # where the garbage collector comes by
        kept.clear()
        gc.collect()
        assert threading.current_thread() not in logged
    eventually(lambda: logged)
