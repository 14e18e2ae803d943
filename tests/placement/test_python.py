"""Which Python children run, and programs that would start themselves without end."""

from __future__ import annotations

import multiprocessing.spawn
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

import tasker.placement.processes.python
from tasker import ConfigError, Processes
from tasker.placement.processes import multiprocess
from tests.support import remote_tasks
from tests.support.placements import on_linux, on_posix
from tests.support.processes import is_alive
from tests.support.programs import environment, run
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, on_posix]


@pytest.fixture
def placement():
    return Processes(grace=0.1)


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


@pytest.fixture
def host(tmp_path):
    """A program that is no Python, and notes each start."""
    return script(tmp_path / "host", f"echo started >> {tmp_path}/starts", "exit 1")


def starts(directory: Path) -> int:
    noted = directory / "starts"
    return len(noted.read_text().splitlines()) if noted.exists() else 0


def executable_of(resource: object) -> str:
    return sys.executable


# -- what is no Python -----------------------------------------------------------------------------------------------


def test_a_frozen_program_is_refused(placed_manager, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ConfigError, match=r"frozen program: .*Processes\(executable=\.\.\.\)"):
        placed_manager()


def test_an_embedding_program_is_refused_and_not_started(
    placed_manager, monkeypatch, host, tmp_path
):
    monkeypatch.setattr(sys, "executable", str(host))
    with pytest.raises(ConfigError, match=r"sys\.executable is no Python: '.*host'"):
        placed_manager()
    assert starts(tmp_path) == 0


@pytest.mark.parametrize("path", ["", None, "/no/such/python3"])
def test_a_missing_executable_is_refused(placed_manager, monkeypatch, path):
    monkeypatch.setattr(sys, "executable", path)
    with pytest.raises(ConfigError, match=r"sys\.executable is no Python"):
        placed_manager()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["exit 1"], "nothing"),
        (["echo cpython-27"], "cpython-27"),
        (["echo 'no option -c' >&2; exit 2"], "no option -c"),
    ],
)
def test_what_is_given_and_is_no_python_like_this_one_is_refused(
    placed_manager, tmp_path, lines, said
):
    path = script(tmp_path / "given", *lines)
    with pytest.raises(ConfigError, match=f"executable must be a Python like this one .*{said}"):
        placed_manager(placement=Processes(executable=path))


def test_a_given_program_that_does_not_exist_is_refused(placed_manager):
    with pytest.raises(ConfigError, match="there is no such program"):
        placed_manager(placement=Processes(executable="/no/such/python"))


@pytest.mark.parametrize("value", ["", 3, b"python"])
def test_an_executable_must_be_a_path(value):
    with pytest.raises(ConfigError, match="executable must be None or the path of a Python"):
        Processes(executable=value)


# -- what is one -----------------------------------------------------------------------------------------------------


