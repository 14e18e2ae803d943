"""The program of a child: `python -m tasker.placement._child CALLS ANSWERS CONTROL LIFELINE`,
the numbers of its descriptors.

    CREATING --RESULT--> IDLE <--CALL, RESULT or ERROR--> BUSY
                          '--DESTROY--> the resource is destroyed, RESULT, and the process ends

The main thread receives and answers; the `Host` does the work in it. The control thread reads what must not wait for
that: orders about the running call, and, by the end of the pipe, that the parent is no more. That ends this process at
once; where the kernel can say it (a signal on the lifeline), even if no Python code can run.

`_Outbox._lock` is held while a message is sent.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections import deque
from functools import partial

from tasker.placement import envelope, protocol
from tasker.placement.envelope import Outcome
from tasker.placement.host import Host
from tasker.placement.records import IDLE_RECORDS, forward_records
from tasker.placement.wire import Wire
from tasker.threads import new_thread


class _Outbox:
    """What is sent to the parent. Between calls nobody reads there, so log records wait for the next message."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lock = threading.RLock()  # reentrant: what serializes a log record may log
        self._heard = False  # whether the parent reads until the reply
        self._records: deque[bytes] = deque(maxlen=IDLE_RECORDS)

    def open(self) -> None:
        """The parent reads from now on."""
        with self._lock:
            self._heard = True
            while self._records:
                self._wire.send(protocol.RECORD, self._records.popleft())

    def reply(self, outcome: Outcome) -> None:
        """Send the outcome of what was asked."""
        kind, body, buffers = outcome
        with self._lock:
            self._heard = False
            self._wire.send(kind, body, buffers=buffers)

    def note(self, result: object) -> None:
        """Send the result of a step. Raises `RemoteTaskError` when it cannot be serialized."""
        body, buffers = envelope.pack_result(result)
        with self._lock:
            self._wire.send(protocol.NOTE, body, buffers=buffers)

    def record(self, record: bytes) -> None:
        """Send a log record, now or with the next message."""
        with self._lock:
            if self._heard:
                self._wire.send(protocol.RECORD, record)
            else:
                self._records.append(record)


def _serve(wire: Wire, outbox: _Outbox, host: Host) -> None:
    """Create, run what comes, destroy."""
    outbox.open()
    created = host.create()
    outbox.reply(created)
    if created[0] == protocol.ERROR:
        return
    while True:
        kind, body, buffers = wire.receive()
        outbox.open()
        if kind == protocol.DESTROY:
            outbox.reply(host.destroy())
            return
        number, remaining, done = protocol.CALL_HEAD.unpack_from(body)
        outcome = host.run(number, remaining, done, body[protocol.CALL_HEAD.size :], buffers)
        try:  # noqa: SIM105  # what it has printed is there when its outcome is; suppress() would cost more than that
            sys.stdout.flush()
        except Exception:  # closed, or replaced by something that is no stream
            pass
        outbox.reply(outcome)
        del body, buffers, outcome


def _obey(control: int, host: Host) -> None:
    """Do what the parent says; end with it."""
    received = b""
    while True:
        received += os.read(control, 512) or os._exit(1)
        while len(received) >= protocol.ORDER.size:
            host.obey(*protocol.ORDER.unpack_from(received))
            received = received[protocol.ORDER.size :]


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the parent, which alone could write there, is no more."""
    with contextlib.suppress(ImportError, AttributeError, OSError):  # only Linux has all of it
        import fcntl

        # opened anew: the setting would otherwise be shared with the other children
        own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)  # SIGIO, which ends a process
    os.close(lifeline)


def _leave_to_child(*descriptors: int) -> None:
    """In a process that the user's code forks: it must not speak for this one, nor hold its connection open."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; it was blocked until here
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    calls, answers, control, lifeline = map(int, sys.argv[1:5])
    for descriptor in (calls, answers, control):
        os.set_inheritable(descriptor, False)
    _end_with_parent(lifeline)
    os.register_at_fork(after_in_child=partial(_leave_to_child, calls, answers, control))
    with contextlib.suppress(EOFError, OSError):  # the parent is no more, or has no use for this one any more
        wire = Wire(calls, answers)
        _, body, _ = wire.receive()
        setup: protocol.Setup = pickle.loads(body)
        sys.path[:] = setup.path
        sys.argv[:] = setup.argv
        os.environ.clear()
        os.environ.update(setup.environment)
        threading.current_thread().name = setup.name
        outbox = _Outbox(wire)
        forward_records(setup.name, setup.levels, outbox.record)
        host = Host(setup, outbox.note)
        new_thread(_obey, "tasker-control", (control, host)).start()
        _serve(wire, outbox, host)


if __name__ == "__main__":
    main()
