"""The placements, where each of them can be tested, and managers on them."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from tasker import Config, Placement, Processes, Ray, TaskManager, Threads
from tests.support import remote_tasks
from tests.support.journal import Journal
from tests.support.waiting import PATIENCE

on_posix = pytest.mark.skipif(os.name != "posix", reason="Processes() needs a POSIX system")

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")

# A child on a busy machine may need long to hear of its context's end. Where a test is about
# the end of the grace period it says how long that is.
REMOTE = [
    pytest.param(Processes(grace=PATIENCE), id="processes", marks=on_posix),
    pytest.param(Ray(address=None, grace=PATIENCE), id="ray", marks=with_ray),
]
PLACEMENTS = [pytest.param(Threads(), id="threads"), *REMOTE]


def manager_on(default: Placement, journal: Journal, **options: Any) -> TaskManager[Any]:
    options = {
        "on_create": journal.create,
        "on_destroy": journal.destroy,
        "worker_count": 1,
        "max_worker_count": options.get("worker_count", 1),
        "check_health": remote_tasks.is_healthy,
        "resource_pool_size": 0,
        "placement": default,
        **options,
    }
    return TaskManager(Config(**options))
