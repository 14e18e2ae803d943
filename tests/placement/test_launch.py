"""How a child is started: with its parent's path and flags, descriptors of its own, and out of reach of its signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import sortedcontainers

import tasker
from tasker import Processes
from tasker.placement.processes import launch
from tests.support import deadly_tasks, remote_tasks
from tests.support.placements import on_linux, on_posix
from tests.support.processes import is_alive
from tests.support.programs import environment, run, running
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, on_posix]


@pytest.fixture
def placement():
    return Processes(grace=0.1)


# -- the path --------------------------------------------------------------------------------------------------------

WORKS = """
    import logging
    logging.disable(logging.CRITICAL)
    from tasker import *
    config = Config(on_create=list, on_destroy=len, worker_count=1, placement=Processes(), create_timeout=5)
    with TaskManager(config) as m:
        print(m.queue_task(len))
"""


def run_where_tasker_lies_in(
    folder: Path, code: str, *flags: str
) -> subprocess.CompletedProcess[str]:
    """Run a program that finds tasker in this folder, if it looks there."""
    folder.mkdir()
    for package in (tasker, sortedcontainers):
        (folder / package.__name__).symlink_to(Path(package.__file__).parent)
    return subprocess.run(
        [
            sys.executable,
            *flags,
            "-c",
            f"import sys; folder = {str(folder)!r}\n" + textwrap.dedent(code),
        ],
        env={name: value for name, value in environment().items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_what_lies_beside_tasker_does_not_pass_for_a_module_of_the_standard_library(tmp_path):
    folder = tmp_path / "site"
    program = """
        for name in ("dataclasses", "logging", "pickle", "threading"):
            open(f"{folder}/{name}.py", "w").write("raise ImportError('a stray module was imported')")
        sys.path.append(folder)  # behind the standard library, as site-packages is
    """
    done = run_where_tasker_lies_in(folder, textwrap.dedent(program) + textwrap.dedent(WORKS), "-S")
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("flags", [["-I"], ["-E", "-S"], ["-I", "-S", "-O"]], ids=" ".join)
def test_a_program_that_makes_its_own_path_and_looks_at_no_environment_has_children(
    tmp_path, flags
):
    code = "sys.path.insert(0, folder)\n" + textwrap.dedent(WORKS)
    done = run_where_tasker_lies_in(tmp_path / "bundle", code, *flags)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_children_find_a_tasker_that_is_not_on_the_path_any_more(tmp_path):
    code = (
        "sys.path.insert(0, folder)\nimport tasker, tasker.placement.processes.proxy\ndel sys.path[0]\n"
        + textwrap.dedent(WORKS)
    )
    done = run_where_tasker_lies_in(tmp_path / "vendored", code, "-S")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_child_has_its_parents_path_and_flags(tmp_path):
    done = run(
        """
        sys.path[:] = [*sys.path, "", "no such folder", 7]
        with manager(on_destroy=len) as m:
            path, flags = m.queue_task(lambda resource: (sys.path, tuple(sys.flags)))
            print(path == [each for each in sys.path if each != 7], flags == tuple(sys.flags))
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_a_child_has_its_parents_options(tmp_path):
    """Not only those that the standard library hands on."""
    code = """
        sys.path.insert(0, folder)
        from tasker import *
        def look(resource):
            return sys._xoptions, sys.warnoptions, sys.get_int_max_str_digits()
        with TaskManager(Config(on_create=list, on_destroy=len, worker_count=1, placement=Processes())) as m:
            print(m.queue_task(look) == look(None), look(None)[2], len(sys._xoptions))
    """
    options = [
        "-X",
        "int_max_str_digits=5000",
        "-X",
        "warn_default_encoding",
        "-X",
        "utf8=1",
        "-W",
        "error::UserWarning",
    ]
    done = run_where_tasker_lies_in(tmp_path / "site", code, *options)
    assert (done.stdout, done.stderr) == ("True 5000 3\n", "")


@pytest.mark.parametrize("how", ["script", "string"])
def test_children_of_a_program_that_has_gone_elsewhere_find_what_it_has_imported(tmp_path, how):
    """By relative entries of `sys.path`. An empty one leads to where a program without a file began."""
    (tmp_path / "library").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "library" / "imported.py").write_text("def there(resource): return 'imported'")
    (tmp_path / "library" / "later.py").write_text("def there(resource): return 'later'")
    (tmp_path / "beside.py").write_text("def there(resource): return 'beside'")
    code = """
        sys.path.insert(0, "library")
        import beside, imported
        os.chdir("elsewhere")
        import later
        with manager(on_destroy=len) as m:
            print([m.queue_task(module.there) for module in (beside, imported, later)])
    """
    done = run(code, tmp_path, how)
    assert (done.stdout, done.stderr) == ("['beside', 'imported', 'later']\n", "")


