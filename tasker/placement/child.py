"""`Child`: a child process with a resource in it, as its parent sees it: the `Handle` of `Processes`.

The owner sends what he asks and sleeps in `receive` for the answer; orders go by the control pipe. To kill the place is
to kill the process, and that is the end of the connection.

Each child has a thread that waits for its death (of the process itself, by a pidfd where there is one: whatever the
child has started may hold its end of the connection open), reaps it, and ends the wire for the owner, who first
reads what was answered before.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasker.placement import envelope, protocol
from tasker.placement.handle import Answer, GoneError, Handle
from tasker.placement.records import handle_record
from tasker.placement.wire import Wire
from tasker.threads import new_thread
from tasker.wrapping import Progress

__all__ = ["Child"]

_DYING = 1.0  # seconds for a process that has closed its connection to be gone
_REAPED = 5.0  # seconds for a process that was killed to be gone


class Child(Handle):
    """One child process. `_lock` also guards the use of its descriptors."""

    def __init__(self, name: str, grace: float, lost: Callable[[Any], None]) -> None:
        """Start the process. Raises `OSError` or `RuntimeError` when there can be no more processes or threads."""
        super().__init__(name, grace, lost)
        self.exit_code: int | None = None  # as `subprocess` has it, when it is dead
        self._dead = threading.Event()
        self._wire: Wire
        self._control: int | None
        self._process = self._start()
        self.pid: int = self._process.pid
        self._pidfd = _pidfd_of(self.pid)
        try:
            # a thread of its own, so that nobody has to look now and then
            new_thread(self._await_death, f"{name}-child").start()
        except BaseException:  # no more threads for now
            self._process.kill()
            self.exit_code = self._process.wait()
            self._close()
            raise

    def _where(self) -> str:
        return f"process {self.pid}"

    # -- the owner's thread ----------------------------------------------------------------------------------------

    def _ask(self, kind: int, what: Any, progress: Progress | None) -> Answer:
        sent = False
        if self._is_lost:
            raise GoneError(began=False)
        try:
            if kind == protocol.CALL:
                head, packed = what
                self._wire.send(kind, protocol.CALL_HEAD.pack(*head), packed.body, buffers=packed.buffers)
            else:
                self._wire.send(kind, pickle.dumps(what))
            sent = True
            return self._answer(progress)
        except (EOFError, OSError):
            raise GoneError(began=sent) from None

    def _answer(self, progress: Progress | None) -> Answer:
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

    def _loss(self) -> tuple[str, int | None]:
        if not self._dead.wait(_DYING):
            self.kill()
            self._dead.wait(_REAPED)
        return _how(self.exit_code), self.exit_code

    def _let_end(self, patience: float) -> None:
        try:
            if not self._dead.wait(patience):
                self.kill()
                self._dead.wait(_REAPED)
        finally:
            self._close()

    # -- any thread ------------------------------------------------------------------------------------------------

    def _tell(self, order: int, number: int) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):  # it is dead, or does not read its orders and is killed in the end
                os.write(self._control, protocol.ORDER.pack(order, number))

    def kill(self) -> None:
        with self._lock:
            if self.exit_code is not None:
                return
            self._is_lost = True  # from now on: who is judged by it, or called next, may come before the end
            if self._pidfd is None:
                self._process.kill()
            else:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def leave_to_parent(self) -> None:
        self._lock = threading.RLock()
        self.exit_code = self._process.returncode = 0
        self._is_lost = True
        self._close()

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
        ends: list[int] = []
        try:
            for _ in range(3):
                ends += os.pipe()
            calls, to_child, from_child, answers, orders, control = ends
            process = _launch((calls, answers, orders, _lifeline()))
        except BaseException:  # no more descriptors, or processes, for now
            for end in ends:
                os.close(end)
            raise
        os.close(calls)
        os.close(orders)
        os.set_blocking(control, False)
        self._wire, self._control = Wire(from_child, to_child, answers), control
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
            self._is_lost = True
            with contextlib.suppress(OSError):
                self._wire.end()
        self._dead.set()
        self._lost()


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


_lifeline_lock = threading.RLock()  # reentrant: a signal handler may start a child, too
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
    _lifeline_lock = threading.RLock()
    ends, _lifeline_ends = _lifeline_ends, None
    for descriptor in ends or ():
        os.close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
