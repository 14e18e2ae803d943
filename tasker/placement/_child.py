"""The program of a child: `python -m tasker.placement._child DATA CONTROL LIFELINE`, the numbers of its descriptors.

    CREATING --RESULT--> IDLE <--CALL, RESULT or ERROR--> BUSY
                          '--DESTROY--> the resource is destroyed, RESULT, and the process ends

The main thread creates the resource, runs the calls one at a time, and destroys it. The control thread reads what must
not wait for that: that the running call's context ended, that the manager drains, and, by the end of the pipe, that the
parent is no more. That ends this process at once; where the kernel can say it (a signal on the lifeline), even if no
Python code can run.

`_Child._lock` guards which call runs and how its context ended; `_Outbox` has the lock under which messages are sent.
Nothing of the user's runs under either.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from functools import partial
from typing import Any

from tasker import timer
from tasker.aside import Aside
from tasker.context import Context, TaskContext, background, with_value, without_cancel
from tasker.current import here
from tasker.errors import ContextCancelledError, DeadlineExceededError, RemoteTaskError, TaskManagerKilledError
from tasker.logger import GuardedLogger
from tasker.placement import envelope, protocol
from tasker.placement.variables import set_variables
from tasker.placement.wire import Wire
from tasker.wrapping import Progress, users_traceback

IDLE_RECORDS = 1000  # log records kept while nobody reads; the oldest give way


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

    def reply(self, kind: int, body: bytes, buffers: Any = ()) -> None:
        """Send the outcome of what was asked."""
        with self._lock:
            self._heard = False
            self._wire.send(kind, body, buffers=buffers)

    def note(self, result: object) -> None:
        """Send the result of a step. Raises `RemoteTaskError` when it cannot be serialized."""
        body, buffers = envelope.outcome_of(result)
        with self._lock:
            self._wire.send(protocol.NOTE, body, buffers=buffers)

    def record(self, record: bytes) -> None:
        """Send a log record, now or with the next message."""
        with self._lock:
            if self._heard:
                self._wire.send(protocol.RECORD, record)
            else:
                self._records.append(record)


class _Forwarder(logging.Handler):
    """Sends log records to the parent, whose loggers handle them."""

    def __init__(self, outbox: _Outbox, name: str) -> None:
        super().__init__()
        self._outbox = outbox
        self._name = name

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = dict(record.__dict__)
            fields.update(msg=record.getMessage(), args=None, exc_info=None, processName=self._name)
            if record.exc_info:
                fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            self._outbox.record(_packed_fields(fields))
        except Exception:
            self.handleError(record)


def _packed_fields(fields: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(fields)
    except Exception:  # what the user added to the record
        return pickle.dumps({name: value for name, value in fields.items() if _is_picklable(value)})


def _is_picklable(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


class _Child:
    """The resource, and the call that runs on it."""

    def __init__(self, wire: Wire, setup: protocol.Setup) -> None:
        self._wire = wire
        self._outbox = _Outbox(wire)
        self._lock = threading.RLock()
        self._number = 0  # of the call that runs, or ran last
        self._ended: dict[int, int] = {}  # how contexts ended, by the number of the call
        self._stopping = setup.stopping
        self._aside = Aside(f"{setup.name}-context", GuardedLogger(logging.getLogger("tasker")))
        self._values = _context_of(setup.values)
        # as `current_context()` sees it
        self.resource: Any = None
        self.owner: Any = self
        self.outer: Any = None
        self.context: TaskContext | None = None
        self._deadline: float | None = None
        self._forward_logs(setup)

    # -- the main thread -------------------------------------------------------------------------------------------

    def serve(self, hooks: bytes) -> None:
        """Create, run what comes, destroy."""
        self._outbox.open()
        try:
            create, destroy = envelope.unpack(hooks)
            self.resource = create()
            del create
        except BaseException as error:
            self._outbox.reply(protocol.ERROR, envelope.pack_error(_without_own_frame(error)))
            return
        self._outbox.reply(protocol.RESULT, protocol.NOTHING)
        while True:
            kind, body, buffers = self._wire.receive()
            self._outbox.open()
            if kind == protocol.DESTROY:
                break
            self._call(body, buffers)
            del body, buffers
        try:
            destroy(self.resource)
        except BaseException as error:
            self._outbox.reply(protocol.ERROR, envelope.pack_error(_without_own_frame(error)))
        else:
            self._outbox.reply(protocol.RESULT, protocol.NOTHING)

    def _call(self, body: memoryview, buffers: list[bytearray]) -> None:
        number, remaining, done = protocol.CALL_HEAD.unpack_from(body)
        self._deadline = None if remaining < 0 else timer.now() + remaining
        with self._lock:
            self._number = number
        result: Any
        try:
            result = envelope.outcome_of(self._run(body[protocol.CALL_HEAD.size :], buffers, done))
        except BaseException as error:
            reply: tuple[Any, ...] = protocol.ERROR, envelope.pack_error(_without_own_frame(error))
        else:
            reply = protocol.RESULT, *result
        with self._lock:
            self.context = None
            self._ended.clear()
        for stream in (sys.stdout, sys.stderr):  # what it has printed is there when its outcome is
            with contextlib.suppress(Exception):  # closed, or replaced by something that is no stream
                stream.flush()
        self._outbox.reply(*reply)

    def _run(self, body: memoryview, buffers: list[bytearray], done: int) -> Any:
        try:
            fn, args, wants_context, variables = envelope.unpack(body, buffers)
        except BaseException as error:
            raise RemoteTaskError(f"the call could not be unpickled in the child: {error!r}") from error
        if args and isinstance(args[-1], Progress):
            args[-1].told, args[-1].done = self._outbox.note, done
        place = here.place
        place.loan = self
        try:
            scope = contextvars.Context()
            if variables:
                scope.run(set_variables, variables)
            if wants_context:
                return scope.run(fn, self.call_context(self), self.resource, *args)
            return scope.run(fn, self.resource, *args)
        finally:
            place.loan = None

    def call_context(self, loan: object) -> TaskContext:
        """The context of the running call, made if need be."""
        with self._lock:
            if self.context is None:
                self.context = TaskContext(self._values, self._deadline, lambda: self._stopping)
                if self._number in self._ended:
                    self._end_context(self._ended[self._number])
            return self.context

    # -- the control thread ----------------------------------------------------------------------------------------

    def obey(self, control: int) -> None:
        """Do what the parent says; end with it."""
        received = b""
        while True:
            received += os.read(control, 512) or os._exit(1)
            while len(received) >= protocol.ORDER.size:
                order, number = protocol.ORDER.unpack_from(received)
                received = received[protocol.ORDER.size :]
                if order == protocol.STOPPING:
                    self._stopping = True
                else:
                    self._end_call(order, number)

    def _end_call(self, order: int, number: int) -> None:
        with self._lock:
            if number < self._number:
                return
            self._ended[number] = order
            if number == self._number and self.context is not None:
                self._end_context(order)

    def _end_context(self, order: int) -> None:
        """With the lock held: callbacks run on a thread of their own."""
        assert self.context is not None
        error: ContextCancelledError | DeadlineExceededError
        cause: BaseException | None = None
        if order == protocol.DEADLINE:
            error = DeadlineExceededError("the task's timeout ended")
        elif order == protocol.KILLED:
            error = ContextCancelledError("the manager was killed")
            cause = TaskManagerKilledError("the manager was killed while the task was running")
        else:
            error = ContextCancelledError("context cancelled")
        self._aside.run(*self.context._end(error, cause))

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _forward_logs(self, setup: protocol.Setup) -> None:
        root = logging.getLogger()
        root.addHandler(_Forwarder(self._outbox, setup.name))
        for name, level in setup.levels.items():
            logging.getLogger(name).setLevel(level)


def _context_of(values: list[bytes]) -> Context:
    context = background()
    for packed in values:
        with contextlib.suppress(Exception):  # it cannot be unpickled here
            key, value = envelope.unpack(packed)
            context = with_value(context, key, value)
    return without_cancel(context)


def _without_own_frame(error: BaseException) -> BaseException:
    """A traceback begins with the user's function, here too."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(users_traceback(trace))


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
    data, control, lifeline = map(int, sys.argv[1:4])
    for descriptor in (data, control):
        os.set_inheritable(descriptor, False)
    _end_with_parent(lifeline)
    os.register_at_fork(after_in_child=partial(_leave_to_child, data, control))
    wire = Wire(socket.socket(fileno=data))
    _, body, _ = wire.receive()
    setup: protocol.Setup = pickle.loads(body)
    sys.path[:] = setup.path
    sys.argv[:] = setup.argv
    os.environ.clear()
    os.environ.update(setup.environment)
    threading.current_thread().name = setup.name
    child = _Child(wire, setup)
    threading.Thread(target=child.obey, args=(control,), name="tasker-control", daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent is no more, or has no use for this one any more
        child.serve(setup.hooks)


if __name__ == "__main__":
    main()
