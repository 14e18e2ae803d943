"""`Host`: what surrounds a resource that does not live with its worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasker import Reason, Slot, TaskManagerKilledError
from tasker.errors import ContextCancelledError, DeadlineExceededError
from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.host import Host


def setup_with(hooks):
    return protocol.Setup(
        name="host-worker-1",
        path=[],
        argv=[],
        environment={},
        inheritance=None,
        levels={},
        values=[],
        stopping=False,
        slot=Slot(index=0, worker="host-worker-1", generation=0, reason=Reason.HIRED),
        takes_slot=False,
        hooks=pickling.pack_value(hooks, apart=False)[0],
    )


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (protocol.CANCELLED, ContextCancelledError),
        (protocol.DEADLINE, DeadlineExceededError),
        (protocol.KILLED, TaskManagerKilledError),
    ],
)
def test_a_call_that_has_ended_before_it_begins_is_not_called(order, expected):
    hooks = protocol.Hooks(list, repr, None, None, None, on_abort=repr)

    def outcome():
        host = Host(setup_with(hooks), repr)
        host.create()
        host.obey(order, 1)
        packed = pickling.pack_call(list.append, (7,), False, ())
        kind, body, _ = host.run(1, -1.0, 0, packed.body, packed.buffers)
        error, _ = pickling.opened(kind, body)
        return type(error), host.resource

    # A host changes the thread that makes it.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outcome).result() == (expected, [])
