"""Whether to wait for a manager would be to wait for the calling thread itself.

A manager may be closed from inside: by a task, a callback, a hook. The end comes only
when that has returned, so a wait for it there would last for ever.

A signal handler or a destructor may close it, too. It interrupts its thread at any
moment, perhaps in lines that hold a lock, or that have in their hands what other
threads wait for. They go on only when it has returned.

Each function here asks about the calling thread. It only looks, and takes no lock.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from tasker._pool.crew import Crew
from tasker._pool.exit_and_fork import all_watched, shared_parts
from tasker._pool.housekeeper import Housekeeper
from tasker._pool.resources import ResourcePool
from tasker._sync import guard, timer
from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.locks import holds_lock
from tasker._tasks import future
from tasker.placement.base import Backend

__all__ = ["is_held_up", "is_inside", "is_needed", "is_own_thread"]


class EngineForReentrancy(Protocol):
    """An engine, as seen from here."""

    crew: Crew[Any]
    housekeeper: Housekeeper
    runner: CallbackRunner
    pool: ResourcePool[Any]
    backend: Backend

    def own_parts(self) -> tuple[object, ...]: ...


def is_own_thread(engine: EngineForReentrancy) -> bool:
    """Whether it is one of the engine's: a worker or the housekeeper."""
    thread = threading.current_thread()
    return thread is engine.housekeeper.thread or any(
        worker.thread is thread for worker in engine.crew.everyone()
    )


def is_inside(engine: EngineForReentrancy) -> bool:
    """Whether it runs a task, a hook, a callback or `run_task` of this engine."""
    return (
        is_own_thread(engine)
        or engine.runner.runs_this_thread()
        or engine.pool.lends_to_this_thread()
    )


def is_held_up(engine: EngineForReentrancy) -> bool:
    """Whether threads of this engine may wait for what it was interrupted in.

    It serves them all, is about to start a worker, or holds a lock of theirs."""
    return (
        threading.current_thread() is engine.housekeeper.thread
        or any(worker.is_started_here() for worker in engine.crew.members)
        or holds_lock(*engine.own_parts(), *engine.backend.parts())
    )


def is_needed() -> bool:
    """Whether threads of any manager may wait for what it was interrupted in.

    It holds a lock of tasker's, the one of `threading` that each thread takes when it
    starts and ends, or those of a wait in `concurrent.futures`. Or it is about to tell
    others what they wait for. Or one of the managers is held up."""
    return (
        guard.thread_state.notifying
        or holds_lock(*shared_parts())
        or timer.is_needed_here()
        or future.holds_waiters_lock()
        or any(
            engine.is_held_up_here() for engine in all_watched() if not engine.lifecycle.has_ended()
        )
    )
