"""`Processes(environment=...)`: what the environment of a child has beside its parent's."""

from __future__ import annotations

import os
from functools import partial

import pytest

from tasker import ConfigError, Processes, ResourceCreationError, current_slot
from tests.support import remote_tasks
from tests.support.placements import on_linux, on_posix
from tests.support.waiting import PATIENCE, eventually

pytestmark = on_posix


@pytest.fixture
def placement():
    return Processes()


def variable(manager, name):
    return manager.submit(remote_tasks.call, partial(os.getenv, name)).result(PATIENCE)


def of_slot(slot):
    assert current_slot() == slot
    return {"DEVICE": str(slot.index)}


@pytest.mark.slow
def test_a_mapping_is_added_to_the_environment_of_the_parent(placed_manager, monkeypatch):
    for name in ("KEPT", "REPLACED"):
        monkeypatch.setenv(name, "the parent's")
    manager = placed_manager(
        placement=Processes(environment={"REPLACED": "the child's", "ADDED": "é"})
    )
    assert [variable(manager, name) for name in ("KEPT", "REPLACED", "ADDED")] == [
        "the parent's",
        "the child's",
        "é",
    ]
    assert os.environ["REPLACED"] == "the parent's"
    assert "ADDED" not in os.environ


@pytest.mark.slow
def test_a_function_of_the_slot_gives_each_child_its_own(placed_manager):
    manager = placed_manager(placement=Processes(environment=of_slot))
    assert variable(manager, "DEVICE") == "0"
    assert manager.run_task(remote_tasks.call, partial(os.getenv, "DEVICE")) == "1"


@on_linux
@pytest.mark.slow
def test_it_is_in_force_before_the_child_imports_anything(placed_manager):
    manager = placed_manager(placement=Processes(environment={"PYTHONHASHSEED": "7"}))
    begun = manager.submit(remote_tasks.environment_at_start).result(PATIENCE)
    assert begun["PYTHONHASHSEED"] == "7"
    hashes = [manager.run_task(remote_tasks.call, partial(hash, "text")) for _ in range(2)]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("made", "says"),
    [
        (None, "environment must return a mapping of names to strings, not None"),
        (
            {"DEVICE": 0},
            "environment must map names to strings: DEVICE cannot be 0",
        ),
    ],
)
def test_a_function_that_returns_no_environment_fails_like_a_creation(
    placed_manager, log, made, says
):
    manager = placed_manager(placement=Processes(environment=lambda slot: made))
    with pytest.raises(ResourceCreationError) as caught:
        manager.run_task(remote_tasks.key)
    assert says in str(caught.value.__cause__)
    eventually(lambda: any(says in line for line in log.loud()), "the failure in the log")


@pytest.mark.slow
def test_what_it_raises_is_tried_again(placed_manager):
    errors = [OSError("no device")]

    def environment(slot):
        if errors:
            raise errors.pop()
        return {"DEVICE": str(slot.index)}

    manager = placed_manager(placement=Processes(environment=environment))
    assert variable(manager, "DEVICE") == "0"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (1, "or a function of the slot that returns one, not 1"),
        (["A=1"], "None or a mapping of names to strings, or"),
        ({"A": 1}, "A cannot be 1"),
        ({"A": "\0"}, "A cannot be '\\x00'"),
        ({"A=B": "1"}, "'A=B' is no name"),
        ({"": "1"}, "'' is no name"),
        ({1: "1"}, "1 is no name"),
        (lambda: {}, "environment must be a function that can be called with the slot"),
        (lambda slot, more: {}, "environment must be a function that can be called with the slot"),
    ],
)
def test_a_wrong_one_is_refused(environment, says):
    with pytest.raises(ConfigError) as caught:
        Processes(environment=environment)
    assert str(caught.value).startswith("environment must ")
    assert says in str(caught.value)


def test_an_error_quotes_no_other_value():
    with pytest.raises(ConfigError) as caught:
        Processes(environment={"SECRET": "password", "A": 1})
    assert "password" not in str(caught.value)
