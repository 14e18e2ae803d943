"""Programs whose resources live in child processes: their `__main__`, their output, and however they end."""

from __future__ import annotations

import os
import signal
import textwrap
import time

import pytest

from tests.support.placements import on_linux, on_posix
from tests.support.processes import is_alive
from tests.support.programs import interrupt_group, run, running
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, on_posix]


# -- __main__ --------------------------------------------------------------------------------------------------------

MAIN = """
print("main runs", __name__, flush=True)

class Number:
    def __init__(self, value):
        self.value = value

class Wrong(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

def doubled(number):
    return Number(2 * number.value)

def task(resource, number):
    if number.value == 13:
        raise Wrong(13, "unlucky")
    return doubled(number)

with manager() as m:
    print(type(m.queue_task(task, Number(21))) is Number, m.queue_task(task, Number(21)).value)
    try:
        m.queue_task(task, Number(13))
    except Wrong as error:
        print("caught", error.code, "in task" in str(error.__cause__))
    print([number.value for number in m.map(task, map(Number, range(4)), chunksize=3)])
    print(m.run_task(lambda resource, number: number.value, Number(7)), flush=True)
"""


@pytest.mark.parametrize("how", ["script", "string", "stdin"])
def test_what_main_defines_crosses_and_main_is_not_run_again(tmp_path, how):
    done = run(MAIN, tmp_path, how)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "main runs __main__",
        "True 42",
        "caught 13 True",
        "[0, 2, 4, 6]",
        "7",
        "destroyed",
        "destroyed",
    ]
    assert done.returncode == 0


