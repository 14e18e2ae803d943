"""A row for each placement, managers on recorded resources, and a check that no child or file of theirs is left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tasker import Placement, TaskManager, Threads
from tests.support import remote_tasks
from tests.support.closing import kill
from tests.support.journal import Gate, Journal
from tests.support.placements import PLACEMENTS, REMOTE, manager_on
from tests.support.processes import children
from tests.support.recording import Log
from tests.support.waiting import PATIENCE

NewManager = Callable[..., TaskManager[Any]]


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
def nothing_is_left_behind(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No child and no temporary file of the test's own."""
    tmp_path_factory.getbasetemp()  # made at the first call, where temporary files then go

    # not below that: the path of a socket has 107 characters at most
    temporary = Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = children()
    yield
    deadline = time.monotonic() + PATIENCE
    while (left := children() - before) and time.monotonic() < deadline:
        time.sleep(0.005)  # killed, and not reaped yet
    assert not left, f"processes left behind: {left}"
    temporary.rmdir()  # an error where something is left in it


@pytest.fixture
def placed_manager(
    placement: Placement, journal: Journal, log: Log, nothing_is_left_behind: None
) -> Iterator[NewManager]:
    """`placed_manager(**options)`: a manager with resources where `placement` says, killed if the test left it open."""
    managers: list[TaskManager[Any]] = []

    def placed_manager(**options: Any) -> TaskManager[Any]:
        managers.append(manager_on(placement, journal, **{"logger": log, **options}))
        return managers[-1]

    yield placed_manager
    for manager in managers:
        if not manager.closed:
            kill(manager)
    created, destroyed = journal.of("created"), journal.of("destroyed")
    assert len(set(destroyed)) == len(destroyed), "a resource was destroyed twice"
    assert set(destroyed) <= set(created)


@contextlib.contextmanager
def shared_manager(placement: Placement, directory: Path) -> Iterator[TaskManager[Any]]:
    """A manager of two workers, for tests that break nothing."""
    journal = Journal(directory / "journal")
    manager = manager_on(placement, journal, worker_count=2, resource_pool_size=None)
    assert manager.wait_ready(PATIENCE)
    manager.run_task(
        remote_tasks.key
    )  # so that no test is the one that has its pool make a resource
    yield manager
    report = manager.stop(PATIENCE)
    assert (report.drained, report.abandoned, report.destroy_errors) == (True, (), 0)
    metrics = manager.metrics()
    ended = (
        metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    )
    assert metrics.total_tasks_arrived == ended
    assert sorted(journal.of("created")) == sorted(journal.of("destroyed"))


@pytest.fixture(scope="module", params=PLACEMENTS)
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TaskManager[Any]]:
    with shared_manager(request.param, tmp_path_factory.mktemp("shared")) as manager:
        yield manager


@pytest.fixture(scope="module", params=REMOTE)
def remote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TaskManager[Any]]:
    """As `shared`, where resources live elsewhere."""
    with shared_manager(request.param, tmp_path_factory.mktemp("remote")) as manager:
        yield manager
