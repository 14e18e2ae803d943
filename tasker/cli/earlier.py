"""`Earlier`: what earlier runs have done, by the results file that `--resume` names.

An item is known by its text, to the letter but for space around it, and not by the number of its line: a pipe may bring
the same items in another order. A result stands for one item. So of an item that the input has twice and the file once,
one is still to be done.

A run that was killed may have left its last line torn. That line is no result; it goes where this run writes on in the
same file. Any other line that is no result says that this is another kind of file, which must not be written to.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import BinaryIO

from tasker.cli.arguments import UsageError
from tasker.cli.records import Record, done_item

__all__ = ["Earlier"]

_BEGINNING = b'{"line": '  # of a result, and so of a torn one


class Earlier:
    """The results in a file, read at once. Raises `UsageError` for a file of another kind."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._left: Counter[bytes] = Counter()  # results that no item was found for yet
        self._size = 0  # bytes of whole results
        self._ends = True  # the last of them, with a newline
        try:
            for number, line in enumerate(file, 1):
                if not self._add(line):
                    raise UsageError(
                        f"--resume {name}: line {number} is no result that tasker map has written"
                    )
        except OSError as error:
            raise UsageError(f"--resume {name}: {error.strerror or error}") from None

    def has(self, record: Record) -> bool:
        """Whether there is a result for this item. It stands for no other one from now on."""
        if record.unreadable or not self._left:
            return False
        key = _key(record.text)
        left = self._left[key]
        if left > 1:
            self._left[key] = left - 1
        elif left:
            del self._left[key]
        return left > 0

    def mend(self, file: BinaryIO) -> None:
        """Have the results in this file, the one that was read, end with a whole line; the next is written after it."""
        file.truncate(self._size)
        file.seek(self._size)
        if not self._ends:
            file.write(b"\n")

    def _add(self, line: bytes) -> bool:
        """Note a line. Whether it may stand in such a file."""
        item = done_item(line)
        whole = line.endswith(b"\n")
        if item is not None:
            self._left[_key(item)] += 1
        elif not whole and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
            return True
        elif line.strip():
            return False
        self._size += len(line)
        self._ends = whole
        return True


def _key(text: str) -> bytes:
    """Stands for a text; items may be large, and many."""
    return hashlib.blake2b(text.strip(" \t\r").encode(), digest_size=16).digest()
