"""The ways in which a round ends its manager, by name.

Each is called with the load, which goes on meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from functools import partial

from tasker import TaskManager
from tests.soak import patience
from tests.soak.ledger import Resource
from tests.soak.load import Load
from tests.soak.signalling import signalling

__all__ = ["ENDINGS", "ENDINGS_WITH_CHILDREN", "LEAVE_STUCK", "STUCK"]

STUCK = "kill with stuck tasks"
# The wait for room.
SOON_S = (0.01,)

# The form of the tasks that end the manager, or whose callbacks do. They are submitted
# until it is closed.
FROM_INSIDE = {
    "stop from a task": "async",
    "kill from a task": "async",
    "stop from a callback": "callback",
    "kill from a callback": "callback",
}


def _manager(load: Load) -> TaskManager[Resource]:
    assert load.submitter.manager is not None
    return load.submitter.manager


def _stop(load: Load) -> None:
    report = _manager(load).stop()
    if report.drained is bool(report.abandoned):
        load.ledger.broken(f"stop() returned {report}")


def _stop_signalled(load: Load) -> None:
    with signalling(load.chaos, load.ledger, load.rng):
        _stop(load)


def _stop_soon(load: Load) -> None:
    load.ledger.may_be_killed = True
    _manager(load).stop(load.rng.choice([0, 0.001, 0.01, 0.1]))


def _kill(load: Load) -> None:
    load.ledger.may_be_killed = True
    _manager(load).kill(patience.SECONDS)


def _kill_stuck(load: Load) -> None:
    for _ in range(load.ledger.most_workers):
        load.submitter.submit(load.rng, "async", SOON_S, act="is stuck")
    load.ledger.may_be_killed = True
    _manager(load).kill(load.rng.choice([0, 0.01, 0.1]))


def _several_at_once(load: Load) -> None:
    load.ledger.may_be_killed = True
    manager = _manager(load)
    ends = (
        manager.stop,
        partial(manager.stop, 0.01),
        partial(manager.stop, 5),
        partial(manager.kill, patience.SECONDS),
    )
    threads = [threading.Thread(target=end, name="harness-end", daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience.SECONDS)


def _from_inside(form: str, act: str, load: Load) -> None:
    load.ledger.may_be_killed = act.startswith("kill")
    deadline = time.monotonic() + patience.SECONDS
    while not load.ledger.engine.queue.closed and time.monotonic() < deadline:
        load.submitter.submit(load.rng, form, SOON_S, act=act)
        time.sleep(0.001)


def _cancel_context(load: Load) -> None:
    load.ledger.engine.config.ctx.cancel()


def _interrupt(load: Load) -> None:
    load.ledger.may_be_killed = True
    with contextlib.suppress(KeyboardInterrupt), _manager(load):
        raise KeyboardInterrupt("left by one")


def _forget(load: Load) -> None:
    load.submitter.manager = None
    load.join()
    gc.collect()


ENDINGS: dict[str, Callable[[Load], None]] = {
    "stop": _stop,
    "stop with a timeout": _stop_soon,
    "kill": _kill,
    STUCK: _kill_stuck,
    "several at once": _several_at_once,
    "cancelled context": _cancel_context,
    "KeyboardInterrupt": _interrupt,
    "forgotten": _forget,
    **{act: partial(_from_inside, form, act) for act, form in FROM_INSIDE.items()},
}

# A manager that ends in these ways need not wait for tasks that are stuck.
LEAVE_STUCK = {
    STUCK,
    "stop",
    "cancelled context",
    "forgotten",
    "stop from a task",
    "stop from a callback",
}

# Tasks in child processes cannot reach the manager.
ENDINGS_WITH_CHILDREN = {
    way: end for way, end in ENDINGS.items() if not way.endswith("from a task")
}
ENDINGS_WITH_CHILDREN["stop while all processes are signalled"] = _stop_signalled
