"""`Wire`: messages over two pipes, which take less time than a socket does. A message is a kind, a body, and buffers
that travel beside it, uncopied.

    head: kind (1 byte, 3 unused), number of buffers (4), length of the body (8); then the length of each buffer (8);
    then the body; then the buffers; then END, so that nothing else passes for the end of a message cut short

One thread receives. Several may send, if they see to it that they take turns.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Sequence
from typing import Any

__all__ = ["Message", "Wire"]

Message = tuple[int, memoryview, list[Any]]

_HEAD = struct.Struct("<BxxxIQ")
_END = b"\xa5"
_ROOM = 1 << 20
_JOINED = 16384  # bytes: below that it is cheaper to join the parts of a message than to hand over a list of them
_RECEIVED = 65536  # bytes asked for at once


class Wire:
    """One end: reads a pipe and writes another. `echo`: the other end of the one that it reads, if it keeps that."""

    def __init__(self, reader: int, writer: int, echo: int = -1) -> None:
        self._reader = reader
        self._writer = writer
        self._echo = echo
        self._is_large = False
        self._kept = b""  # received already, of the next message

    def send(self, kind: int, *parts: Any, buffers: Sequence[Any] = ()) -> None:
        """Send a message whose body is the `parts` joined. Blocks while the other end does not read.

        Raises `OSError` when there is no other end any more."""
        length = sum(map(len, parts))
        head = _HEAD.pack(kind, len(buffers), length)
        if not buffers and length <= _JOINED:
            self._send_all([b"".join((head, *parts, _END))])
            return
        if not self._is_large:
            self._enlarge()
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        sizes = struct.pack(f"<{len(views)}Q", *(len(view) << 1 | view.readonly for view in views))
        self._send_all(
            [memoryview(each) for each in (head + sizes, *parts)] + views + [memoryview(_END)]
        )

    def receive(self) -> Message:
        """The next message. Blocks until it is there. Raises `EOFError` or `OSError` when none can come any more."""
        data = self._kept
        while len(data) < _HEAD.size:
            more = self._read()
            data = data + more if data else more
        kind, count, length = _HEAD.unpack_from(data)
        end = _HEAD.size + length
        if not count and len(data) > end:
            if data[end] != _END[0]:
                raise EOFError("the other end was closed in the middle of a message")
            self._kept = data[end + 1 :]
            return kind, memoryview(data)[_HEAD.size : end], []
        self._kept = data[_HEAD.size :]
        sizes = struct.unpack(f"<{count}Q", self._take(8 * count)) if count else ()
        body = memoryview(self._take(length))
        buffers = [
            self._take_bytes(size >> 1) if size & 1 else self._take(size >> 1) for size in sizes
        ]
        if self._take(1)[0] != _END[0]:
            raise EOFError("the other end was closed in the middle of a message")
        return kind, body, buffers

    def close(self) -> None:
        """Let go of this end. Not while another thread uses it."""
        for descriptor in (self._reader, self._writer, self._echo):
            if descriptor >= 0:
                os.close(descriptor)
        self._reader = self._writer = self._echo = -1

    def end(self) -> None:
        """Nobody will write or read there any more, though somebody may hold those ends open: whoever receives gets
        what is there, then `OSError`, and so does whoever sends. By any thread, but not beside `close`."""
        if self._echo < 0:
            return
        for descriptor in (self._reader, self._writer, self._echo):
            os.set_blocking(descriptor, False)
        os.write(self._echo, b"\0")  # for whoever sleeps in a read
        with contextlib.suppress(OSError):  # nobody can sleep in a write then, or this is not Linux
            drain = os.open(f"/proc/self/fd/{self._writer}", os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.read(
                    drain, _ROOM
                )  # all that is in it: who slept goes on, and does not sleep again
            finally:
                os.close(drain)

    def _read(self) -> bytes:
        data = os.read(self._reader, _RECEIVED)
        if not data:
            raise EOFError("the other end is closed")
        return data

    def _enlarge(self) -> None:
        """Give large messages more room on their way, where the system can: they come in fewer pieces."""
        self._is_large = True
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _ROOM)

    def _take(self, size: int) -> bytearray:
        taken = bytearray(size)
        self._fill(memoryview(taken))
        return taken

    def _take_bytes(self, size: int) -> bytes:
        file = io.BytesIO(
            bytes(size)
        )  # which lends out its bytes for writing as long as nobody else has them
        with file.getbuffer() as view:
            self._fill(view)
        return file.getvalue()

    def _fill(self, view: memoryview) -> None:
        have = min(len(view), len(self._kept))
        view[:have] = self._kept[:have]
        self._kept = self._kept[have:]
        view = view[have:]
        while view:
            received = os.readv(self._reader, [view])
            if not received:
                raise EOFError("the other end is closed")
            view = view[received:]

    def _send_all(self, views: list[Any]) -> None:
        if len(views) == 1:
            sent = os.write(self._writer, views[0])
            if sent == len(views[0]):
                return
            views = [memoryview(views[0])[sent:]]
        views = [view for view in views if len(view)]
        while views:
            sent = os.writev(self._writer, views[:64])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]
