"""The program of a child process. `launch` has a Python call `main`.

    CREATING --RESULT--> IDLE <--CALL, CHECK or RESET, RESULT or ERROR--> BUSY
                          '--DESTROY--> the resource is destroyed, RESULT, exit

The main thread receives requests and sends answers. Its `Host` does the work between
the two. The control thread reads orders about the running call, which must not wait for
it. The end of the control pipe says that the parent is gone, and then the thread ends
the process at once. Where the kernel can do so (by a signal on the lifeline), it ends
the process even if no Python code can run.

When the serving ends, for whatever reason, the process ends, too, even if the user's
code has left threads behind: the parent waits for an answer. Only the parent ends the
process. Signals that ask a process to end are meant for the parent, which drains first.

`_Outbox._lock` is held while a message is sent.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from functools import partial
from typing import NoReturn

from tasker._sync.locks import new_lock
from tasker._sync.threads import new_thread
from tasker.placement.processes import multiprocess
from tasker.placement.processes.launch import DETACHED
from tasker.placement.processes.mark import shared_number
from tasker.placement.processes.wire import Wire
from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.host import Host
from tasker.placement.remote.logs import IDLE_RECORDS, forward_records
from tasker.placement.remote.pickling import Outcome

# The process's own descriptors have at least this number. A guess: it is out of the way
# of code that closes low ones, and below 1024, the usual limit of a process.
_LEAST_DESCRIPTOR = 512
# How long the last flush may take, in whole seconds as `alarm` wants them. A guess:
# only a stream that takes nothing needs longer.
_FLUSH_S = 2


class _Outbox:
    """Sends messages to the parent.

    Between calls the parent does not read. Log records then wait for the next
    message."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        # Reentrant: the code that serializes a log record may log.
        self._lock = new_lock()
        # Whether the parent reads now, until it has the reply.
        self._heard = False
        self._records: deque[bytes] = deque(maxlen=IDLE_RECORDS)

    def open(self) -> None:
        """The parent reads from now on."""
        with self._lock:
            self._heard = True
            while self._records:
                self._wire.send(protocol.RECORD, self._records.popleft())

    def reply(self, outcome: Outcome) -> None:
        """Send the answer to a request."""
        kind, body, buffers = outcome
        with self._lock:
            self._heard = False
            self._wire.send(kind, body, buffers=buffers)

    def note(self, result: object) -> None:
        """Send the result of a step.

        Raises `RemoteTaskError` when it cannot be serialized."""
        body, buffers = pickling.pack_result(result)
        with self._lock:
            self._wire.send(protocol.NOTE, body, buffers=buffers)

    def record(self, record: bytes) -> None:
        """Send a log record, now or with the next message."""
        with self._lock:
            if self._heard:
                self._wire.send(protocol.RECORD, record)
            else:
                self._records.append(record)


def _serve(wire: Wire, outbox: _Outbox, host: Host, begun: memoryview) -> None:
    """Create the resource, run the calls, destroy it. Count the requests begun."""
    outbox.open()
    begun[0] = 1
    created = host.create()
    outbox.reply(created)
    if created[0] == protocol.ERROR:
        return

    while True:
        kind, body, buffers = wire.receive()
        begun[0] += 1
        outbox.open()
        if kind == protocol.DESTROY:
            outbox.reply(host.destroy(pickle.loads(body)))
            return

        if kind == protocol.CALL:
            number, remaining, done = protocol.CALL_HEAD.unpack_from(body)
            outcome = host.run(number, remaining, done, body[protocol.CALL_HEAD.size :], buffers)
        else:
            outcome = host.check() if kind == protocol.CHECK else host.reset()
        # What the call has printed appears before its outcome. `suppress` would cost
        # more than the flush. The stream may be closed, or replaced by another object.
        try:  # noqa: SIM105
            sys.stdout.flush()
        except Exception:
            pass
        outbox.reply(outcome)
        del body, buffers, outcome


