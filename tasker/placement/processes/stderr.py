"""`Stderr`: what a child writes on its standard error.

It is passed on to this process's own standard error, and its end is kept, so that
errors can quote it. The thread that waits for the child's death passes it on, as that
thread is there anyway. The thread waits for nothing else: it must not miss a death
because this process's standard error takes nothing more.

In three cases the child has this process's own standard error, and nothing is kept. It
is a terminal: programs ask that for its width and its colours. Programs that the child
has started may outlive it. The system cannot wait for a death and for text at once (on
Linux it can, by a pidfd).
"""

from __future__ import annotations

import contextlib
import os
import select

from tasker.placement.processes.launch import is_standard, pipe

__all__ = ["Stderr"]

# How much of the end an error quotes: a guess, enough for a traceback.
_QUOTED_CHARS = 2000
# A pipe that takes anything takes as much at once (`PIPE_BUF` on Linux).
_PIECE_BYTES = 4096
# What a pipe holds by default on Linux.
_READ_BYTES = 65536


class Stderr:
    """The standard error of one child.

    `end`: the descriptor that the child gets; `None` if it gets this process's own. All
    methods but `text` and `forget` are called by one thread. Raises `OSError` when the
    system has no more descriptors."""

    def __init__(self, *, outlived: bool) -> None:
        self.end: int | None = None
        self._reader: int | None = None
        self._kept = b""
        # Not passed on yet.
        self._waiting = b""

        if not outlived and not os.isatty(2) and _has_pidfds():
            self._reader, self.end = pipe()

    @property
    def is_read(self) -> bool:
        """Whether what the child writes passes through here."""
        return self._reader is not None

    def text(self) -> str:
        """The end of what the child has written since `forget`."""
        text = self._kept.decode(errors="replace").strip()
        if len(text) <= _QUOTED_CHARS:
            return text

        return f"...{text[-_QUOTED_CHARS:].partition(chr(10))[2] or text[-_QUOTED_CHARS:]}"

    def forget(self) -> None:
        """Drop what was kept: it belongs to an earlier request."""
        self._kept = b""

    def started(self) -> None:
        """The child has its end now: close it here."""
        end, self.end = self.end, None
        if end is not None:
            os.close(end)

    def follow(self, process: int) -> None:
        """Pass on and keep what the child writes, until its process has ended.

        `process` is the pidfd of the child."""
        while self._reader is not None and not _has_ended(process, self._reader, select.POLLIN):
            if not self._receive():
                # The child has closed its end.
                self.close()
            while self._waiting and not _has_ended(process, 2, select.POLLOUT):
                self._pass_on()

        _has_ended(process)
        if self._reader is not None:
            os.set_blocking(self._reader, False)
            with contextlib.suppress(BlockingIOError):
                # At most what the largest pipe holds: other processes may write on.
                for _ in range(16):
                    if not self._receive():
                        break

    def finish(self, *, patient: bool) -> None:
        """Pass on the rest. Unless `patient`, stop as soon as that would block."""
        while self._waiting and _is_ready(2, select.POLLOUT, None if patient else 0):
            self._pass_on()

    def close(self) -> None:
        """Close what is open here."""
        self.started()
        reader, self._reader = self._reader, None
        if reader is not None:
            os.close(reader)

    def _receive(self) -> bool:
        assert self._reader is not None
        data = os.read(self._reader, _READ_BYTES)
        # A character has at most four bytes.
        self._kept = (self._kept + data)[-4 * _QUOTED_CHARS :]
        if is_standard(2):
            self._waiting += data
        return bool(data)

    def _pass_on(self) -> None:
        try:
            self._waiting = self._waiting[os.write(2, self._waiting[:_PIECE_BYTES]) :]
        except OSError:
            # No process reads it any more.
            self._waiting = b""


def _has_pidfds() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _has_ended(process: int, other: int | None = None, event: int = 0) -> bool:
    """Wait until the process has ended or the other descriptor is ready.

    Returns whether the process has ended."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if other is not None:
        poll.register(other, event)
    return process in dict(poll.poll())


def _is_ready(descriptor: int, event: int, timeout: int | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(timeout))
