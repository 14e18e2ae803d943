"""Whether to wait for a manager would be to wait for the calling thread itself."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tasker._pool import reentrancy
from tasker._sync.locks import holds_lock, new_lock

HERE = threading.current_thread()
ELSEWHERE = threading.Thread()


def an_engine(
    *,
    housekeeper: threading.Thread = ELSEWHERE,
    worker: threading.Thread = ELSEWHERE,
    starts_worker: bool = False,
    calls_back: bool = False,
    lends: bool = False,
    own: object = None,
    backend: object = None,
) -> Any:
    """An engine, by the answers of its parts; `own` and `backend` have locks."""
    member = SimpleNamespace(thread=worker, is_started_here=lambda: starts_worker)
    return SimpleNamespace(
        housekeeper=SimpleNamespace(thread=housekeeper),
        crew=SimpleNamespace(members=(member,), everyone=lambda: (member,)),
        runner=SimpleNamespace(runs_this_thread=lambda: calls_back),
        pool=SimpleNamespace(lends_to_this_thread=lambda: lends),
        own_parts=lambda: () if own is None else (own,),
        backend=SimpleNamespace(parts=lambda: () if backend is None else (backend,)),
    )


TABLE: dict[str, tuple[dict[str, Any], tuple[bool, bool, bool]]] = {
    # what the calling thread does: whether it is one of the engine's, inside of it, and
    # whether threads of the engine may wait for what it was interrupted in
    "nothing": ({}, (False, False, False)),
    "a task": ({"worker": HERE}, (True, True, False)),
    "a tick": ({"housekeeper": HERE}, (True, True, True)),
    "a callback": ({"calls_back": True}, (False, True, False)),
    "run_task": ({"lends": True}, (False, True, False)),
    "to hire": ({"starts_worker": True}, (False, False, True)),
}


@pytest.mark.parametrize("doing", TABLE)
def test_the_calling_thread_is_known_by_what_it_does(doing):
    options, expected = TABLE[doing]
    engine = an_engine(**options)
    asked = (reentrancy.is_own_thread, reentrancy.is_inside, reentrancy.is_held_up)
    assert tuple(ask(engine) for ask in asked) == expected


@pytest.mark.parametrize("owner", ["own", "backend"])
def test_threads_are_held_up_by_a_lock_that_is_held_here(owner):
    part = SimpleNamespace(lock=new_lock())
    engine = an_engine(**{owner: part})
    assert not reentrancy.is_held_up(engine)
    with part.lock:
        assert reentrancy.is_held_up(engine)
    assert not reentrancy.is_held_up(engine)


def test_a_lock_that_another_thread_holds_is_not_held_here():
    part = SimpleNamespace(lock=new_lock())
    taken, over = threading.Event(), threading.Event()

    def hold():
        with part.lock:
            taken.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        assert not holds_lock(part)
    finally:
        over.set()
        thread.join()


def test_a_thread_that_nothing_interrupted_is_needed_by_no_other(new_manager):
    manager = new_manager()
    assert not reentrancy.is_needed()
    with manager._engine.pool._lock:
        assert reentrancy.is_needed()
    assert not reentrancy.is_needed()


def test_a_manager_that_has_closed_needs_no_thread(new_manager):
    manager = new_manager()
    manager.stop()
    with manager._engine.pool._lock:
        assert not reentrancy.is_needed()
