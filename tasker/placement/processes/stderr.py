"""What a child writes on its standard error: passed on to this process's own, and its end kept, as errors quote it.

The thread that waits for the child's death passes it on: what a child writes before that costs a thread that is there
anyway. It waits for nothing else: a standard error that takes nothing more must not hide a death.

A child has this process's own standard error, and nothing is kept, where that is a terminal, which programs ask for its
width and colours; where what the child has started may outlive it; and where nothing tells of a death and of text
alike (a pidfd does, on Linux).
"""

from __future__ import annotations

import contextlib
import os
import select

from tasker.placement.processes.launch import is_standard, pipe

__all__ = ["Stderr"]

_KEPT = 2000  # characters
_PIECE = 4096  # bytes that a pipe takes at once if it takes anything
_ROOM = 65536


class Stderr:
    """Of one child. `end`: what the child gets as its own; `None` if it gets this process's.

    All but `text` and `forget` is done by one thread. Raises `OSError` when there can be no more descriptors."""

    def __init__(self, *, outlived: bool) -> None:
        self.end: int | None = None
        self._reader: int | None = None
        self._kept = b""
        self._waiting = b""  # to be passed on
        if not outlived and not os.isatty(2) and _has_pidfds():
            self._reader, self.end = pipe()

    @property
    def is_read(self) -> bool:
        """Whether what the child writes passes through here."""
        return self._reader is not None

    def text(self) -> str:
        """The last of what was written since `forget`."""
        text = self._kept.decode(errors="replace").strip()
        if len(text) <= _KEPT:
            return text
        return f"...{text[-_KEPT:].partition(chr(10))[2] or text[-_KEPT:]}"

    def forget(self) -> None:
        """What was written until now belongs to something else."""
        self._kept = b""

    def started(self) -> None:
        """The child has its end."""
        end, self.end = self.end, None
        if end is not None:
            os.close(end)

    def follow(self, process: int) -> None:
        """Pass on what is written until the process of this pidfd has ended, and keep what it has written by then."""
        while self._reader is not None and not _has_ended(process, self._reader, select.POLLIN):
            if not self._receive():
                self.close()  # the child has closed it
            while self._waiting and not _has_ended(process, 2, select.POLLOUT):
                self._pass_on()
        _has_ended(process)
        if self._reader is not None:
            os.set_blocking(self._reader, False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(16):  # as much as a pipe holds: others may go on writing
                    if not self._receive():
                        break

    def finish(self, *, patient: bool) -> None:
        """Pass on the rest; unless `patient`, as long as this does not block."""
        while self._waiting and _is_ready(2, select.POLLOUT, None if patient else 0):
            self._pass_on()

    def close(self) -> None:
        """Let go of it."""
        self.started()
        reader, self._reader = self._reader, None
        if reader is not None:
            os.close(reader)

    def _receive(self) -> bool:
        assert self._reader is not None
        data = os.read(self._reader, _ROOM)
        self._kept = (self._kept + data)[-4 * _KEPT :]
        if is_standard(2):
            self._waiting += data
        return bool(data)

    def _pass_on(self) -> None:
        try:
            self._waiting = self._waiting[os.write(2, self._waiting[:_PIECE]) :]
        except OSError:  # nobody reads there any more
            self._waiting = b""


def _has_pidfds() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _has_ended(process: int, other: int | None = None, event: int = 0) -> bool:
    """Wait until the process has ended (`True`) or the other descriptor is ready."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if other is not None:
        poll.register(other, event)
    return process in dict(poll.poll())


def _is_ready(descriptor: int, event: int, timeout: int | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(timeout))
