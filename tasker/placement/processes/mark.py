"""`Mark`: how many requests a child has begun, readable even after its death.

It is a number in memory that the child shares with its parent. The child raises it
before it begins what it has received, which costs no message. So the parent knows which
requests the child has never begun, because it was dead or did not get that far.
"""

from __future__ import annotations

import mmap
import os
import sys

from tasker.placement.processes.launch import above_standard

__all__ = ["Mark", "shared_number"]

# One unsigned 64-bit number.
_SIZE_BYTES = 8


class Mark:
    """The parent's side. Raises `OSError` when the system has no more descriptors."""

    def __init__(self) -> None:
        self.descriptor: int = above_standard(_new_memory())
        os.ftruncate(self.descriptor, _SIZE_BYTES)

    def number(self) -> int:
        """The number that the child has set last; 0 at first, and after `close`."""
        if self.descriptor < 0:
            return 0

        return int.from_bytes(os.pread(self.descriptor, _SIZE_BYTES, 0), sys.byteorder)

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def shared_number(descriptor: int) -> memoryview:
    """The child's side: the number is its only item. Closes the descriptor."""
    memory = memoryview(mmap.mmap(descriptor, _SIZE_BYTES)).cast("Q")
    os.close(descriptor)
    return memory


def _new_memory() -> int:
    try:
        return os.memfd_create("tasker")
    except (AttributeError, OSError):
        # Not Linux, or an old one.
        from tempfile import TemporaryFile

        with TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())
