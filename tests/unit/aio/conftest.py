"""What tests of asyncio share: a gate for tasks, and a manager that is busy until it opens."""

from __future__ import annotations

import pytest

from tests.support.loops import Gate


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def block(new_manager, gate):
    """`block(**options)`: a manager whose only worker is busy until the gate opens."""

    def block(**options):
        manager = new_manager(**{"worker_count": 1, "max_worker_count": 1, **options})
        manager.submit(gate)
        gate.started_one()
        return manager

    return block
