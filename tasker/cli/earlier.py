"""`Earlier`: what earlier runs have done, by the results file that `--resume` names.

An item is known by its exact text, without space around it. The number of its line does
not matter, as a pipe may bring the same items in another order. A result stands for one
item. So if the input has an item twice and the file has it once, one is still to be
done.

A run that was killed may have left its last line torn. A torn line is no result. This
run drops it, if it writes on in the same file. Any other line that is no result says
that this is another kind of file, and then nothing is written to it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import BinaryIO

from tasker.cli.arguments import UsageError
from tasker.cli.records import Record, done_item

__all__ = ["Earlier"]

# How a result begins, and so a torn one.
_BEGINNING = b'{"line": '


class Earlier:
    """The results in a file, which is read at once.

    Raises `UsageError` for a file of another kind."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        # The results whose items have not come yet.
        self._left: Counter[bytes] = Counter()
        # How many bytes the whole results take.
        self._size = 0
        # Whether the last of them ends with a newline.
        self._ends = True
        try:
            for number, line in enumerate(file, 1):
                if not self._add(line):
                    raise UsageError(
                        f"--resume {name}: line {number} is no result that tasker map has written"
                    )
        except OSError as error:
            raise UsageError(f"--resume {name}: {error.strerror or error}") from None

    def has(self, record: Record) -> bool:
        """Whether there is a result for this item.

        From now on the result stands for no other item."""
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
        """Have the results in this file end with a whole line.

        It must be the file that was read. The next result is written after that
        line."""
        file.truncate(self._size)
        file.seek(self._size)
        if not self._ends:
            file.write(b"\n")

    def _add(self, line: bytes) -> bool:
        """Note a line. Returns whether it may stand in a file of results."""
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
    """A short stand-in for a text, as items may be large, and many."""
    return hashlib.blake2b(text.strip(" \t\r").encode(), digest_size=16).digest()
