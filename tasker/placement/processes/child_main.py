"""The program of a child: `main`, called by what `launch` has a Python run.

    CREATING --RESULT--> IDLE <--CALL, RESULT or ERROR--> BUSY
                          '--DESTROY--> the resource is destroyed, RESULT, and the process ends

The main thread receives and answers; the `Host` does the work in it. The control thread reads what must not wait for
that: orders about the running call, and, by the end of the pipe, that the parent is no more. That ends this process at
once; where the kernel can do it (a signal on the lifeline), even if no Python code can run.

Whatever ends the serving ends the process, whatever threads the user's code has left: the parent waits for an answer.
Only the parent ends it: signals that ask a process to end are meant for the parent, which drains first.

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

_HIGH = 512  # the least number for this process's own descriptors
_FLUSHING = 2  # whole seconds that the end of the process may take


class _Outbox:
    """What is sent to the parent. Between calls nobody reads there, so log records wait for the next message."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lock = new_lock()  # reentrant: what serializes a log record may log
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
    """Create, run what comes, destroy; count what has begun."""
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
        number, remaining, done = protocol.CALL_HEAD.unpack_from(body)
        outcome = host.run(number, remaining, done, body[protocol.CALL_HEAD.size :], buffers)
        try:  # noqa: SIM105  # what it has printed is there when its outcome is; suppress() would cost more than that
            sys.stdout.flush()
        except Exception:  # closed, or replaced by something that is no stream
            pass
        outbox.reply(outcome)
        del body, buffers, outcome


def _obey(orders: int, host: Host) -> None:
    """Do what the parent says; end with it."""
    received = b""
    while True:
        received += os.read(orders, 512) or os._exit(1)
        while len(received) >= protocol.ORDER.size:
            host.obey(*protocol.ORDER.unpack_from(received))
            received = received[protocol.ORDER.size :]


def _end_with_parent(lifeline: int, group: bool) -> int:
    """Have the kernel end this process, or its whole group, when the parent, which alone could write there, is no
    more. Returns a lifeline of this process's own."""
    with contextlib.suppress(AttributeError, OSError):  # only Linux has all of it
        # opened anew: the setting would otherwise be shared with the other children
        own = _out_of_reach(os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK))
        os.close(lifeline)
        lifeline = own
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp() if group else os.getpid())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    return lifeline


def _out_of_reach(descriptor: int) -> int:
    """The same by a high number: code that detaches from its terminal closes the low ones, and new ones are low."""
    with contextlib.suppress(OSError):  # there are no such numbers
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        os.close(descriptor)
        return high
    os.set_inheritable(descriptor, False)
    return descriptor


def _leave_to_child(*descriptors: int) -> None:
    """In a process that the user's code forks: it must not speak for this one, nor hold its connection open, and may
    be asked to end."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    for number in DETACHED:
        if signal.getsignal(number) is _leave_to_parent:
            signal.signal(
                number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            )


def _leave_to_parent(number: int, frame: object) -> None:
    """A handler that does nothing: if the signal was ignored, programs that this one starts would ignore it too."""


def _leave_signals_to_parent() -> None:
    for number in DETACHED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave_to_parent)
            signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DETACHED)  # they were blocked until here


def _live(
    calls: int, answers: int, orders: int, mark: int, lifeline: int, tracker: int | None
) -> None:
    """From the first message to the last."""
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
    new_thread(_obey, "tasker-control", (orders, host)).start()
    _serve(wire, outbox, host, begun)


def _end(exit_code: int) -> NoReturn:
    """End this process: no thread of the user's, and no stream that takes nothing, may hold it up."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_FLUSHING)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or replaced by something that is no stream
            stream.flush()
    with contextlib.suppress(
        Exception
    ):  # what libraries have printed that are not written in Python
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
        atexit._run_exitfuncs()  # the parent waits, but no longer than its grace
        exit_code = 0
    except (
        EOFError,
        BrokenPipeError,
    ):  # the parent is no more, or has no use for this one any more
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
