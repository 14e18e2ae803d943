"""The end of a manager that a test has left open."""

from __future__ import annotations

from typing import Any
from unittest import mock

import tasker._pool.lifecycle
from tasker import TaskManager
from tests.support.waiting import PATIENCE


def kill(manager: TaskManager[Any]) -> None:
    """Kill a manager. Nothing is left behind, however slow the machine is.

    A kill by itself gives threads that only have to leave a second, not more."""
    with mock.patch.object(tasker._pool.lifecycle, "_JOIN_S", PATIENCE):
        assert manager.kill(PATIENCE).abandoned == ()
