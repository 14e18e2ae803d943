"""Signals that the soak sends.

All of its processes get some while a manager drains. Others suspend the soak itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.soak.faults import Chaos
from tests.soak.ledger import Ledger

__all__ = ["can_suspend", "signalling", "suspend"]

SUSPENDED_S = 1.5
_ENDING = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
]


def can_suspend() -> bool:
    """Whether the soak may stop itself.

    A shell in a terminal would take a stopped soak for one that was put aside.
    """
    return hasattr(signal, "SIGSTOP") and not (sys.stdin and sys.stdin.isatty())


def suspend(chaos: Chaos) -> None:
    """Stop this process for a while, as on a machine that sleeps.

    Another process lets it go on.
    """
    chaos.note("the process is suspended")
    began = time.monotonic()
    script = f"kill -STOP {os.getpid()}; sleep {SUSPENDED_S}; kill -CONT {os.getpid()}"
    subprocess.run(["sh", "-c", script], check=True, start_new_session=True)
    if time.monotonic() - began < SUSPENDED_S:
        raise RuntimeError("the process was not suspended")


@contextlib.contextmanager
def signalling(chaos: Chaos, ledger: Ledger, rng: random.Random) -> Iterator[None]:
    """Send all processes signals that ask to end, as a supervisor of a program does.

    The soak itself ignores them. If it leads its process group, the group gets them as
    well. Otherwise other programs are in the group.
    """
    before = {number: signal.signal(number, lambda *_: None) for number in _ENDING}
    over = threading.Event()
    thread = threading.Thread(
        target=_signal, args=(chaos, ledger, rng, over), name="harness-signals", daemon=True
    )
    thread.start()

    try:
        yield
    finally:
        over.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(chaos: Chaos, ledger: Ledger, rng: random.Random, over: threading.Event) -> None:
    children: tuple[Any, ...]
    while not over.wait(rng.random() * 0.02):
        number, children = rng.choice(_ENDING), ledger.engine.backend._proxies
        for child in children:
            if not child.is_lost():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), number)
        chaos.note(f"{number.name} for all processes")
