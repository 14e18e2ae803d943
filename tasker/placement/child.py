"""`Child`: a child process with a resource in it, as its parent sees it. To a manager it is the resource.

    STARTING --create--> READY --destroy--> ENDING --> dead
        '------------------'-------------------^

One thread at a time owns it: it creates, calls and destroys, and sleeps in `receive` for the answer. The others only
speak by the control pipe, or end the process: whoever ends the context of a call, the timer when the grace is over, the
closing manager. Nobody has to interrupt the owner: the process dies, and that is the end of his connection.

Each child has a thread that waits for its death (of the process itself, by a pidfd where there is one: whatever the
child has started may hold its end of the connection open), reaps it, closes the reading side for the owner, who first
reads what was answered before, and tells the manager, which replaces an idle child at once.

`_lock` guards the number of the running call and how it was asked to end, the state, and the use of the descriptors;
nothing under it blocks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tasker import timer
from tasker.context import Context
from tasker.errors import (
    ContextCancelledError,
    DeadlineExceededError,
    TaskerError,
    TaskManagerKilledError,
    TaskTimeoutError,
    WorkerLostError,
)
from tasker.placement import envelope, protocol
from tasker.placement.envelope import Packed
from tasker.placement.wire import Wire
from tasker.timer import TimerEntry
from tasker.wrapping import Progress, wrapper

__all__ = ["Child", "handle_record"]

STARTING, READY, ENDING = range(3)
_ENDINGS: dict[int, type[TaskerError]] = {
    protocol.CANCELLED: ContextCancelledError,
    protocol.DEADLINE: TaskTimeoutError,
    protocol.KILLED: TaskManagerKilledError,
}
_DYING = 1.0  # seconds for a process that has closed its connection to be gone
_REAPED = 5.0  # seconds for a process that was killed to be gone


class Child:
    """One child. `create` once, then `call`s, then `destroy`; whatever fails, its process ends and is reaped."""

    def __init__(self, name: str, grace: float, lost: Callable[[Child], None]) -> None:
        """Start the process. Raises `OSError` or `RuntimeError` when there can be no more processes or threads."""
        self.name = name
        self.exit_code: int | None = None  # as `subprocess` has it, when it is dead
        self._grace = grace
        self._lost = lost
        self._lock = threading.RLock()  # reentrant: a signal handler may end the context of the call it interrupts
        self._state = STARTING
        self._number = 0  # of the call that runs, or ran last
        self._calling = False
        self._order = 0  # how the running call was asked to end
        self._entry: TimerEntry | None = None  # the end of its grace
        self._dead = threading.Event()
        self._wire: Wire
        self._control: int | None
        self._process = self._start()
        self.pid: int = self._process.pid
        self._pidfd = _pidfd_of(self.pid)
        try:
            # a thread of its own, so that nobody has to look now and then
            threading.Thread(target=self._await_death, name=f"{name}-child", daemon=True).start()
        except BaseException:  # no more threads for now
            self._process.kill()
            self.exit_code = self._process.wait()
            self._close()
            raise

    def __repr__(self) -> str:
        state = "dead" if self.is_lost() else ("starting", "ready", "ending")[self._state]
        return f"<process {self.pid} of {self.name}, {state}>"

    def is_lost(self) -> bool:
        """Whether the process is dead."""
        return self.exit_code is not None

    # -- the owner's thread ----------------------------------------------------------------------------------------

    def create(self, setup: bytes, timeout: float) -> None:
        """Have the resource made. Raises what `on_create` raised there, `TimeoutError` after `timeout` seconds,
        `WorkerLostError` when the process died; then there is no process any more."""
        error: BaseException | None
        overdue = timer.after(timeout, self.kill)
        try:
            self._wire.send(protocol.SETUP, setup)
            error, _ = self._answer(None)
        except (EOFError, OSError):
            error = self._lost_error("while on_create ran")
            if not overdue.is_set():
                error = TimeoutError(f"on_create has not returned within {timeout:g} s (create_timeout)")
        except BaseException:
            self._end(0.0)
            raise
        finally:
            overdue.cancel()
        if error is not None:
            self._end(0.0)
            raise error
        with self._lock:
            if self._state == STARTING:
                self._state = READY

    @wrapper
    def call(self, context: Context, packed: Packed) -> Any:
        """Run a call. Returns what it returns, raises what it raises; `WorkerLostError` when the process died.

        When the context ends the child is told; if the call has not returned `grace` seconds later its process is
        killed: `TaskTimeoutError`, `TaskManagerKilledError` or `ContextCancelledError`, as the context ended."""
        progress = packed.progress
        remaining = context.remaining()
        asking = _Asking(self, self._begin_call(), context)
        head = protocol.CALL_HEAD.pack(
            asking.number,
            -1.0 if remaining is None else remaining,
            0 if progress is None else len(progress.results),
        )
        sent = False
        error: BaseException | None
        try:
            context._add_sleeper(asking)
            self._wire.send(protocol.CALL, head, packed.body, buffers=packed.buffers)
            sent = True
            error, result = self._answer(progress)
        except (EOFError, OSError):
            error, result = self._lost_error(f"while it ran {packed.__qualname__}", began=sent), None
        except BaseException:  # Ctrl-C in `run_task`: the answer that comes would be taken for that of the next call
            self.kill()
            raise
        finally:
            self._end_call()
            context._remove_sleeper(asking)
        if error is not None:
            raise error
        return result

    def destroy(self) -> None:
        """Have the resource destroyed, and the process end. Raises what `on_destroy` raised there.

        A process that has not ended `grace` seconds after the answer is killed."""
        with self._lock:
            if self._state == ENDING:
                return
            self._state = ENDING
        error: BaseException | None = None
        patience = 0.0
        try:
            if not self.is_lost():
                self._wire.send(protocol.DESTROY)
                error, _ = self._answer(None)
                patience = self._grace
        except (EOFError, OSError):
            error = self._lost_error("while on_destroy ran")
        finally:
            self._end(patience)
        if error is not None:
            raise error

    def _answer(self, progress: Progress | None) -> tuple[BaseException | None, Any]:
        """What the child answers, an error or a result. Raises `EOFError` or `OSError` when it cannot any more."""
        while True:
            kind, body, buffers = self._wire.receive()
            if kind in (protocol.RESULT, protocol.ERROR):
                return envelope.opened(kind, body, buffers)
            if kind == protocol.RECORD:
                handle_record(body)
            elif progress is not None:
                error, result = envelope.opened(kind, body, buffers)
                if error is not None:
                    self.kill()  # a result is missing, and those after it would be taken for it
                    return error, None
                progress.note(result)

    def _lost_error(self, doing: str, *, began: bool = True) -> BaseException:
        """Why there is no answer; waits for the process to end, which it is doing, and kills it if it is not."""
        if not self._dead.wait(_DYING):
            self.kill()
            self._dead.wait(_REAPED)
        if self._order and self.exit_code == -signal.SIGKILL:
            return _ENDINGS[self._order](f"{self.name}: the task did not end with its context: its process was killed")
        end = f"{self.name}: process {self.pid} {_how(self.exit_code)} {doing}"
        return WorkerLostError(end, self.exit_code, began=began)

    def _begin_call(self) -> int:
        with self._lock:
            self._number += 1
            self._order = 0
            self._calling = True
            return self._number

    def _end_call(self) -> None:
        with self._lock:
            self._calling = False
            entry, self._entry = self._entry, None
        if entry is not None:
            entry.cancel()

    def _end(self, patience: float) -> None:
        """Let the process end, for so many seconds, then kill it; and let go of the descriptors."""
        with self._lock:
            self._state = ENDING
        try:
            if not self._dead.wait(patience):
                self.kill()
                self._dead.wait(_REAPED)
        finally:
            self._close()

    # -- any thread ------------------------------------------------------------------------------------------------

    def ask_to_end(self, number: int, context: Context) -> None:
        """The context of a call has ended: tell the child, and kill it when the grace is over. Does not block."""
        order = _order_for(context)
        with self._lock:
            if not self._calling or number != self._number or self._order:
                return
            self._order = order
            self._tell(order, number)
            self._entry = timer.after(self._grace, partial(self._kill_call, number))

    def stopping(self) -> None:
        """The manager drains. Does not block."""
        with self._lock:
            self._tell(protocol.STOPPING, 0)

    def give_up_hooks(self) -> None:
        """The manager is killed: on_create is not waited for any more, on_destroy as long as `grace`. May be repeated.
        Does not block."""
        with self._lock:
            if self._state == STARTING:
                self.kill()
            elif self._state == ENDING and self._entry is None:
                self._entry = timer.after(self._grace, self.kill)

    def kill(self) -> None:
        """End the process now. Does not block, nor wait until it has ended."""
        with self._lock:
            if self.exit_code is not None:
                return
            if self._pidfd is None:
                self._process.kill()
            else:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def leave_to_parent(self) -> None:
        """In a forked child: this process has nothing to do with it."""
        self._lock = threading.RLock()
        self.exit_code = self._process.returncode = 0
        self._state = ENDING
        self._close()

    def _kill_call(self, number: int) -> None:
        with self._lock:
            if self._calling and number == self._number:
                self.kill()

    def _tell(self, order: int, number: int) -> None:
        """With the lock held. A child that does not read its orders is killed in the end."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                os.write(self._control, protocol.ORDER.pack(order, number))

    def _close(self) -> None:
        with self._lock:
            self._wire.close()
            control, self._control = self._control, None
            pidfd, self._pidfd = (self._pidfd, None) if self.exit_code is not None else (None, self._pidfd)
        for descriptor in (control, pidfd):
            if descriptor is not None:
                os.close(descriptor)

    # -- the beginning and the end of the process --------------------------------------------------------------------

    def _start(self) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        orders, control = os.pipe()
        try:
            process = _launch((theirs.fileno(), orders, _lifeline()))
        except BaseException:
            ours.close()
            os.close(control)
            raise
        finally:
            theirs.close()
            os.close(orders)
        os.set_blocking(control, False)
        self._wire, self._control = Wire(ours), control
        return process

    def _await_death(self) -> None:
        pidfd = self._pidfd
        if pidfd is not None:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll()
        exit_code = self._process.wait()
        with self._lock:
            self.exit_code = exit_code
            expected = self._state != READY
            with contextlib.suppress(OSError):
                self._wire.socket.shutdown(socket.SHUT_RD)  # somebody else may hold the other end
        self._dead.set()
        if not expected:
            self._lost(self)


