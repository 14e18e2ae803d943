"""Fault injection: the process forks, the interpreter exits, a manager is forgotten, at the worst moments.

A program that hangs is ended by the timeout of `run_python`; a forked child that hangs is ended by its alarm. What a
program prints and its exit status are compared as a whole, and nothing may be written to stderr.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

import tasker.process
from tasker import Config, TaskManager
from tests.conftest import PATIENCE, eventually
from tests.test_shutdown import run_python

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


# -- fork --------------------------------------------------------------------------------------------------------------

FORKING = """
    import signal, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads

    gate = threading.Event()
    manager = TaskManager(Config(
        on_create=object, on_destroy=lambda r: None, worker_count=1, max_worker_count=1, queue_size=9))
    running = manager.submit(lambda resource: gate.wait(30))
    while not running.running():
        time.sleep(0.001)
    waiting = manager.submit(lambda resource: "the parent's")

    def leave_block():
        with manager:
            pass

    def in_a_child(name, use):
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # ends a child that hangs
            try:
                outcome = type(use()).__name__
            except BaseException as error:
                outcome = type(error).__name__
            print(name, outcome, flush=True)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            print(name, "ended with", status, flush=True)
"""

IN_A_CHILD = {
    "submit": ("manager.submit(len)", "TaskManagerShutdownError"),
    "submit with limits": (
        "manager.submit(len, priority=True, timeout=9, queue_timeout=9)",
        "TaskManagerShutdownError",
    ),
    "queue_task": ("manager.queue_task(len)", "TaskManagerShutdownError"),
    "queue_task_with_callback": ("manager.queue_task_with_callback(len, print)", "TaskManagerShutdownError"),
    "stats": ("manager.stats()", "TaskStats"),
    "metrics": ("manager.metrics()", "TaskMetrics"),
    "repr": ("repr(manager)", "str"),
    "join": ("manager.join()", "bool"),
    "wait_ready": ("manager.wait_ready()", "bool"),
    "stop": ("manager.stop()", "StopReport"),
    "kill": ("manager.kill()", "StopReport"),
    "leaving the with block": ("leave_block()", "NoneType"),
    "result of a running task": ("running.result()", "TaskManagerShutdownError"),
    "result of a waiting task": ("waiting.result()", "TaskManagerShutdownError"),
    "exception": ("waiting.exception()", "TaskManagerShutdownError"),
    "cancel": ("(running.cancel(), waiting.cancel())", "tuple"),
    "add_done_callback": ("waiting.add_done_callback(lambda done: None)", "NoneType"),
    "a manager of its own": ("TaskManager(CONFIG_OF_CHILD).queue_task(str)", "str"),
}


@needs_fork
def test_in_a_forked_child_every_use_of_a_busy_manager_returns_or_raises_and_the_parent_is_unharmed():
    uses = "".join(f"    in_a_child({name!r}, lambda: {use})\n" for name, (use, _) in IN_A_CHILD.items())
    own = "    CONFIG_OF_CHILD = Config(on_create=object, on_destroy=lambda r: None, worker_count=1)\n"
    after = """
    gate.set()
    print(running.result(), waiting.result(), manager.queue_task(lambda resource: "unharmed"), manager.stop().drained)
    """
    done = run_python(FORKING + own + uses + after)
    expected = [f"{name} {outcome}" for name, (_, outcome) in IN_A_CHILD.items()]
    assert done.stdout.splitlines() == [*expected, "True the parent's unharmed True"]
    assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_a_task_may_fork_and_its_child_ends_when_it_says():
    done = run_python("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        def fork(resource):
            child = os.fork()
            if child == 0:
                os._exit(5)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        with TaskManager(CONFIG) as manager:
            print([manager.queue_task(fork) for _ in range(3)], flush=True)
    """)
    assert done.stdout.split("\n")[:-1] == ["created", "[5, 5, 5]", "destroyed"]
    assert (done.returncode, done.stderr) == (0, "")


# -- interpreter exit --------------------------------------------------------------------------------------------------


def test_interpreter_exit_gives_five_seconds_to_drain_and_little_more_to_the_killed():
    """Programs below in which something is stuck shorten the first."""
    assert tasker.process.EXIT_TIMEOUT == 5.0
    assert tasker.process._EXIT_KILL < 1.0


BEFORE_EXIT = """
import tasker.process
QUIET = dict(on_create=object, on_destroy=lambda resource: None, worker_count=1, max_worker_count=1)
"""


def exits(code, *, status=0, stderr=""):
    """What a program prints that ends with `status`, and with no other `stderr`."""
    done = run_python(BEFORE_EXIT + code)
    assert done.stderr == "" if not stderr else stderr in done.stderr
    assert "Fatal Python error" not in done.stderr
    assert done.returncode == status
    return done.stdout.splitlines()


