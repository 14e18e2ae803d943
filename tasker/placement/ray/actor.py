"""`ResourceActor`: what runs in a Ray actor.

It is a `Host`, with methods that the manager calls.

`create`, `run`, `check`, `reset` and `destroy` run one at a time, in the actor's own
thread. The methods in `CONTROL` run beside them, in other threads. So an order
overtakes the running call.
`live` never returns, so its failure says that the actor is dead. The resource is made
by a method, not by the constructor, as Ray drops the causes of a constructor's errors.

`_noting` guards the results of steps. It is notified when there are new ones, or when
the call has ended.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.host import Host
from tasker.placement.remote.logs import IDLE_RECORDS, forward_records
from tasker.placement.remote.pickling import Outcome

__all__ = ["CONTROL", "THREADS", "Answered", "Noted", "ResourceActor", "received", "sent"]

# The methods that run beside the others, and a thread for each of them.
CONTROL = {"live", "notes", "obey"}
THREADS = 3

# Whether a buffer is read-only, and the buffer.
Sent = tuple[bool, Any]
# An outcome, and the log records that came before it. Without buffers and records it is
# the outcome's kind and body as one `bytes`, which Ray sends as it is.
Answered = bytes | tuple[Outcome, list[bytes]]
# Results of steps, and whether the call has ended.
Noted = tuple[list[Outcome], bool]


class ResourceActor:
    """The resource of one worker."""

    def __init__(self) -> None:
        self._host: Host | None = None
        self._noting = threading.Condition()
        self._notes: list[Outcome] = []
        # The number of the call that ended last.
        self._ended = 0
        # Whether the manager has asked for results of steps.
        self._followed = False
        self._records: deque[bytes] = deque(maxlen=IDLE_RECORDS)

    def where(self) -> str:
        """The identifier of its node. Answered as soon as the actor runs."""
        node: str = import_module("ray").get_runtime_context().get_node_id()
        return node

    def create(self, packed: bytes) -> Answered:
        """Make the resource."""
        setup: protocol.Setup = pickle.loads(packed)
        known = set(sys.path)
        sys.path += [
            entry for entry in setup.path if entry and entry not in known and Path(entry).exists()
        ]
        threading.current_thread().name = setup.name

        forward_records(setup.name, setup.levels, self._records.append)
        self._host = host = Host(setup, self._note)
        return self._with_records(host.create())

    def run(self, message: bytes, buffers: Sequence[Sent] = ()) -> Answered:
        """Run a call: a `CALL_HEAD`, then its body."""
        assert self._host is not None
        number, remaining, done = protocol.CALL_HEAD.unpack_from(message)
        body = memoryview(message)[protocol.CALL_HEAD.size :]
        try:
            return self._with_records(
                self._host.run(number, remaining, done, body, received(buffers))
            )
        finally:
            # Announce, then look (R1). A thread that asks from now on finds `_ended`.
            self._ended = number
            if self._followed:
                with self._noting:
                    self._noting.notify_all()

    def check(self) -> Answered:
        """Call `on_check`."""
        assert self._host is not None
        return self._with_records(self._host.check())

    def reset(self) -> Answered:
        """Call `on_reset`."""
        assert self._host is not None
        return self._with_records(self._host.reset())

    def destroy(self, reason: bytes | None) -> Answered:
        """Free the resource. `reason` is the packed error that broke it, if one has."""
        assert self._host is not None
        return self._with_records(self._host.destroy(reason))

    # -- beside those ------------------------------------------------------------------

    def notes(self, number: int) -> Noted:
        """The results of steps of this call since the last time.

        Waits until there are any, or the call has ended."""
        with self._noting:
            self._followed = True
            self._noting.wait_for(lambda: self._notes or self._ended >= number)
            notes, self._notes = self._notes, []
            return notes, self._ended >= number

    def obey(self, order: int, number: int) -> None:
        """Follow an order of the manager's."""
        if self._host is not None:
            self._host.obey(order, number)

    def live(self) -> None:
        """Never returns."""
        threading.Event().wait()

    # -- parts of the above ------------------------------------------------------------

    def _note(self, result: object) -> None:
        body, buffers = pickling.pack_result(result)
        with self._noting:
            self._notes.append(_sendable((protocol.RESULT, body, buffers)))
            self._noting.notify_all()

    def _with_records(self, outcome: Outcome) -> Answered:
        records: list[bytes] = []
        with contextlib.suppress(IndexError):
            while True:
                records.append(self._records.popleft())

        kind, body, buffers = outcome
        return (_sendable(outcome), records) if records or buffers else bytes([kind]) + body


def _sendable(outcome: Outcome) -> Outcome:
    kind, body, buffers = outcome
    return kind, body, sent(buffers)


def sent(buffers: Sequence[Any]) -> list[Sent]:
    """Buffers in a form that Ray, too, sends beside the rest."""
    return [(memoryview(each).readonly, pickle.PickleBuffer(each)) for each in buffers]


def received(buffers: Sequence[Sent]) -> list[bytes | bytearray]:
    """Copies of the buffers that have come.

    Those that Ray hands out are read-only and no `bytes`, and the whole node shares
    their memory."""
    return [
        bytes(memoryview(each)) if readonly else bytearray(memoryview(each))
        for readonly, each in buffers
    ]
