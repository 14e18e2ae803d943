"""Programs that use `Ray()`: with a connection of their own, which they make and end."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from tests.support.placements import with_ray
from tests.support.processes import is_alive
from tests.support.programs import environment
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, with_ray, pytest.mark.timeout(150)]

PRELUDE = """
import os, signal, subprocess, sys
from tasker import *

def processes():  # of Ray, that this one has started
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
    rows = [line.split(None, 2) for line in listed]
    return [int(pid) for pid, parent, arguments in rows if int(parent) == os.getpid() and "ray" in arguments]

def process_of(resource):
    return os.getpid()

def config(**options):
    return Config(on_create=dict, on_destroy=dict.clear, worker_count=1, max_worker_count=1, **options)
"""


@pytest.fixture
def settings():
    """The environment of a program. Ray puts sockets into temporary folders, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as short:
        yield {
            **environment(),
            "RAY_TMPDIR": short,
            "TMPDIR": short,
            "RAY_USAGE_STATS_ENABLED": "0",
        }


@pytest.fixture
def run(settings, tmp_path):
    """Runs a program to its end."""

    def run(code, *arguments):
        script = tmp_path / "program.py"
        script.write_text(PRELUDE + textwrap.dedent(code))
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(
            command, env=settings, cwd=tmp_path, capture_output=True, text=True, timeout=140
        )

    return run


def test_a_local_cluster_lasts_as_long_as_its_managers_and_changes_no_signal_handler(run):
    ended = run(
        """
        def handler(number, frame): ...
        signal.signal(signal.SIGTERM, handler)
        first = TaskManager(config(placement=Ray(address=None)))
        assert first.queue_task(process_of) != os.getpid()
        assert first.queue_task(lambda resource: 42) == 42
        started = processes()
        assert started
        with TaskManager(config(placement=Ray(address="auto"))) as second:  # finds this process connected
            first.stop()
            assert second.queue_task(process_of) != os.getpid()
        import ray
        assert not ray.is_initialized()
        assert signal.getsignal(signal.SIGTERM) is handler
        print(*started)
        """,
    )
    assert ended.returncode == 0, ended.stderr
    for process in ended.stdout.split()[-3:]:
        eventually(
            lambda process=int(process): not is_alive(process), "the local cluster to be gone"
        )


USERS_OWN = """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
with TaskManager(config(placement=Ray())) as manager:
    assert manager.queue_task(process_of) != os.getpid()
assert ray.is_initialized()
print("alive", ray.get(ray.put(7)))
forgotten = TaskManager(config(placement=Ray()))  # left to the end of the program
forgotten.queue_task(process_of)
lost = TaskManager(config(placement=Ray(), max_retries=0, create_timeout=15))
lost.queue_task(process_of)
if len(sys.argv) > 1:  # the connection is ended under both
    ray.shutdown()
    print(type(lost.submit(process_of).exception()).__name__, ray.is_initialized())
"""


def test_a_connection_of_the_users_own_is_used_and_left_alone(run):
    ended = run(USERS_OWN)
    assert ended.returncode == 0, ended.stderr
    assert "alive 7" in ended.stdout
    assert "Traceback" not in ended.stderr
    assert "raised" not in ended.stderr


def test_a_connection_that_is_ended_under_a_manager_is_not_made_anew(run):
    ended = run(USERS_OWN, "end")
    assert ended.returncode == 0, ended.stderr
    assert "Error False" in ended.stdout
    assert "not connected to Ray any more" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "nothing answers at '127.0.0.1:1'"),
        ("ray://127.0.0.1:1", "nothing answers at 'ray://127.0.0.1:1'"),
        ("nonsense", "nothing answers at 'nonsense'"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(run, address, says):
    ended = run(
        f"""
        try:
            TaskManager(config(placement=Ray(address={address!r}), create_timeout=5))
        except ConfigError as error:
            print(error)
        import ray, threading
        assert not ray.is_initialized()
        assert not [thread for thread in threading.enumerate() if "tasker" in thread.name]
        """,
    )
    assert ended.returncode == 0, ended.stderr
    assert says in ended.stdout


def test_when_the_program_is_killed_its_local_cluster_ends(run):
    ended = run(
        """
        manager = TaskManager(config(placement=Ray(address=None)))
        print(manager.queue_task(process_of), *processes(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    actor, *_ = map(int, ended.stdout.split())
    eventually(lambda: not is_alive(actor), "the actor to be gone")


def test_on_three_nodes_a_pool_grows_and_shrinks_and_survives_nodes_that_are_lost_or_frozen(
    settings,
):
    arguments = [sys.executable, "-m", "tests.placement.three_nodes"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        arguments, env=settings, cwd=root, capture_output=True, text=True, timeout=140
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    assert "grew over 3 nodes" in ended.stdout
    assert "all completed, 4 workers on" in ended.stdout
    assert "4 of 4 deadlines were kept" in ended.stdout
    assert "4 of 4 callers are free, no thread is left" in ended.stdout