def test_the_interpreter_exits_with_deadlines_pending():
    assert exits("""
tasker.process.EXIT_TIMEOUT = 1.0
manager = TaskManager(CONFIG)
started = threading.Event()
context = with_timeout(background(), 3600)
context.on_done(lambda: print("never"))
quick = manager.submit(lambda resource: print("quick", flush=True), timeout=3600)
stuck = manager.submit(lambda ctx, resource: (started.set(), ctx.wait(), print(ctx.err(), flush=True)), timeout=3600)
late = manager.submit(lambda resource: print("never"), timeout=0.01)  # passes while the interpreter exits
late.add_done_callback(lambda done: print(type(done.exception()).__name__, flush=True))
started.wait()
tasker.process._EXIT_KILL = 20.0  # what ends sooner is not waited for
""") == ["created", "quick", "TaskTimeoutError", "tasker was killed", "destroyed"]


def test_the_interpreter_exits_while_a_task_is_blocked_in_a_task_of_another_manager():
    assert exits("""
tasker.process.EXIT_TIMEOUT = 0.2
started = threading.Event()
inner, outer = TaskManager(Config(**QUIET)), TaskManager(Config(**QUIET))
task = lambda ctx, resource: (started.set(), ctx.wait())  # for ever, were it not killed
outer.submit(lambda resource: print("asked and got", inner.queue_task(task), flush=True))
started.wait()
tasker.process._EXIT_KILL = 20.0  # what ends sooner is not waited for
""") == ["asked and got (None, True)"]


def test_the_interpreter_exits_in_the_middle_of_on_create():
    assert exits("""
tasker.process.EXIT_TIMEOUT = 0.2
creating = threading.Event()
def create():
    print("creating", flush=True)
    creating.set()
    time.sleep(1000)
manager = TaskManager(Config(on_create=create, on_destroy=print, worker_count=1))
future = manager.submit(print)
future.add_done_callback(lambda done: print(type(done.exception()).__name__, flush=True))
creating.wait()
""") == ["creating", "TaskManagerKilledError"]


def test_the_interpreter_exits_in_the_middle_of_on_destroy():
    assert exits("""
tasker.process.EXIT_TIMEOUT = 0.2
def destroy(resource):
    print("destroying", flush=True)
    time.sleep(1000)
manager = TaskManager(Config(on_create=object, on_destroy=destroy, worker_count=1))
print(manager.queue_task(lambda resource: "done"), flush=True)
""") == ["done", "destroying"]


@pytest.mark.parametrize("where", ["in the worker", "on a thread of its own"])
def test_the_interpreter_exits_with_a_callback_that_blocks(where):
    assert exits(f"""
tasker.process.EXIT_TIMEOUT = 0.2
blocked, gate = threading.Event(), threading.Event()
def block(result, error):
    print("blocking", flush=True)
    blocked.set()
    time.sleep(1000)
manager = TaskManager(Config(**QUIET))
if {where == "in the worker"}:
    manager.queue_task_with_callback(lambda resource: 0, block)
else:
    busy = manager.submit(lambda resource: gate.wait())
    manager.queue_task_with_callback(lambda resource: 0, block, timeout=0.01)
waiting = manager.submit(lambda resource: print("ran", flush=True))
waiting.add_done_callback(lambda done: print(type(done.exception()).__name__, flush=True))
blocked.wait()
gate.set()
if {where != "in the worker"}:
    waiting.result()
""") == (["blocking", "TaskManagerKilledError"] if where == "in the worker" else ["blocking", "ran", "NoneType"])


def test_at_exit_managers_close_before_the_libraries_that_were_there_when_they_were_made():
    done = run_python("""
        import atexit
        from tasker import Config, TaskManager

        atexit.register(print, "the library closes", flush=True)
        config = Config(on_create=str, on_destroy=lambda _: print("destroyed", flush=True), worker_count=1)
        manager = TaskManager(config)
        manager.queue_task(len)
        atexit.register(lambda: print("a task still runs:", manager.queue_task(len), flush=True))
    """)
    assert done.stdout.splitlines() == ["a task still runs: 0", "destroyed", "the library closes"]
    assert (done.returncode, done.stderr) == (0, "")


def test_a_destructor_at_the_end_of_the_interpreter_finds_every_manager_closed_and_can_make_none():
    assert exits("""
class Kept:
    def __init__(self, manager):
        self.manager = manager

    def __del__(self, print=print, TaskManagerShutdownError=TaskManagerShutdownError):
        try:
            self.manager.submit(id)
        except TaskManagerShutdownError:
            print("refused", flush=True)
        print(self.manager.stop().drained, self.manager.kill().drained, self.manager.join(), flush=True)
        for make in TaskManager, ThreadPoolExecutor:
            try:
                make(Config(**QUIET)) if make is TaskManager else make(1).submit(int)
            except RuntimeError:
                print("no thread", flush=True)

import builtins
builtins.kept = Kept(TaskManager(Config(**QUIET)))
""") == ["refused", "True True True", "no thread", "no thread"]


