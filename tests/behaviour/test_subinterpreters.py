"""In a subinterpreter, where no thread can be a daemon: all works, and its end waits for nothing that can be ended."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info < (3, 14), reason="concurrent.interpreters is there from 3.14 on"
    ),
]

BEGIN = f"import sys\nsys.path[:] = {sys.path!r}"
INSIDE = f"""{BEGIN}
import atexit, os, threading, time
import tasker._pool.exit_and_fork
from tasker import *
OPTIONS = dict(on_create=dict, on_destroy=dict.clear, worker_count=1, max_worker_count=1, burst_interval=0)
def say(*what):  # in one piece: two threads may do so at once
    sys.stdout.write(" ".join(map(str, what)) + chr(10))
    sys.stdout.flush()
"""
OPEN = "<sys>:0: RuntimeWarning: remaining subinterpreters; close them with Interpreter.close()\n"


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=False, env=environment
    )


def lines_of(code: str, *, closes: bool = True, stderr: str = "") -> list[str]:
    """What a subinterpreter prints that runs the code and ends: closed, or with the main one."""
    inside = INSIDE + textwrap.dedent(code)
    close = "other.close(); print('closed', flush=True)" if closes else ""
    done = run(
        f"from concurrent import interpreters\nother = interpreters.create()\nother.exec({inside!r})\n{close}"
    )
    assert (done.returncode, done.stderr) == (0, stderr if closes else stderr + OPEN), done.stdout
    lines = done.stdout.splitlines()
    return lines[: lines.index("closed")] if closes else lines


def test_managers_and_the_drop_in_work_in_the_interpreters_of_a_pool(tmp_path):
    (tmp_path / "jobs.py").write_text("""
from tasker import Config, TaskManager, ThreadPoolExecutor

manager = TaskManager(Config(on_create=list, on_destroy=list.clear, worker_count=2))

def in_manager(number):
    def remember(resource):
        resource.append(number)
        return number
    return manager.queue_task_async(remember, timeout=20).result()

def in_drop_in(number):
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(pow, [number] * 3, range(3)))
""")
    program = """
from concurrent.futures import InterpreterPoolExecutor
import jobs

with InterpreterPoolExecutor(2) as pool:
    print(list(pool.map(jobs.in_manager, range(9))), list(pool.map(jobs.in_drop_in, range(4))))
"""
    done = run(program, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert (done.returncode, done.stdout) == (0, "[0, 1, 2, 3, 4, 5, 6, 7, 8] [1, 3, 7, 13]\n"), (
        done.stderr
    )


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "ends with the main one"])
def test_an_interpreter_ends_with_managers_and_threads_that_nobody_stopped(closes):
    code = """
    manager = TaskManager(Config(**{**OPTIONS, "on_destroy": lambda resource: say("destroyed")}))
    pool = ThreadPoolExecutor(1)
    gate = threading.Event()

    def user():
        # a thread of others may use a manager until it ends, whatever has begun to end
        pool.submit(say, "the pool finishes what it accepted").result()
        time.sleep(0.2)
        say("used", manager.submit(lambda resource: "late", timeout=30).result())
        manager.submit(lambda resource: say("and what waits is done"))

    manager.submit(lambda resource: say("task"), timeout=1000).result()
    threading.Thread(target=user).start()
    """
    lines = lines_of(code, closes=closes)
    assert lines == [
        "task",
        "the pool finishes what it accepted",
        "used late",
        "and what waits is done",
        "destroyed",
    ]


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "ends with the main one"])
def test_a_task_that_heeds_its_context_does_not_hold_up_the_end(closes):
    code = """
    tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = 0.1
    manager = TaskManager(Config(**OPTIONS))
    began = threading.Event()
    manager.submit(lambda context, resource: (began.set(), say("told to end", context.wait())))
    began.wait()
    waiting = manager.submit(lambda context, resource: say("never"))
    waiting.add_done_callback(lambda future: say(type(future.exception()).__name__))
    """
    assert sorted(lines_of(code, closes=closes)) == ["TaskManagerKilledError", "told to end True"]


def test_a_task_that_heeds_nothing_holds_up_the_end_until_it_returns_and_is_named():
    code = """
    tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = 0.1
    manager = TaskManager(Config(**OPTIONS, name="stubborn"))

    def stubborn(resource):
        say("a deadline passes", with_timeout(background(), 2.0).wait())
        for make in (lambda: TaskManager(Config(**OPTIONS)), lambda: ThreadPoolExecutor(1)):
            try:
                make()
            except TaskManagerShutdownError:
                say("refused")

    began = threading.Event()
    manager.submit(lambda resource: (began.set(), stubborn(resource)))
    began.wait()
    """
    said = "tasker: the interpreter cannot end before these have: stubborn-worker-1\n"
    assert lines_of(code, stderr=said) == ["a deadline passes True", "refused", "refused"]


def test_what_comes_after_the_last_thread_starts_none():
    code = """
    made = TaskManager(Config(**OPTIONS))

    def late():
        with_timeout(background(), 1000).on_done(print)
        for make in (lambda: TaskManager(Config(**OPTIONS)), lambda: ThreadPoolExecutor(1)):
            try:
                make()
            except RuntimeError as error:
                say(error)
        try:
            made.submit(lambda resource: 1)
        except TaskManagerShutdownError:
            say("closed for long")
        say(threading.active_count())

    atexit.register(late)
    """
    refused = "can't start new thread: the interpreter ends"
    assert lines_of(code) == [refused, refused, "closed for long", "1"]


def test_tasker_may_be_imported_when_the_interpreter_ends():
    inside = f"""{BEGIN}
import concurrent.futures.thread  # itself cannot be imported then
import threading

def late():
    import tasker
    try:
        tasker.ThreadPoolExecutor(1)
    except RuntimeError as error:
        print(error, flush=True)
    print("ended")
threading.Timer(0.2, late).start()
"""
    done = run(
        f"from concurrent import interpreters\nother = interpreters.create()\nother.exec({inside!r})\nother.close()"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "can't start new thread: the interpreter ends\nended\n"


def test_child_processes_work_there_and_leave_nothing_behind():
    inside = f"""{INSIDE}
manager, parent = TaskManager(Config(**OPTIONS, placement=Processes())), os.getpid()
say(manager.queue_task(lambda resource: os.getpid() != parent))
"""
    done = run(f"""
import os
from concurrent import interpreters

def left():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

before = left()
for _ in range(2):
    other = interpreters.create()
    other.exec({inside!r})
    other.close()
print("nothing" if left() == before else (left(), before))
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["True", "True", "nothing", "no child"]


def test_a_task_that_forks_there_gets_the_refusal_of_the_interpreter():
    code = """
    with TaskManager(Config(**OPTIONS)) as manager:
        say(manager.submit(lambda resource: os.fork()).exception())
        say(manager.queue_task(lambda resource: "goes on"))
    """
    assert lines_of(code) == ["fork not supported for isolated subinterpreters", "goes on"]
