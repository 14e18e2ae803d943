"""A row for each placement, managers on recorded resources, and a check that no child or file of theirs is left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tasker import Config, Placement, Processes, Ray, TaskManager, Threads
from tests.conftest import Log, kill
from tests.placement import hooks
from tests.placement.hooks import PATIENCE, Gate, Journal

on_posix = pytest.mark.skipif(os.name != "posix", reason="Processes() needs a POSIX system")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")

REMOTE = [
    pytest.param(Processes(), id="processes", marks=on_posix),
    pytest.param(Ray(address=None), id="ray", marks=with_ray),
]
PLACEMENTS = [pytest.param(Threads(), id="threads"), *REMOTE]

Make = Callable[..., TaskManager[Any]]


def children() -> set[int]:
    """The processes that this one has started and that have not ended, or that nobody has reaped."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found.update(map(int, thread.read_text().split()))
    return found


def is_alive(process: int) -> bool:
    """Whether a process runs. One that has ended and that nobody has reaped does not."""
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descriptors() -> set[str]:
    """What this process has open, but for files."""
    found: set[str] = set()
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(entry)
        except OSError:  # the one that lists them
            continue
        if not target.startswith("/"):
            found.add(f"{entry.name} {target}")
    return found


@pytest.fixture(scope="session", autouse=True)
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A local Ray cluster for all tests on Ray, as it takes seconds to start: managers find this process connected."""
    if find_spec("ray") is None or not any(
        re.search(r"\bray\b|test_ray\.py", item.nodeid) for item in request.session.items
    ):
        yield
        return
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=200_000_000,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
    )
    signal.signal(signal.SIGTERM, handler)
    yield
    ray.shutdown()


@pytest.fixture(params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> Placement:
    return request.param


@pytest.fixture
def is_remote(placement: Placement) -> bool:
    """Whether resources live elsewhere."""
    return not isinstance(placement, Threads)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()  # a test that failed must not leave a thread there


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No child and no temporary file of the test's own."""
    tmp_path_factory.getbasetemp()  # made at the first call, where temporary files then go

    # not below that: the path of a socket has 107 characters at most
    temporary = Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = children()
    yield
    deadline = time.monotonic() + 5.0
    while (left := children() - before) and time.monotonic() < deadline:
        time.sleep(0.005)  # killed, and not reaped yet
    assert not left, f"processes left behind: {left}"
    temporary.rmdir()  # an error where something is left in it


def new_manager(default: Placement, journal: Journal, **options: Any) -> TaskManager[Any]:
    options = {
        "on_create": journal.create,
        "on_destroy": journal.destroy,
        "worker_count": 1,
        "max_worker_count": options.get("worker_count", 1),
        "check_health": hooks.is_healthy,
        "resource_pool_size": 0,
        "placement": default,
        **options,
    }
    return TaskManager(Config(**options))


@pytest.fixture
def make(placement: Placement, journal: Journal, log: Log, nothing_is_left_behind: None) -> Iterator[Make]:
    """`make(**options)`: a running manager, killed at the end if the test left it open."""
    managers: list[TaskManager[Any]] = []

    def make(**options: Any) -> TaskManager[Any]:
        managers.append(new_manager(placement, journal, **{"logger": log, **options}))
        return managers[-1]

    yield make
    for manager in managers:
        if "closed" not in repr(manager):
            kill(manager)
    created, destroyed = journal.of("created"), journal.of("destroyed")
    assert len(set(destroyed)) == len(destroyed), "a resource was destroyed twice"
    assert set(destroyed) <= set(created)


@contextlib.contextmanager
def shared_manager(placement: Placement, directory: Path) -> Iterator[TaskManager[Any]]:
    """A manager of two workers, for tests that break nothing."""
    journal = Journal(directory / "journal")
    manager = new_manager(placement, journal, worker_count=2, resource_pool_size=None)
    assert manager.wait_ready(PATIENCE)
    manager.run_task(hooks.key)  # so that no test is the one that has its pool make a resource
    yield manager
    report = manager.stop(PATIENCE)
    assert (report.drained, report.abandoned, report.destroy_errors) == (True, (), 0)
    metrics = manager.metrics()
    ended = metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    assert metrics.total_tasks_arrived == ended
    assert sorted(journal.of("created")) == sorted(journal.of("destroyed"))


@pytest.fixture(scope="module", params=PLACEMENTS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskManager[Any]]:
    with shared_manager(request.param, tmp_path_factory.mktemp("shared")) as manager:
        yield manager


@pytest.fixture(scope="module", params=REMOTE)
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskManager[Any]]:
    """As `shared`, where resources live elsewhere."""
    with shared_manager(request.param, tmp_path_factory.mktemp("remote")) as manager:
        yield manager
