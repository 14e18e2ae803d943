"""What is said to have failed is what failed: a hook, or what it takes to get to it."""

from __future__ import annotations

import sys

import pytest

from tasker import Processes, ResourceCreationError
from tasker.placement.processes import launch
from tasker.placement.remote.backend import RemoteBackend
from tests.support import deadly_tasks, remote_tasks
from tests.support.errors import Sick
from tests.support.placements import on_posix
from tests.support.waiting import PATIENCE, eventually

pytestmark = on_posix


@pytest.fixture
def placement():
    return Processes(grace=0.1)


@pytest.fixture
def patient(monkeypatch):
    """Only those who wait for a resource run out of time, not the child that makes it in the same moment."""
    setup = RemoteBackend._setup

    def patient(backend, *of_what):
        backend._create_timeout = 600.0
        return setup(backend, *of_what)

    monkeypatch.setattr(RemoteBackend, "_setup", patient)


def failure(manager) -> str:
    error = manager.submit(remote_tasks.square, 6).exception(PATIENCE)
    assert type(error) is ResourceCreationError
    return str(error)


def warning(log) -> str:
    eventually(log.loud, "a warning")
    return log.loud()[0]


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_while_on_create_blocks_it_has_not_returned(placed_manager, gate):
    manager = placed_manager(
        on_create=gate.create, on_destroy=remote_tasks.forget, create_timeout=0.5
    )
    gate.await_reached()
    text = failure(manager)
    assert "on_create has not returned" in text
    assert "on_create raised" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_while_on_destroy_blocks_it_has_not_returned(placed_manager, gate):
    manager = placed_manager(on_destroy=gate.destroy, create_timeout=0.5, max_retries=0)
    assert manager.wait_ready(PATIENCE)
    manager.submit(remote_tasks.fail, Sick()).exception(PATIENCE)
    gate.await_reached()
    text = failure(manager)
    assert "on_destroy has not returned" in text
    assert "on_create" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_child_that_does_not_come_to_on_create_is_told_from_an_on_create_that_does_not_return(
    placed_manager, monkeypatch, log
):
    monkeypatch.setattr(launch, "_PROGRAM", "import time; time.sleep(1000)  # {} {}")
    text = failure(placed_manager(create_timeout=0.5))
    assert "a child process has not come to on_create" in text
    assert "has not returned" not in text
    assert "on_create raised" not in text


@pytest.mark.slow
def test_hooks_that_a_child_cannot_import_have_not_raised(
    placed_manager, monkeypatch, tmp_path, log
):
    (tmp_path / "only_here.py").write_text("def create(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    monkeypatch.setattr(sys, "path", sys.path[1:])
    placed_manager(on_create=only_here.create, on_destroy=remote_tasks.forget)
    assert "no resource was made, trying again" in warning(log)
    assert "on_create could not be unpickled where it was to run: ModuleNotFoundError" in warning(
        log
    )


def test_a_child_that_ends_before_on_create_has_not_raised(placed_manager, monkeypatch, log):
    monkeypatch.setattr(launch, "_PROGRAM", "import os; os._exit(5)  # {} {}")
    placed_manager()
    assert "no resource was made, trying again" in warning(log)
    assert "ended with exit code 5 before on_create ran" in warning(log)


@pytest.mark.slow
def test_a_child_that_ends_in_on_create_is_lost_while_it_ran(placed_manager, log):
    placed_manager(on_create=deadly_tasks.die_creating, on_destroy=remote_tasks.forget)
    assert "no resource was made, trying again: tasker.errors.WorkerLostError" in warning(log)
    assert "while on_create ran" in warning(log)


@pytest.mark.slow
def test_what_on_create_raises_it_has_raised(placed_manager, log):
    placed_manager(on_create=remote_tasks.cannot_create, on_destroy=remote_tasks.forget)
    assert "on_create raised, trying again: OSError: down for ever" in warning(log)