def test_what_main_defines_needs_the_extra_and_is_told_so(tmp_path):
    done = run(
        """
        sys.modules["cloudpickle"] = None
        class Number:
            pass
        try:
            manager()
        except ConfigError as error:
            print("tasker-pool[processes]" in str(error), "on_create" in str(error), threading.active_count())
        m = manager(on_create=list, on_destroy=len)
        for call in (lambda: m.submit(process_of), lambda: m.submit(list.append, Number())):
            try:
                call()
            except TypeError as error:
                print("tasker-pool[processes]" in str(error), str(error).partition(" of a task")[0])
        print(m.queue_task(len))
        """,
        tmp_path,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True True 1", "True the function", "True argument 1", "0"]


def test_what_children_print_is_printed_and_they_read_nothing(tmp_path):
    done = run(
        """
        def speak(resource):
            print("out")
            print("error", file=sys.stderr, flush=True)
            return sys.stdin.read()

        with manager(on_destroy=len) as m:
            print(repr(m.queue_task(speak)), flush=True)
        """,
        tmp_path,
    )
    assert sorted(done.stdout.splitlines()) == ["''", "out"]
    assert done.stderr == "error\n"


def test_children_see_the_path_the_arguments_and_the_environment_of_their_parent(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "added").mkdir(parents=True)
    (elsewhere / "added" / "found_there.py").write_text("def task(resource):\n    return 'found'\n")
    (elsewhere / "pickle.py").write_text(
        "raise SystemExit('the working directory is no place for modules')\n"
    )
    done = run(
        """
        sys.path.append("added")
        sys.argv[1:] = ["--given"]
        os.environ["GIVEN"] = "yes"
        import found_there

        with manager() as m:
            print(m.queue_task(found_there.task))
            print(*m.queue_task(lambda resource: (*sys.argv[1:], os.environ["GIVEN"], os.path.basename(os.getcwd()))))
        """,
        tmp_path,
        cwd=elsewhere,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["found", "--given yes elsewhere", "destroyed"]


# -- the end of a program --------------------------------------------------------------------------------------------


def test_at_interpreter_exit_what_was_accepted_is_done_and_children_end(tmp_path):
    done = run(
        """
        m = manager(worker_count=2, max_worker_count=2)
        m.wait_ready()
        def task(resource, number):
            os.write(1, b"ran\\n")
            return number
        futures = [m.submit(task, number) for number in range(20)]
        futures[-1].add_done_callback(lambda done: say("last", done.result()))
        say(m.run_task(process_of))
        """,
        tmp_path,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert (lines.count("ran"), lines.count("destroyed"), "last 19" in lines) == (20, 3, True)
    [process] = [line for line in lines if line.isdigit()]
    assert not is_alive(int(process))
    assert done.returncode == 0


def test_at_interpreter_exit_tasks_that_do_not_end_are_ended(tmp_path):
    done = run(
        """
        import tasker._pool.exit_and_fork
        tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = 0.05
        m = manager()
        running, waiting = m.submit(stand, "gate"), m.submit(process_of)
        running.add_done_callback(lambda done: say("running", type(done.exception()).__name__))
        waiting.add_done_callback(lambda done: say("waiting", type(done.exception()).__name__))
        eventually(lambda: os.path.exists("gate") and open("gate").read())
        """,
        tmp_path,
    )
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == [
        "running TaskManagerKilledError",
        "waiting TaskManagerKilledError",
    ]
    process = int((tmp_path / "gate").read_text())
    eventually(lambda: not is_alive(process), "the child to end")


PARENT = """
m = [manager() for _ in range(3)]
m[1].submit(lambda resource: (open("gil", "w").write(str(os.getpid())), sum(range(10**12))))
m[2].submit(stand, "deaf")
def create_for_ever():
    stand(None, "creating")
creating = manager(on_create=create_for_ever)
pooled = m[0].run_task(process_of)
eventually(lambda: all(os.path.exists(name) and open(name).read() for name in ("gil", "deaf", "creating")))
"""


def children_of_parent(directory):
    return [int((directory / name).read_text()) for name in ("gil", "deaf", "creating")]


def assert_they_end_with(parent, processes):
    assert all(map(is_alive, processes))
    parent.kill()
    parent.wait(PATIENCE)
    for process in processes:
        eventually(
            lambda process=process: not is_alive(process), "a child of a killed parent to end"
        )


@on_linux
def test_when_the_parent_is_killed_all_children_end(tmp_path):
    with running(
        PARENT + "print(m[0].queue_task(process_of), pooled, flush=True)\nsignal.pause()", tmp_path
    ) as parent:
        processes = [*map(int, parent.stdout.readline().split()), *children_of_parent(tmp_path)]
        assert len(set(processes)) == 5
        assert_they_end_with(parent, processes)


@on_linux
def test_when_the_parent_is_killed_children_end_by_themselves_where_the_kernel_does_not_help(
    tmp_path,
):
    code = """
    import tasker.placement.processes.launch
    tasker.placement.processes.launch.lifeline = lambda: os.open(os.devnull, os.O_RDONLY)
    m = [manager() for _ in range(2)]
    m[1].submit(stand, "deaf")
    eventually(lambda: os.path.exists("deaf") and open("deaf").read())
    print(m[0].queue_task(process_of), flush=True)
    signal.pause()
    """
    with running(code, tmp_path) as parent:
        processes = [int(parent.stdout.readline()), int((tmp_path / "deaf").read_text())]
        assert_they_end_with(parent, processes)


@on_linux
def test_a_forked_process_neither_uses_the_children_nor_keeps_them_alive(tmp_path):
    code = """
    fork = os.fork()
    if fork == 0:
        def outcome(call):
            try:
                return type(call()).__name__
            except BaseException as error:
                return type(error).__name__
        told = [outcome(lambda: m[0].submit(process_of)), outcome(lambda: m[0].run_task(process_of)),
            outcome(lambda: m[2].kill()), outcome(manager(on_destroy=len).stop)]
        open("forked", "w").write(" ".join(told))
        os.open("forked.done", os.O_CREAT)
        signal.alarm(120)
        signal.pause()
    eventually(lambda: os.path.exists("forked.done"))
    print(fork, m[0].queue_task(process_of), flush=True)
    signal.pause()
    """
    with running(PARENT + textwrap.dedent(code), tmp_path) as parent:
        fork, idle = map(int, parent.stdout.readline().split())
        try:
            told = (tmp_path / "forked").read_text().split()
            assert told == [
                "TaskManagerShutdownError",
                "TaskManagerShutdownError",
                "StopReport",
                "StopReport",
            ]
            processes = [idle, *children_of_parent(tmp_path)]
            assert all(map(is_alive, processes))
            parent.kill()
            parent.wait(PATIENCE)
            for process in processes:
                eventually(
                    lambda process=process: not is_alive(process),
                    "a child of a killed parent to end",
                )
            assert is_alive(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


@on_linux
def test_ctrl_c_kills_a_manager_in_a_with_block_and_children_do_not_see_it(tmp_path):
    code = """
    with manager() as m:
        future = m.submit(stand, "gate")
        eventually(lambda: os.path.exists("gate") and open("gate").read())
        print("ready", flush=True)
        eventually(future.done)  # a signal that comes just before a sleep does not end the sleep
    """
    with running(code, tmp_path) as program:
        assert program.stdout.readline() == "ready\n"
        interrupt_group(program)
        out, error = program.communicate(timeout=PATIENCE)
    assert out == ""
    assert error.count("Traceback") == error.count("KeyboardInterrupt") == 1
    assert program.returncode == -signal.SIGINT
    assert not is_alive(int((tmp_path / "gate").read_text()))


@on_linux
def test_children_go_on_when_their_parent_survives_ctrl_c(tmp_path):
    code = """
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: (seen.append(number), open("gate.open", "w"), 0)[2])
    with manager() as m:
        first, future = m.queue_task(process_of), m.submit(stand, "gate")
        starting = manager()  # a child that is being started does not see it either
        eventually(lambda: os.path.exists("gate") and open("gate").read())
        print("ready", flush=True)
        eventually(future.done)
        print(future.result(), m.queue_task(process_of) == first, len(seen), flush=True)
        print(starting.queue_task(process_of) != first, starting.metrics().total_tasks_retried)
    """
    with running(code, tmp_path) as program:
        assert program.stdout.readline() == "ready\n"
        interrupt_group(program)
        out, error = program.communicate(timeout=PATIENCE)
    assert error == ""
    assert out.splitlines()[:2] == ["passed True 1", "True 0"]
    assert program.returncode == 0


@on_linux
def test_a_parent_that_was_stopped_for_longer_than_a_creation_may_take_goes_on_waiting_for_it(
    tmp_path,
):
    code = """
    def create_behind():
        open("created", "a").write("x")
        eventually(lambda: os.path.exists("go"))
    m = manager(on_create=create_behind, on_destroy=process_of, create_timeout=2)
    future = m.submit(process_of)
    eventually(lambda: os.path.exists("created"))
    say("ready")
    say(type(future.result()).__name__, os.path.getsize("created"))
    m.stop()
    """
    with running(code, tmp_path) as program:
        assert program.stdout.readline() == "ready\n"
        os.kill(program.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(program.pid, signal.SIGCONT)
        time.sleep(0.5)  # in which an impatient one would give up
        (tmp_path / "go").touch()
        out, error = program.communicate(timeout=PATIENCE)
    assert (out, error) == ("int 1\n", "")
