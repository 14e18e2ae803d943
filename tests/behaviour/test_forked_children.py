"""In a forked child everything ends, whatever other threads did in the parent."""

from __future__ import annotations

import pytest

from tests.support.snippets import FORKING, needs_fork, run_python

LOCKS = """
    def every_use():
        uses = [
            lambda: manager.submit(len), lambda: manager.queue_task(len), lambda: manager.run_task(len),
            manager.stats, manager.metrics, lambda: manager.join(0), lambda: manager.wait_ready(0),
            running.result, waiting.result, running.cancel, waiting.cancel, manager.stop, manager.kill,
        ]
        for use in uses:
            try:
                use()
            except (TaskManagerShutdownError, TaskManagerKilledError):
                pass
        return len(uses)

    engine, kinds = manager._engine, (type(threading.Lock()), type(threading.RLock()), threading.Condition)
    parts = dict(engine=engine, **{name: value for name, value in vars(engine).items() if hasattr(value, "__dict__")})
    locks = {
        f"{part}.{name}": value for part, it in parts.items() for name, value in vars(it).items()
        if isinstance(value, kinds)
    }
    for name, lock in locks.items():
        held, release = threading.Event(), threading.Event()
        def hold():
            with lock:
                held.set()
                release.wait()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        in_a_child(name, every_use)
        release.set()
        holder.join()
    gate.set()
    print(len(locks) > 5, waiting.result(), manager.stop().drained)
"""


@pytest.mark.slow
@needs_fork
def test_in_a_forked_child_nothing_hangs_whatever_lock_another_thread_held():
    done = run_python(FORKING + LOCKS)
    *children, parent = done.stdout.splitlines()
    assert [line for line in children if not line.endswith(" int")] == []
    assert parent == "True the parent's True"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@needs_fork
def test_in_a_forked_child_a_task_that_another_thread_was_just_taking_or_sweeping_has_an_end():
    """Not in its lane any more, and its worker does not say yet that it runs."""
    done = run_python(
        FORKING
        + """
    from collections import deque
    taken, go_on = threading.Event(), threading.Event()

    class Slow(deque):
        def popleft(self):
            task = super().popleft()
            taken.set()
            go_on.wait()
            return task

    manager._engine.queue._main = Slow(manager._engine.queue._main)
    gate.set()
    taken.wait()
    in_a_child("result", waiting.result)
    in_a_child("exception", waiting.exception)
    go_on.set()
    print(waiting.result(), manager.stop().drained)
    """
    )
    assert done.stdout.splitlines() == [
        "result TaskManagerShutdownError",
        "exception TaskManagerShutdownError",
        "the parent's True",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@needs_fork
def test_in_a_forked_child_the_standard_waits_see_inherited_futures_ended():
    done = run_python(
        FORKING
        + """
    from concurrent.futures import as_completed, wait
    in_a_child("wait", lambda: wait([running, waiting]))
    in_a_child("as_completed", lambda: list(as_completed([running, waiting])))
    gate.set()
    print(waiting.result(), manager.stop().drained)
    """
    )
    assert done.stdout.splitlines() == [
        "wait DoneAndNotDoneFutures",
        "as_completed list",
        "the parent's True",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@needs_fork
def test_a_fork_looks_at_what_other_threads_use_before_it_forks_and_keeps_nothing_of_that():
    done = run_python(
        """
    from tasker._pool import exit_and_fork
    from tasker._pool.engine import Engine
    looks, look = [], Engine.unfinished
    Engine.unfinished = lambda engine: looks.append(os.getpid()) or look(engine)
    parent = os.getpid()
    """
        + FORKING
        + """
    in_a_child("wait", lambda: print(looks == [parent], vars(exit_and_fork._forking), running.done(), flush=True))
    print(looks == [parent], vars(exit_and_fork._forking), running.done())
    gate.set()
    print(waiting.result(), manager.stop().drained)
    """
    )
    assert done.stdout.splitlines() == [
        "True {} True",
        "wait NoneType",
        "True {} False",
        "the parent's True",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@needs_fork
def test_in_a_forked_child_run_task_is_refused_and_the_parents_resources_are_neither_used_nor_freed():
    done = run_python("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        class Resource:
            def __del__(self):
                if os.getpid() != parent:
                    print("freed by the child", flush=True)

        parent = os.getpid()
        manager = TaskManager(Config(
            on_create=Resource, on_destroy=Resource.__del__, worker_count=1, resource_pool_size=1))
        manager.wait_ready()
        child = os.fork()
        if child == 0:
            try:
                print("used", manager.run_task(lambda resource: "by the child"), flush=True)
            except TaskManagerShutdownError as error:
                print("refused", flush=True)
            sys.exit(manager.stop().destroy_errors)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print(manager.run_task(lambda resource: "used by the parent"), flush=True)
    """)
    assert done.stdout.splitlines() == ["refused", "child 0", "used by the parent"]
    assert (done.returncode, done.stderr) == (0, "")
