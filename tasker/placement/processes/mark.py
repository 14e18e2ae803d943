"""`Mark`: how far a child has come with what it was sent, for its parent to read whatever becomes of the child.

A number in memory that both share. The child sets it before it does what it has received, which costs no message: so
what it has not begun, because it was dead or did not get there, is known.
"""

from __future__ import annotations

import mmap
import os
import sys

from tasker.placement.processes.launch import above_standard

__all__ = ["Mark", "shared_number"]

_SIZE = 8  # bytes


class Mark:
    """The parent's side. Raises `OSError` when there can be no more descriptors."""

    def __init__(self) -> None:
        self.descriptor: int = above_standard(_new_memory())
        os.ftruncate(self.descriptor, _SIZE)

    def number(self) -> int:
        """What the child has set it to last; 0 at first, and when it was closed."""
        if self.descriptor < 0:
            return 0
        return int.from_bytes(os.pread(self.descriptor, _SIZE, 0), sys.byteorder)

    def close(self) -> None:
        """Let go of it."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def shared_number(descriptor: int) -> memoryview:
    """The child's side: the number is its only item. Lets go of the descriptor."""
    memory = memoryview(mmap.mmap(descriptor, _SIZE)).cast("Q")
    os.close(descriptor)
    return memory


def _new_memory() -> int:
    try:
        return os.memfd_create("tasker")
    except (AttributeError, OSError):  # not Linux, or an old one
        from tempfile import TemporaryFile

        with TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())
