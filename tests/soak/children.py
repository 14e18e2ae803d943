"""Ends children of a manager at random, and watches how they end.

It also tells whether they and their descriptors are gone in the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.soak.faults import Chaos
from tests.soak.ledger import Ledger

__all__ = ["descriptors", "kill_at_random", "left_behind", "witnessed"]

_SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGSEGV]


def kill_at_random(chaos: Chaos, ledger: Ledger, rng: random.Random, over: threading.Event) -> None:
    """Now and then kill a child, busy or not, until the load is over."""
    pause = rng.choice([0.2, 0.5, 1.0])  # seconds, at most

    while not over.wait(rng.random() * pause):
        children: tuple[Any, ...] = ledger.engine.backend._proxies
        if chaos.is_calm() or not children:
            continue

        child, number = rng.choice(children), rng.choice(_SIGNALS)
        state = repr(child).rpartition(" ")[2].rstrip(">")
        # Children take long to start. Most of those that are hit would be starting.
        if state == "starting" and rng.random() < 0.9:
            continue

        # The ledger must know it before the manager can notice.
        ledger.killed.add(child.pid)
        doing = ("busy" if child._context is not None else "idle") if state == "ready" else state
        if not child.is_lost():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)
                chaos.note(f"{number.name} for a child that is {doing}")


@contextlib.contextmanager
def witnessed(ledger: Ledger) -> Iterator[None]:
    """Note how each child ends, and by which function the manager kills it.

    It has a reason to kill a child whose call outlives its context.
    """
    # This import needs a POSIX system.
    from tasker.placement.processes.proxy import ProcessProxy

    kill, announce = ProcessProxy.kill, ProcessProxy._announce

    def witnessed_kill(child: ProcessProxy) -> None:
        context = child._context
        if context is not None and context.err() is not None:
            ledger.overdue.add(child.pid)
        if not child._ended:
            by = sys._getframe(1).f_code.co_name
            ledger.saw(child.pid, f"killed by {by} in {threading.current_thread().name}")
        kill(child)

    def witnessed_announce(child: ProcessProxy, exit_code: int | None) -> None:
        ledger.saw(child.pid, f"ended with {exit_code}")
        announce(child, exit_code)

    ProcessProxy.kill = witnessed_kill  # type: ignore[method-assign]
    ProcessProxy._announce = witnessed_announce  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ProcessProxy.kill, ProcessProxy._announce = kill, announce  # type: ignore[method-assign]


def left_behind() -> bool:
    """Whether this process has a child that is alive or not reaped."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False

    return True


def descriptors() -> int | None:
    """How many descriptors are open in this process; `None` if that is unknown."""
    try:
        return len(list(Path("/dev/fd").iterdir()))
    except OSError:
        return None
