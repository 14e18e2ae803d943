"""What is remembered of objects by their identity."""

from __future__ import annotations

import gc
import weakref

import pytest

from tasker._base.identity import ByIdentity


class Thing:
    def __eq__(self, other):
        raise AssertionError("it was compared")

    def __hash__(self):
        raise AssertionError("it was hashed")


def test_what_is_put_is_found_by_the_object_alone():
    known = ByIdentity()
    one, other = Thing(), Thing()
    known.put(one, 1)
    assert known.get(one) == 1
    assert known.get(other) is None
    known.put(one, 2)
    assert known.get(one) == 2


def test_an_object_is_not_kept_and_what_was_known_of_it_goes_with_it():
    known = ByIdentity()
    thing = Thing()
    known.put(thing, 1)
    known.put(thing, 2)
    reference = weakref.ref(thing)
    del thing
    gc.collect()
    assert reference() is None
    assert known._known == {}


def test_another_object_at_the_same_address_is_not_taken_for_it():
    known = ByIdentity()
    gone, here = Thing(), Thing()
    known.put(gone, 1)
    known._known[id(here)] = known._known[id(gone)]  # as if its end had not been told
    assert known.get(here) is None
    known.put(here, 2)
    assert known.get(here) == 2
    del gone
    gc.collect()
    assert known.get(here) == 2


def test_an_end_that_is_told_late_does_not_forget_another_object():
    known = ByIdentity()
    gone, here = Thing(), Thing()
    known.put(gone, 1)
    reference, _ = known._known.pop(id(gone))
    known._known[id(gone)] = entry = (weakref.ref(here), 2)
    del gone
    gc.collect()
    assert reference() is None
    assert list(known._known.values()) == [entry]


def test_what_can_have_no_weak_reference_is_refused():
    with pytest.raises(TypeError):
        ByIdentity().put(3, 1)