class _Asking:
    """A sleeper of a call's context: when it ends, it asks the call to end."""

    __slots__ = ("_child", "_context", "number")

    def __init__(self, child: Child, number: int, context: Context) -> None:
        self._child = child
        self._context = context
        self.number = number

    def release(self) -> None:
        """What a context does to its sleepers."""
        self._child.ask_to_end(self.number, self._context)


def handle_record(body: Any) -> None:
    """Have a child's log record handled by the logger of its name, here."""
    try:
        record = logging.makeLogRecord(envelope.unpack(body))
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # a handler's or a filter's: it costs this record
        logging.getLogger("tasker").debug("tasker: a child's log record was lost", exc_info=True)


def _order_for(context: Context) -> int:
    if isinstance(context.err(), DeadlineExceededError):
        return protocol.DEADLINE
    return protocol.KILLED if isinstance(context.cause(), TaskManagerKilledError) else protocol.CANCELLED


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "was killed and has not ended"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def _pidfd_of(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or an old one
        return None


# -- launching -----------------------------------------------------------------------------------------------------


def _launch(descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start the program of a child. It inherits these descriptors, standard output and standard error."""
    # -P: what lies in the working directory must not pass for a module before the parent's path is set
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    command = [sys.executable, *flags, "-P", "-m", "tasker.placement._child"]
    package = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": package if not path else f"{package}{os.pathsep}{path}"}
    # a mask is inherited, so that no Ctrl-C in the terminal reaches the child before it ignores them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [*command, *map(str, descriptors)], stdin=subprocess.DEVNULL, pass_fds=descriptors, env=environment
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_lifeline_lock = threading.Lock()
_lifeline_ends: tuple[int, int] | None = None


def _lifeline() -> int:
    """The reading end of a pipe whose writing end is this process's alone: the kernel closes it when the process ends,
    and nobody else does."""
    global _lifeline_ends
    with _lifeline_lock:
        if _lifeline_ends is None:
            _lifeline_ends = os.pipe()
        return _lifeline_ends[0]


def _start_afresh() -> None:
    """In a forked child: it must not keep the lifeline of its parent's children alive."""
    global _lifeline_ends, _lifeline_lock
    _lifeline_lock = threading.Lock()
    ends, _lifeline_ends = _lifeline_ends, None
    for descriptor in ends or ():
        os.close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
