"""Context variables on their way: which are packed, and what becomes of them."""

from __future__ import annotations

import contextvars
import pickle
import sys
import threading

import pytest

from tasker.placement.remote.variables import pack_variables, set_variables
from tests.support import remote_tasks

other: contextvars.ContextVar[object] = contextvars.ContextVar("other")
no_variable = "a string"


@pytest.fixture
def context():
    """An empty context to run in."""
    return contextvars.Context()


def test_without_variables_nothing_is_packed(context):
    assert context.run(pack_variables) == ()


def test_variables_at_the_top_of_a_module_are_packed_by_its_name_and_theirs(context):
    context.run(remote_tasks.variable.set, "first")
    context.run(other.set, [1, 2])
    packed = {
        (module, name): pickle.loads(value) for module, name, value in context.run(pack_variables)
    }
    assert packed == {(remote_tasks.__name__, "variable"): "first", (__name__, "other"): [1, 2]}


def test_variables_that_are_nowhere_or_hold_what_cannot_be_packed_stay(context):
    context.run(contextvars.ContextVar("nowhere").set, 1)
    context.run(other.set, threading.Lock())
    assert context.run(pack_variables) == ()


def test_variables_of_main_stay(context, monkeypatch):
    variable = contextvars.ContextVar("of_main")
    monkeypatch.setattr(sys.modules["__main__"], "of_main", variable, raising=False)
    context.run(variable.set, 1)
    assert context.run(pack_variables) == ()


def test_what_was_packed_is_set_where_it_is_unpacked(context):
    context.run(other.set, "sent")
    packed = context.run(pack_variables)
    there = contextvars.Context()
    there.run(set_variables, packed)
    assert there[other] == "sent"
    assert other.get(None) is None


def test_what_does_not_exist_there_or_cannot_be_unpacked_stays_unset(context):
    value = pickle.dumps("value")
    variables = (
        ("no.such.module", "other", value),
        (__name__, "no_such_name", value),
        (__name__, "no_variable", value),
        (__name__, "other", b"no pickle"),
    )
    context.run(set_variables, variables)
    assert len(context) == 0
    context.run(set_variables, (*variables, (__name__, "other", value)))
    assert context[other] == "value"