# -- descriptors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_with_standard_descriptors_closed_children_serve(tmp_path, closed):
    done = run(
        f"""
        for descriptor in {closed}:
            os.close(descriptor)

        def look(resource):
            print("to whom?")
            print("to whom?", file=sys.stderr)
            return [os.fstat(descriptor).st_rdev for descriptor in range(3)]

        with manager(on_destroy=len, create_timeout=5) as m:
            open("seen", "w").write(repr(m.queue_task(look)))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done
    nowhere = os.stat(os.devnull).st_rdev
    seen = eval((tmp_path / "seen").read_text())
    assert seen[0] == nowhere
    assert seen[1] == (nowhere if 1 in closed else 0)


def test_a_pipe_has_ends_above_standard_descriptors(tmp_path):
    done = run(
        """
        from tasker.placement.processes.launch import pipe
        for closed in range(1, 8):
            kept = [os.dup(descriptor) for descriptor in range(3)]
            for descriptor in range(3):
                if closed >> descriptor & 1:
                    os.close(descriptor)
            ends = pipe()
            os.write(ends[1], b"x")
            assert os.read(ends[0], 9) == b"x" and min(ends) > 2 and not any(map(os.get_inheritable, ends))
            for descriptor in range(3):
                os.dup2(kept[descriptor], descriptor)
            for end in (*kept, *ends):
                os.close(end)
        print("above")
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("above\n", "")


def test_a_file_that_took_the_number_of_standard_error_is_not_written_to(tmp_path):
    done = run(
        """
        os.close(2)
        precious = open("precious", "w")
        assert precious.fileno() == 2
        with manager(on_destroy=len) as m:
            m.queue_task(lambda resource: os.write(2, b"an error"))
        os.write(2, b"kept")
        """,
        tmp_path,
    )
    assert done.returncode == 0
    assert (tmp_path / "precious").read_text() == "kept"


# -- signals ---------------------------------------------------------------------------------------------------------


def test_a_child_leads_a_group_of_its_own(placed_manager):
    manager = placed_manager()
    process, group = manager.queue_task(deadly_tasks.group)
    assert process == group != os.getpgrp()


@pytest.mark.parametrize("number", launch.DETACHED)
def test_signals_that_ask_to_end_are_meant_for_the_parent(placed_manager, gate, number):
    manager = placed_manager()
    future = manager.submit(remote_tasks.pass_deaf, gate)
    process = gate.await_reached()
    os.kill(process, number)
    gate.open()
    assert (future.result(PATIENCE), future.attempts) == ("passed", 1)
    os.kill(process, number)  # while it is idle
    assert manager.queue_task(remote_tasks.process_of) == process


@pytest.fixture
def heeded() -> Iterator[None]:
    """A child leaves alone what its parent ignores, as what a shell starts in the background does with Ctrl-C."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in launch.DETACHED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", launch.DETACHED)
def test_programs_and_forks_that_a_task_starts_heed_those_signals(placed_manager, number):
    manager = placed_manager()
    assert manager.queue_task(deadly_tasks.end_program, number) == -number
    assert manager.queue_task(deadly_tasks.end_fork, number) in (
        -number,
        130,
    )  # of Ctrl-C it makes a KeyboardInterrupt


@on_linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_the_group_of_the_parent_lets_children_finish(tmp_path, number):
    code = f"""
    def drain(number, frame):
        open("gate.open", "w")
        sys.exit(3)
    signal.signal({int(number)}, drain)
    m = manager()
    future = m.submit(stand, "gate")
    future.add_done_callback(lambda done: say(done.result(), done.attempts))
    eventually(lambda: os.path.exists("gate") and open("gate").read())
    say("ready")
    eventually(lambda: False)
    """
    with running(code, tmp_path) as program:
        assert program.stdout.readline() == "ready\n"
        os.killpg(program.pid, number)
        out, error = program.communicate(timeout=PATIENCE)
    assert (out.splitlines(), error, program.returncode) == (["passed 1", "destroyed"], "", 3)


# -- what a child has started ------------------------------------------------------------------------------------------


@on_linux
@pytest.mark.parametrize("how", ["deadline", "death", "stop", "kill", "death of the parent"])
def test_what_a_child_has_started_ends_with_it(tmp_path, how):
    code = """
    import subprocess
    def start(resource, for_ever=False):
        program = subprocess.Popen(["sleep", "1000"])
        open("program", "w").write(str(program.pid))
        while for_ever:
            time.sleep(1)
        program.returncode = 0
    m = manager(max_retries=0)
    m.wait_ready()
    """
    code += {
        "deadline": """
    from tasker.testing import ManualClock
    with ManualClock() as clock:
        future = m.submit(start, True, timeout=1000)
        eventually(lambda: os.path.exists("program") and open("program").read())
        clock.advance(1000)
        future.exception()
    """,
        "death": "m.queue_task(start); os.kill(m.queue_task(process_of), signal.SIGKILL)",
        "stop": "m.queue_task(start); m.stop()",
        "kill": "m.queue_task(start); m.kill()",
        "death of the parent": "m.queue_task(start); os.kill(os.getpid(), signal.SIGKILL)",
    }[how]
    with running(
        textwrap.dedent(code) + "\nsay('ready')\nuntil(lambda: False)", tmp_path
    ) as program:
        if how == "death of the parent":
            program.wait(PATIENCE)
        else:
            assert "ready\n" in program.stdout
        started = int((tmp_path / "program").read_text())
        eventually(lambda: not is_alive(started), "the program to end")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_with_group_false_what_a_child_has_started_is_left_alone(placed_manager, how):
    manager = placed_manager(placement=Processes(grace=0.1, kill_group=False))
    program, process = manager.queue_task(deadly_tasks.start_program)
    try:
        getattr(manager, how)()
        eventually(lambda: not is_alive(process), "the child to end")
        assert is_alive(program)
    finally:
        os.kill(program, signal.SIGKILL)


def test_kill_group_must_be_a_bool():
    with pytest.raises(tasker.ConfigError, match="kill_group"):
        Processes(kill_group="no")  # type: ignore[arg-type]