def test_a_given_python_is_run_and_asked_once_which_it_is(placed_manager, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    given = script(
        tmp_path / "given", f"echo started >> {tmp_path}/starts", f'exec {sys.executable} "$@"'
    )
    monkeypatch.setattr(sys, "executable", "/a/frozen/program")
    for _ in range(2):
        assert (
            placed_manager(placement=Processes(executable=str(given))).queue_task(
                remote_tasks.square, 6
            )
            == 36
        )
    assert starts(tmp_path) == 3


def test_a_given_program_that_says_nothing_is_refused_although_a_test_has_stopped_the_clock(
    placed_manager, tmp_path, monkeypatch
):
    monkeypatch.setattr(tasker.placement.processes.python, "_ANSWER_S", 0.1)
    monkeypatch.setattr(subprocess, "_time", lambda: 0.0)  # as freezegun does
    silent = script(tmp_path / "silent", "exec sleep 1000")
    with pytest.raises(ConfigError, match="it said 'nothing'"):
        placed_manager(placement=Processes(executable=str(silent)))


def test_what_multiprocessing_was_told_to_run_is_run(placed_manager, tmp_path, monkeypatch):
    monkeypatch.delitem(
        sys.modules, "multiprocessing.resource_tracker", raising=False
    )  # it would be run for that too
    given = script(
        tmp_path / "given", f"echo started >> {tmp_path}/starts", f'exec {sys.executable} "$@"'
    )
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(str(given))
    try:
        assert placed_manager().queue_task(executable_of) == sys.executable
    finally:
        multiprocessing.spawn.set_executable(os.fsdecode(before))
    assert starts(tmp_path) == 2


# -- programs that start themselves ----------------------------------------------------------------------------------


def generations(directory: Path) -> dict[int, int]:
    noted = [int(line) for line in (directory / "generations").read_text().splitlines()]
    return {each: noted.count(each) for each in set(noted)}


COUNT = """
    import os
    generation = int(os.environ.get("GENERATION", "0")) + 1
    os.environ["GENERATION"] = str(generation)
    open({path!r}, "a").write(f"{{generation}}\\n")
    if generation > 4: os._exit(9)  # a fuse
"""


def count(directory: Path) -> str:
    return textwrap.dedent(COUNT).format(path=str(directory / "generations"))


def test_a_program_that_passes_for_a_python_starts_itself_once_and_is_told_why(tmp_path):
    app = tmp_path / "python-app"
    main = tmp_path / "main.py"
    code = """
        import sys
        sys.executable = {app!r}
        from tasker import Config, Processes, TaskManager
        config = Config(on_create=list, on_destroy=len, worker_count=1, placement=Processes(), resource_pool_size=0)
        with TaskManager(config) as manager:
            try:
                manager.run_task(len)
            except Exception as error:
                print(error.__cause__)
    """
    main.write_text(count(tmp_path) + textwrap.dedent(code).format(app=str(app)))
    script(app, f'exec {sys.executable} {main} "$@"')
    done = subprocess.run(
        [app], capture_output=True, text=True, timeout=PATIENCE, env=environment()
    )
    assert max(generations(tmp_path)) == 2
    assert "before on_create ran" in done.stdout
    assert "this program was started as a child process" in done.stdout


POOL = """
    import logging
    from tasker import Config, Processes, TaskManager

    def connect():
        return object()

    def work(resource):
        return 1

    logging.basicConfig()
    manager = TaskManager(Config(on_create=connect, on_destroy=repr, worker_count=2, placement=Processes(),
        create_timeout=600, resource_pool_size=0, burst_interval=0))
"""


def test_a_manager_at_the_top_level_of_the_module_that_its_children_import_is_refused_there_once(
    tmp_path,
):
    (tmp_path / "pool.py").write_text(count(tmp_path) + textwrap.dedent(POOL))
    done = run(
        """
        import pool
        for submit in (pool.manager.queue_task, pool.manager.run_task):
            try:
                submit(pool.work)
            except ResourceCreationError as error:
                print(isinstance(error.__cause__, ConfigError), "in a function" in str(error.__cause__), error)
        time.sleep(1)  # in which a worker would try again
        print(pool.manager.wait_ready())
        print(pool.manager.stop().drained)
        """,
        tmp_path,
    )
    first, second, *rest = done.stdout.splitlines()
    assert first.startswith(
        "True True tasker: no worker will ever hold a resource: no resource was made:"
    )
    assert second.startswith("True True")
    assert rest == ["False", "True"]
    assert done.stderr.count("no resource was made") == 1, done.stderr
    counted = generations(tmp_path)
    assert counted[1] == 1
    assert counted[2] <= 2
    assert max(counted) == 2


def test_who_waits_is_told_why_there_will_be_no_resource_before_the_worker_that_found_out_has_noted_it(
    tmp_path,
):
    (tmp_path / "pool.py").write_text(count(tmp_path) + textwrap.dedent(POOL))
    done = run(
        """
        from tasker._pool import usercode
        told, read = threading.Event(), usercode.last_line_of
        usercode.last_line_of = lambda error: told.wait() and read(error)  # which it notes
        import pool
        try:
            pool.manager.queue_task(pool.work)
        except ResourceCreationError as error:
            print(isinstance(error.__cause__, ConfigError), "in a function" in str(error.__cause__), error)
        told.set()
        print(pool.manager.stop().drained)
        """,
        tmp_path,
    )
    first, *rest = done.stdout.splitlines()
    assert first.startswith(
        "True True tasker: no worker will ever hold a resource: no resource was made: tasker."
    )
    assert "in a function" in first
    assert rest == ["True"]


def test_a_module_that_makes_a_manager_may_be_imported_by_a_task_for_itself(tmp_path):
    (tmp_path / "pool.py").write_text(count(tmp_path) + textwrap.dedent(POOL))
    done = run(
        """
        def use(resource):
            import pool
            return type(pool.manager.submit(pool.work).exception()).__name__
        with manager(on_destroy=len) as m:
            print(m.queue_task(use))
        """,
        tmp_path,
    )
    assert done.stdout == "ResourceCreationError\n"
    assert max(generations(tmp_path)) == 2  # the task's, and its children


# -- what they know of multiprocessing -------------------------------------------------------------------------------


def test_proxies_of_multiprocessing_work_in_children(tmp_path):
    done = run(
        """
        import multiprocessing
        if __name__ == "__main__":
            with multiprocessing.Manager() as shared, manager(on_destroy=len) as m:
                numbers = shared.dict()
                m.queue_task(lambda resource, numbers: numbers.update(a=1), numbers)
                print(dict(numbers))
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("{'a': 1}\n", "")


def test_a_child_is_one_of_multiprocessings(tmp_path):
    done = run(
        """
        import multiprocessing
        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            def look(resource):
                me, parent = multiprocessing.current_process(), multiprocessing.parent_process()
                alive, method = parent.is_alive(), multiprocessing.get_start_method()
                return me.name, me.daemon, parent.name, parent.pid, alive, method
            with manager(on_destroy=len, name="pool") as m:
                print(m.queue_task(look) == ("pool-worker-1", False, "MainProcess", os.getpid(), True, "spawn"))
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_what_multiprocessing_does_in_a_child_is_logged_where_the_parent_says(tmp_path):
    done = run(
        """
        import logging, multiprocessing
        if __name__ == "__main__":
            def act(resource):
                multiprocessing.util.info("in the child")
            with manager(on_destroy=len) as m:
                m.queue_task(act)
            multiprocessing.log_to_stderr(logging.INFO)
            with manager(on_destroy=len, name="pool") as m:
                m.queue_task(act)
        """.replace(
            "import logging, multiprocessing",
            "import logging, multiprocessing, multiprocessing.util",
        ),
        tmp_path,
    )
    assert [line for line in done.stderr.splitlines() if "child" in line] == [
        "[INFO/pool-worker-1] in the child"
    ]


@pytest.mark.parametrize(
    ("python", "runs", "descriptor"),
    [("ours", False, 7), ("given", False, None), ("given", True, 7)],
)
def test_a_tracker_is_started_only_by_the_python_that_children_run(
    monkeypatch, python, runs, descriptor
):
    """In an embedding program `multiprocessing` would start that."""
    module = SimpleNamespace(
        _resource_tracker=SimpleNamespace(_fd=7 if runs else None), getfd=lambda: 7
    )
    monkeypatch.setitem(sys.modules, "multiprocessing.resource_tracker", module)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"ours")
    assert multiprocess.tracker(python) == descriptor


@on_linux
def test_shared_memory_outlives_children_and_not_the_program(tmp_path):
    done = run(
        """
        from multiprocessing import resource_tracker, shared_memory
        from tasker import WorkerLostError

        def read(resource, name):
            segment = shared_memory.SharedMemory(name)
            segment.close()
            return bytes(segment.name, "ascii")

        def make(resource, dies):
            segment = shared_memory.SharedMemory(create=True, size=1)
            segment.close()
            open("made", "a").write(segment.name + "\\n")
            assert resource_tracker._resource_tracker._pid is None, "it has a tracker of its own"
            dies and os._exit(1)

        if __name__ == "__main__":
            given = shared_memory.SharedMemory(create=True, size=1)
            with manager(on_destroy=len, max_retries=0, placement=Processes(kill_group=False)) as m:
                m.queue_task(read, given.name)
                m.queue_task(make, False)
                try:
                    m.queue_task(make, True)
                except WorkerLostError:
                    pass
            for name in (given.name, *open("made").read().split()):
                shared_memory.SharedMemory(name).close()
            print("all there")
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("all there\n", "")
    made = [Path("/dev/shm", name) for name in (tmp_path / "made").read_text().split()]
    eventually(
        lambda: not any(segment.exists() for segment in made),
        "the tracker to unlink what nobody has",
    )


@on_linux
def test_what_a_task_forks_may_outlive_a_program_that_shares_memory(tmp_path):
    done = run(
        """
        import multiprocessing, warnings
        from multiprocessing import resource_tracker
        warnings.simplefilter("ignore", DeprecationWarning)

        def fork(resource):
            if (child := os.fork()) == 0:
                os.setsid()
                for descriptor in (0, 1, 2):
                    os.close(descriptor)
                eventually(lambda: os.path.exists("over"))
                os._exit(0)
            eventually(lambda: os.getsid(child) == child)  # or it would be ended with this process
            return child

        def look(known):
            os._exit(resource_tracker._resource_tracker._fd != known)

        def fork_by_multiprocessing(resource):
            process = multiprocessing.get_context("fork").Process(
                target=look, args=(resource_tracker._resource_tracker._fd,)
            )
            process.start()
            process.join()
            assert process.exitcode == 0, "it does not share the tracker"

        if __name__ == "__main__":
            resource_tracker.ensure_running()
            with manager(on_destroy=len) as m:
                m.queue_task(fork_by_multiprocessing)
                print(m.queue_task(fork))
        """,
        tmp_path,
    )
    assert is_alive(int(done.stdout))
    (tmp_path / "over").touch()
    eventually(lambda: not is_alive(int(done.stdout)), "what was forked to end")
