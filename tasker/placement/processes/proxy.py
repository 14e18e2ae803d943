"""`ProcessProxy`: a child process with a resource in it, as its parent sees it.

It is the `ResourceProxy` of `Processes`. The owner sends a request, then sleeps in
`receive` until the answer comes. Orders go through the control pipe. To kill the place
is to kill the process and its whole group (the programs that it has started). That ends
the connection, too.

Each child has a thread here that waits for the death of the process. It waits for the
process itself, by a pidfd where the system has them: a program that has left the group
may hold the child's end of the connection open. When the child is dead, the thread ends
what is left of its group, reaps it, and ends the wire, which wakes the owner. The owner
first reads the answers that were sent before. Until the process is reaped no other
process can get its number.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tasker._sync import timer
from tasker._sync.locks import new_lock
from tasker._sync.threads import new_thread
from tasker._tasks.wrapping import Progress
from tasker.placement.processes.launch import above_standard, launch, pipe
from tasker.placement.processes.mark import Mark
from tasker.placement.processes.stderr import Stderr
from tasker.placement.processes.wire import Wire
from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.logs import handle_record
from tasker.placement.remote.proxy import Answer, NoAnswerError, ResourceProxy

__all__ = ["ProcessProxy"]

# How long a process that has closed its connection may take to die, before it is
# killed. A guess: one that exits takes milliseconds.
_DEATH_WAIT_S = 1.0
# How long to wait for the death of a process that was killed. A guess: the kernel takes
# milliseconds, longer if the process sleeps in a broken device or network drive.
_KILL_WAIT_S = 5.0


class ProcessProxy(ResourceProxy):
    """One child process. `_lock` also guards the use of its descriptors."""

    KIND: str = "a child process"

    def __init__(
        self,
        name: str,
        grace: float,
        on_lost: Callable[[Any], None],
        *,
        python: str = sys.executable,
        group: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `python` as the child process.

        `group`: the programs that the child has started end with it. `environment` is
        what its environment has beside this one's. Raises `OSError` or `RuntimeError`
        when the system has no more processes or threads."""
        super().__init__(name, grace, on_lost)
        # As `subprocess` has it, once the process is dead and its exit code is known.
        self.exit_code: int | None = None
        self._group = group
        self._environment: dict[str, str] = {**os.environ, **(environment or {})}
        # Whether another process may have its number by now.
        self._ended = False
        self._dead = threading.Event()
        self._wire: Wire
        self._control: int | None
        self._pidfd: int | None = None

        # How many requests it was sent, and how many of them it has begun.
        self._asked = 0
        self._mark = Mark()

        self._stderr: Stderr
        self._process = self._start(python)
        self.pid: int = self._process.pid

        # A thread of its own notices the death, so no other thread has to poll.
        watcher = new_thread(self._await_death, f"{name}-child", service=True)
        try:
            self._pidfd = self._open_pidfd()
            watcher.start()
        except BaseException:
            # No more descriptors or threads for now, or Ctrl-C.
            self.kill()
            if not watcher.is_alive():
                self._process.wait()
                self._ended = True
                self._let_go()
            self._close()
            raise

    def _where(self) -> str:
        return f"process {self.pid}"

    # -- the owner's thread ------------------------------------------------------------

    def _ask(self, kind: int, what: Any, progress: Progress | None) -> Answer:
        self._asked += 1
        if self._is_lost:
            raise NoAnswerError(began=False)

        # What the child writes before the setup belongs to the setup.
        if kind != protocol.SETUP:
            self._stderr.forget()

        try:
            if kind == protocol.CALL:
                head, packed = what
                self._wire.send(
                    kind, protocol.CALL_HEAD.pack(*head), packed.body, buffers=packed.buffers
                )
            else:
                if kind == protocol.SETUP:
                    what = what._replace(environment=self._environment)
                self._wire.send(kind, pickle.dumps(what))
            return self._answer(progress)
        except (EOFError, OSError):
            raise NoAnswerError(began=self._has_begun()) from None

    def _answer(self, progress: Progress | None) -> Answer:
        while True:
            kind, body, buffers = self._wire.receive()
            if kind not in (protocol.NOTE, protocol.RECORD):
                return self._opened(kind, body, buffers)

            if kind == protocol.RECORD:
                handle_record(body)
            elif progress is not None:
                error, result = pickling.opened(kind, body, buffers)
                if error is not None:
                    # A result is missing. The next one would be taken for it.
                    self.kill()
                    return error, False

                progress.note(result)

    def _has_begun(self) -> bool:
        # Other code of the program may have closed the descriptor.
        with self._lock, contextlib.suppress(OSError):
            return self._mark.number() >= self._asked

        return True

    def _why_lost(self) -> tuple[str, int | None]:
        if not self._dead.wait(_DEATH_WAIT_S):
            self.kill()
            self._dead.wait(_KILL_WAIT_S)

        if self._dead.is_set():
            return _why(self.exit_code), self.exit_code
        return "was killed and has not ended", self.exit_code

    def _last_words(self) -> str:
        return self._stderr.text()

    def _let_end(self, patience: float) -> None:
        try:
            if patience:
                overdue = timer.after(patience, self.kill)
                self._dead.wait(min(patience + _KILL_WAIT_S, threading.TIMEOUT_MAX))
                overdue.cancel()

            if not self._dead.is_set():
                self.kill()
                self._dead.wait(_KILL_WAIT_S)
        finally:
            self._close()

    # -- any thread --------------------------------------------------------------------

    def _tell(self, order: int, number: int) -> None:
        if self._control is not None:
            # The child is dead, or reads no orders. Then it is killed in the end.
            with contextlib.suppress(OSError):
                os.write(self._control, protocol.ORDER.pack(order, number))

    def kill(self) -> None:
        with self._lock:
            if not self._ended:
                # Set before the process ends: the next call, or the check of a failed
                # one, may look earlier than that.
                self._is_lost = True
                self._kill_now()

    def _kill_now(self) -> None:
        # The process is dead, and nothing is left of its group.
        with contextlib.suppress(OSError):
            if self._group:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def leave_to_parent(self) -> None:
        self._lock = new_lock()
        self._process.returncode = 0
        self._ended = self._is_lost = True
        self._let_go()
        self._close()

    def _close(self) -> None:
        with self._lock:
            self._wire.close()
            self._mark.close()
            control, self._control = self._control, None

        if control is not None:
            os.close(control)

    # -- the beginning and the end of the process --------------------------------------

    def _start(self, python: str) -> subprocess.Popen[bytes]:
        ends: list[int] = []
        try:
            self._stderr = Stderr(outlived=not self._group)
            for _ in range(3):
                ends += pipe()
            calls, to_child, from_child, answers, orders, control = ends
            streams = {
                "calls": calls,
                "answers": answers,
                "orders": orders,
                "mark": self._mark.descriptor,
            }
            process = launch(
                python, streams, self._environment, error=self._stderr.end, group=self._group
            )
        except BaseException:
            # No more descriptors, or processes, for now.
            for end in ends:
                os.close(end)
            self._let_go()
            self._mark.close()
            raise

        os.close(calls)
        os.close(orders)
        self._stderr.started()
        os.set_blocking(control, False)
        self._wire, self._control = Wire(from_child, to_child, answers), control
        return process

    def _open_pidfd(self) -> int | None:
        try:
            return above_standard(os.pidfd_open(self.pid))
        except (AttributeError, OSError):
            # Not Linux, or an old one; or there are no more descriptors.
            if self._stderr.is_read:
                raise
            return None

    def _await_death(self) -> None:
        exit_code: int | None = None
        try:
            self._watch()
            with self._lock:
                if self._group:
                    self._kill_now()
                self._ended = True
            exit_code = self._reap()
        except BaseException:
            # No memory, or other code has closed the descriptors. No thread watches the
            # child any more, so it must not live on.
            self.kill()
            with contextlib.suppress(BaseException):
                exit_code = self._reap_killed()
            raise
        finally:
            self._announce(exit_code)
            self._stderr.finish(patient=True)
            self._let_go()

    def _watch(self) -> None:
        """Wait until the process is dead, and do not reap it."""
        if self._pidfd is not None:
            self._stderr.follow(self._pidfd)
        else:
            # Some systems can only wait and reap in one step.
            with contextlib.suppress(AttributeError, ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def _announce(self, exit_code: int | None) -> None:
        """The process is dead: note it, wake the owner, and tell the manager."""
        self._stderr.finish(patient=False)

        with self._lock:
            self._ended = self._is_lost = True
            self.exit_code = exit_code
            # Or `subprocess` would look for the process later.
            self._process.returncode = exit_code or 0
            with contextlib.suppress(OSError):
                self._wire.end()

        self._dead.set()
        self._tell_manager()

    def _reap(self) -> int | None:
        try:
            if self._pidfd is None:
                return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            # Other code of the program has reaped it.
            return None

        assert ended is not None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _reap_killed(self) -> int:
        """Reap it by its number, as the pidfd may be closed."""
        with self._lock:
            self._ended = True

        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _let_go(self) -> None:
        """Close what the thread that waits for the death has used."""
        self._stderr.close()
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)


def _why(exit_code: int | None) -> str:
    if exit_code is None:
        return (
            "ended, how is not known: other code of this program has reaped it, or ignores SIGCHLD"
        )
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"
