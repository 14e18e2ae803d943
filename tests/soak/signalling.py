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

SUSPENDED = 1.5  # seconds
_ENDING = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
]


def can_suspend() -> bool:
    """A shell in a terminal would take a stopped soak for one that was put aside."""
    return hasattr(signal, "SIGSTOP") and not (sys.stdin and sys.stdin.isatty())


def suspend(chaos: Chaos) -> None:
    """Stop this process for a while, as a machine that sleeps would.

    A helper lets it go on.
    """
    chaos.note("the process is suspended")
    began = time.monotonic()
    script = f"kill -STOP {os.getpid()}; sleep {SUSPENDED}; kill -CONT {os.getpid()}"
    subprocess.run(["sh", "-c", script], check=True, start_new_session=True)
    if time.monotonic() - began < SUSPENDED:
        raise RuntimeError("the process was not suspended")


@contextlib.contextmanager
def signalling(chaos: Chaos, ledger: Ledger, rng: random.Random) -> Iterator[None]:
    """As a supervisor that ends a program: all of its processes get signals that ask to
    end. The soak ignores them.

    Its process group gets them as well, if the soak leads it: else there are others in
    it.
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