def _obey(orders: int, host: Host) -> None:
    """Follow the orders of the parent, and end this process when the parent ends."""
    received = b""
    while True:
        received += os.read(orders, 512) or os._exit(1)
        while len(received) >= protocol.ORDER.size:
            host.obey(*protocol.ORDER.unpack_from(received))
            received = received[protocol.ORDER.size :]


def _end_with_parent(lifeline: int, group: bool) -> int:
    """Have the kernel end this process, or its whole group, when the parent ends.

    The parent alone holds the writing end of the lifeline, and it never writes. Returns
    a lifeline that belongs to this process alone."""
    # Only Linux has all of this.
    with contextlib.suppress(AttributeError, OSError):
        # Opened anew, or the settings would be shared with the other children.
        own = _out_of_reach(os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK))
        os.close(lifeline)
        lifeline = own
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp() if group else os.getpid())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    return lifeline


def _out_of_reach(descriptor: int) -> int:
    """The same file by a high number.

    Code that detaches from its terminal closes the low ones, and new files get low
    ones."""
    # The limit of the process may be lower than the number.
    with contextlib.suppress(OSError):
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LEAST_DESCRIPTOR)
        os.close(descriptor)
        return high

    os.set_inheritable(descriptor, False)
    return descriptor


def _leave_to_child(*descriptors: int) -> None:
    """In a process that the user's code forks.

    It must not answer for this one, nor hold its connection open, and signals may end
    it (R5)."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)

    for number in DETACHED:
        if signal.getsignal(number) is _leave_to_parent:
            signal.signal(
                number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            )


def _leave_to_parent(number: int, frame: object) -> None:
    """A handler that does nothing.

    If the signal was ignored instead, the programs that the child starts would ignore
    it, too."""


def _leave_signals_to_parent() -> None:
    for number in DETACHED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave_to_parent)
            signal.siginterrupt(number, False)

    # `launch` has blocked them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DETACHED)


def _live(
    calls: int, answers: int, orders: int, mark: int, lifeline: int, tracker: int | None
) -> None:
    """Read the first message, be like the parent, and serve until the last message."""
    begun = shared_number(mark)
    wire = Wire(calls, answers)
    _, body, _ = wire.receive()
    setup: protocol.Setup = pickle.loads(body)

    sys.argv[:] = setup.argv
    os.environ.clear()
    os.environ.update(setup.environment)
    multiprocess.take_over(setup.inheritance, setup.name, lifeline, tracker)
    threading.current_thread().name = setup.name

    outbox = _Outbox(wire)
    forward_records(setup.name, setup.levels, outbox.record)
    host = Host(setup, outbox.note)
    new_thread(_obey, "tasker-control", (orders, host), service=True).start()
    _serve(wire, outbox, host, begun)


def _end(exit_code: int) -> NoReturn:
    """End this process.

    Neither a thread of the user's nor a stream that takes nothing may hold it up."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_FLUSH_S)

    for stream in (sys.stdout, sys.stderr):
        # The stream may be closed, or replaced by another object.
        with contextlib.suppress(Exception):
            stream.flush()

    # Flush what libraries that are not written in Python have printed.
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).fflush(None)
    os._exit(exit_code)


def main(
    calls: int,
    answers: int,
    orders: int,
    mark: int,
    lifeline: int,
    group: bool,
    tracker: int | None = None,
) -> NoReturn:
    """Serve the parent, then end the process."""
    exit_code = 1
    try:
        _leave_signals_to_parent()
        calls, answers, orders, lifeline = map(_out_of_reach, (calls, answers, orders, lifeline))
        lifeline = _end_with_parent(lifeline, group)
        os.register_at_fork(after_in_child=partial(_leave_to_child, calls, answers, orders))
        _live(
            calls,
            answers,
            orders,
            mark,
            lifeline,
            None if tracker is None else _out_of_reach(tracker),
        )
        # The parent waits for this, but no longer than its grace.
        atexit._run_exitfuncs()
        exit_code = 0
    except (EOFError, BrokenPipeError):
        # The parent is gone, or has no use for this process any more.
        pass
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            print(
                "tasker: the code that ran here has closed this child process's descriptors",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
    finally:
        _end(exit_code)
