"""`Wire`: messages over a stream socket. A message is a kind, a body, and buffers that travel beside it, uncopied.

    head: kind (1 byte, 3 unused), number of buffers (4), length of the body (8); then the length of each buffer (8);
    then the body; then the buffers

One thread receives. Several may send, if they see to it that they take turns.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

__all__ = ["Message", "Wire"]

Message = tuple[int, memoryview, list[bytearray]]

_HEAD = struct.Struct("<BxxxIQ")
_JOINED = 16384  # bytes: below that it is cheaper to join the parts of a message than to hand over a list of them
_RECEIVED = 65536  # bytes asked for at once


class Wire:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket: socket.socket = sock
        self._kept = b""  # received already, of the next message

    def send(self, kind: int, *parts: Any, buffers: Sequence[Any] = ()) -> None:
        """Send a message whose body is the `parts` joined. Blocks while the other end does not read.

        Raises `OSError` when there is no other end any more."""
        length = sum(map(len, parts))
        head = _HEAD.pack(kind, len(buffers), length)
        if not buffers and length <= _JOINED:
            self.socket.sendall(b"".join((head, *parts)))
            return
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        sizes = struct.pack(f"<{len(views)}Q", *map(len, views))
        self._send_all([memoryview(each) for each in (head + sizes, *parts)] + views)

    def receive(self) -> Message:
        """The next message. Blocks until it is there. Raises `EOFError` or `OSError` when none can come any more."""
        data = self._kept
        while len(data) < _HEAD.size:
            more = self.socket.recv(_RECEIVED)
            if not more:
                raise EOFError("the other end is closed")
            data = data + more if data else more
        kind, count, length = _HEAD.unpack_from(data)
        end = _HEAD.size + length
        if not count and len(data) >= end:
            self._kept = data[end:]
            return kind, memoryview(data)[_HEAD.size : end], []
        self._kept = data[_HEAD.size :]
        sizes = struct.unpack(f"<{count}Q", self._take(8 * count)) if count else ()
        body = memoryview(self._take(length))
        return kind, body, [self._take(size) for size in sizes]

    def close(self) -> None:
        """Let go of this end."""
        self.socket.close()

    def _take(self, size: int) -> bytearray:
        taken = bytearray(size)
        have = min(size, len(self._kept))
        taken[:have] = self._kept[:have]
        self._kept = self._kept[have:]
        view = memoryview(taken)[have:]
        while view:
            received = self.socket.recv_into(view)
            if not received:
                raise EOFError("the other end is closed")
            view = view[received:]
        return taken

    def _send_all(self, views: list[memoryview]) -> None:
        views = [view for view in views if len(view)]
        while views:
            sent = self.socket.sendmsg(views[:64])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]
