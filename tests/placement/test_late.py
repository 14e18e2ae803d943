"""What is said to have failed is what failed: a hook, or what it takes to get to it."""

from __future__ import annotations

import sys

import pytest

from tasker import Processes, ResourceCreationError
from tasker.placement import launch
from tests.placement import hooks, perils
from tests.placement.conftest import on_posix
from tests.placement.hooks import PATIENCE

pytestmark = on_posix


@pytest.fixture
def placement():
    return Processes(grace=0.1)


def failure(manager) -> str:
    error = manager.submit(hooks.square, 6).exception(PATIENCE)
    assert type(error) is ResourceCreationError
    return str(error)


def test_while_on_create_blocks_it_has_not_returned(make, gate):
    text = failure(make(on_create=gate.create, on_destroy=hooks.forget, create_timeout=1.5))
    assert "on_create has not returned" in text
    assert "on_create raised" not in text


def test_while_on_destroy_blocks_it_has_not_returned(make, gate):
    manager = make(on_destroy=gate.destroy, create_timeout=1.0, max_retries=0)
    manager.submit(hooks.fail, hooks.Sick()).exception(PATIENCE)
    gate.await_reached()
    text = failure(manager)
    assert "on_destroy has not returned" in text
    assert "on_create" not in text


def test_a_child_that_does_not_come_to_on_create_is_told_from_an_on_create_that_does_not_return(make, monkeypatch, log):
    monkeypatch.setattr(launch, "_PROGRAM", "import time; time.sleep(1000)  # {} {}")
    text = failure(make(create_timeout=1.0))
    assert "a child process has not come to on_create" in text
    assert "has not returned" not in text
    assert "on_create raised" not in text


def test_hooks_that_a_child_cannot_import_have_not_raised(make, monkeypatch, tmp_path, log):
    (tmp_path / "only_here.py").write_text("def create(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    monkeypatch.setattr(sys, "path", sys.path[1:])
    text = failure(make(on_create=only_here.create, on_destroy=hooks.forget, create_timeout=1.0))
    assert "no resource was made" in text
    assert "on_create could not be unpickled where it was to run: ModuleNotFoundError" in text
    assert any("no resource was made, trying again" in line for line in log.loud())


def test_a_child_that_ends_before_on_create_has_not_raised(make, monkeypatch, log):
    monkeypatch.setattr(launch, "_PROGRAM", "import os; os._exit(5)  # {} {}")
    assert "process" in failure(make(create_timeout=1.0))
    assert any("no resource was made, trying again" in line and "before on_create ran" in line for line in log.loud())
    assert not any("raised" in line for line in log.loud())


def test_a_child_that_ends_in_on_create_is_lost_while_it_ran(make, log):
    text = failure(make(on_create=perils.die_creating, on_destroy=hooks.forget, create_timeout=1.0))
    assert "no resource was made: tasker.errors.WorkerLostError" in text
    assert "while on_create ran" in text