def test_the_interpreter_exits_while_other_threads_submit_and_wait():
    assert exits("""
manager = TaskManager(Config(**QUIET))
running = threading.Barrier(4)
def submit_for_ever(call):
    running.wait()
    try:
        while True:
            call(lambda resource: 0)
    except TaskManagerShutdownError:
        pass
for call in (manager.submit, manager.queue_task, manager.run_task):
    threading.Thread(target=submit_for_ever, args=(call,), daemon=True).start()
running.wait()
print(manager.queue_task(lambda resource: "and exit"), flush=True)
""") == ["and exit"]


def test_the_interpreter_exits_while_a_daemon_thread_is_stuck_in_run_task():
    assert exits("""
tasker.process.EXIT_TIMEOUT = 0.2
manager = TaskManager(Config(**QUIET))
started = threading.Event()
task = lambda resource: (print("started", flush=True), started.set(), time.sleep(1000))
threading.Thread(target=manager.run_task, args=(task,), daemon=True).start()
started.wait()
""") == ["started"]


def test_an_error_of_the_program_is_printed_and_its_tasks_are_finished():
    assert exits(
        """
manager = TaskManager(CONFIG)
for i in range(3):
    manager.submit(lambda resource, i: print("ran", i, flush=True), i)
raise LookupError("the program's own")
""",
        status=1,
        stderr="LookupError: the program's own",
    ) == ["created", "ran 0", "ran 1", "ran 2", "destroyed"]


def test_a_system_exit_in_a_task_does_not_end_the_program():
    assert exits("""
manager = TaskManager(CONFIG)
print(type(manager.submit(lambda resource: sys.exit(3)).exception()).__name__, flush=True)
""") == ["created", "SystemExit", "destroyed"]


# -- forgotten managers ------------------------------------------------------------------------------------------------


class Forgotten:
    """A manager of one worker that is busy until `gate` is opened, and the means to see it go."""

    def __init__(self, factory):
        self.gate, started = threading.Event(), threading.Event()
        self.manager = TaskManager(
            Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1, max_worker_count=1)
        )
        self.watch = weakref.ref(self.manager)
        self.engine = weakref.ref(self.manager._engine)
        self.manager.submit(lambda resource: (started.set(), self.gate.wait(PATIENCE)))
        assert started.wait(PATIENCE)

    def is_gone(self):
        gc.collect()
        return self.watch() is None and self.engine() is None


@pytest.fixture
def forgotten(factory):
    forgotten = Forgotten(factory)
    yield forgotten
    forgotten.gate.set()
    eventually(forgotten.is_gone, "the collection of the manager")
    eventually(lambda: factory.live == 0)


def test_a_manager_forgotten_with_tasks_waiting_runs_them_all(forgotten):
    futures = [forgotten.manager.submit(lambda resource, x: x, i, priority=i % 2 == 0) for i in range(20)]
    del forgotten.manager
    gc.collect()
    assert forgotten.watch() is None
    assert not any(future.done() for future in futures)
    forgotten.gate.set()
    assert [future.result(PATIENCE) for future in futures] == list(range(20))


def test_a_manager_in_a_cycle_with_its_callbacks_is_collected_once_they_have_run(forgotten):
    called = []

    def tie(manager):
        future = manager.submit(lambda resource: "run")
        manager.cycle = future
        future.add_done_callback(lambda done: called.append((repr(manager)[:12], done.result())))
        manager.queue_task_with_callback(lambda resource: 0, lambda result, error: called.append(repr(manager)[:12]))

    tie(forgotten.manager)
    del forgotten.manager
    gc.collect()
    assert forgotten.watch() is not None  # a task that waits needs it: it is not forgotten yet
    forgotten.gate.set()
    eventually(lambda: called == [("<TaskManager", "run"), "<TaskManager"])


@pytest.mark.parametrize("where", ["task", "callback", "cycle"])
def test_a_manager_whose_own_worker_forgets_it_last_is_stopped_and_finishes(forgotten, where):
    holder, called = [forgotten.manager], []
    if where == "cycle":
        forgotten.manager.cycle = forgotten.manager
    manager = forgotten.manager
    if where == "callback":
        manager.queue_task_with_callback(lambda resource: 0, lambda result, error: holder.clear())
    else:
        manager.submit(lambda resource: (holder.clear(), gc.collect()))
    manager.queue_task_with_callback(lambda resource: "the last", lambda result, error: called.append(result))
    del forgotten.manager, manager
    forgotten.gate.set()
    eventually(lambda: called == ["the last"])
    assert holder == []
