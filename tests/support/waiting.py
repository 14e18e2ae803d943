"""How long tests wait, and how they wait for what nothing signals."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# seconds after which a wait in a test has failed; nothing that passes waits that long
PATIENCE = 50.0


def eventually(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait for something that nothing signals; fails after PATIENCE. Use an event where there is one."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        # no pytest here: children that wait would import it
        assert time.monotonic() < deadline, f"{what} did not come true within {PATIENCE} s"
        time.sleep(0.002)
