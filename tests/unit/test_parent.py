"""Futures that are tied to a context, without a manager."""

from __future__ import annotations

import pytest

from tasker import background, with_cancel


@pytest.fixture
def parent():
    return with_cancel(background())


def test_a_chain_of_tasks_that_is_deeper_than_the_stack_ends(owner, parent):
    futures, above = [], parent
    for _ in range(3000):
        future = owner.future()
        future._set_parent(above, owner.values)
        assert future._start(1.0)
        above = future._make_context(owner.values)
        futures.append(future)
    waiting = owner.future()
    waiting._set_parent(above, owner.values)
    parent.cancel()
    assert above.cancelled()
    assert waiting.cancelled()
    assert not any(future._requeue() for future in futures)


@pytest.mark.usefixtures("no_collection")
def test_an_error_in_the_middle_leaves_no_task_behind(owner, parent, monkeypatch):
    futures = [owner.future() for _ in range(3)]
    for future in futures:
        future._set_parent(parent, owner.values)
    strikes = [MemoryError]

    def strike():
        if strikes:
            raise strikes.pop()

    monkeypatch.setattr(owner, "record_cancelled", strike)
    with pytest.raises(MemoryError):
        parent.cancel()
    assert [future.cancelled() for future in futures[1:]] == [True, True]
