"""The standard streams during a run: what tasker reads and writes is its own.

A program that a function starts inherits descriptors 0 to 2. If 0 were tasker's input,
the program would read lines that tasker has yet to read, and they would be lost. If 1
were tasker's output, what the program prints would stand between the results. So tasker
reads and writes copies that programs do not inherit. The programs get `/dev/null` and
standard error.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
from contextlib import ExitStack
from typing import Any, TextIO

__all__ = ["PrivateFile", "hide_standard_streams", "open_nowhere"]

# The descriptors that a forked process must not use.
_private: set[int] = set()


class PrivateFile(io.FileIO):
    """A file that this process alone reads or writes.

    No program inherits it, and in a forked process it leads nowhere. It waits even if
    the descriptor does not block. A program that shares the terminal or pipe behind it
    may make that non-blocking (ssh does), and a reader would then take an empty pipe
    for the end of the input."""

    def __init__(self, file: str | int, mode: str) -> None:
        super().__init__(file, mode)
        _private.add(self.fileno())

    def readinto(self, buffer: Any, /) -> int:
        while (count := super().readinto(buffer)) is None:  # pyright: ignore[reportUnnecessaryComparison]
            self._wait(select.POLLIN)
        return count

    def write(self, data: Any, /) -> int:
        while (count := super().write(data)) is None:  # pyright: ignore[reportUnnecessaryComparison]
            self._wait(select.POLLOUT)
        return count

    def close(self) -> None:
        if not self.closed:
            _private.discard(self.fileno())
        super().close()

    def lead_nowhere(self) -> None:
        """From now on drop all that is written, at once and without an error.

        Nothing more can be read."""
        _lead_nowhere(self.fileno())

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self, event)
        poll.poll()


def open_nowhere(undo: ExitStack) -> int:
    """Open /dev/null until `undo` is closed, and return its descriptor.

    Standard streams that were closed lead to /dev/null until then, too. Otherwise the
    next file to be opened could become standard error, and get what is written
    there."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    undo.callback(os.close, descriptor)
    if descriptor > 2:
        return descriptor

    os.set_inheritable(descriptor, True)
    return open_nowhere(undo)


def hide_standard_streams(nowhere: int, stdout: TextIO | None, undo: ExitStack) -> None:
    """Put /dev/null at descriptor 0 and standard error at 1, until `undo` is closed.

    `stdout` writes to 1 through a buffer. What is in the buffer is written first, to
    where it was meant to go."""
    _replace(0, nowhere, undo)
    _flush(stdout)
    _replace(1, 2, undo)
    undo.callback(_flush, stdout)


def _replace(descriptor: int, other: int, undo: ExitStack) -> None:
    before = os.dup(descriptor)
    _private.add(before)
    undo.callback(os.close, before)
    undo.callback(_private.discard, before)
    undo.callback(os.dup2, before, descriptor)

    os.dup2(other, descriptor)


def _lead_nowhere(*descriptors: int) -> None:
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)


def _flush(stream: TextIO | None) -> None:
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            stream.flush()


def _leave_to_parent() -> None:
    """In a forked process (R5).

    It must not take its parent's lines, nor write once more what the parent is about to
    write."""
    _lead_nowhere(*_private)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
