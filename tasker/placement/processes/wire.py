"""`Wire`: messages over two pipes, which take less time than a socket does.

A message is a kind, a body, and buffers, which travel beside the body uncopied:

    head: kind (1 byte, 3 unused), number of buffers (4), length of the body (8)
    the length of each buffer (8), whose lowest bit says whether the buffer is read-only
    the body
    the buffers
    END: without it, the end of the stream could pass for the end of a message cut short

One thread receives. Several threads may send, if they take turns.

`multiprocessing.connection` does not serve. It cannot send buffers beside a pickle
without copying them. And it cannot be ended by one thread while another reads from it.
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
# The largest pipe that Linux by default allows without privileges.
_PIPE_BYTES = 1 << 20
# Up to this size it is cheaper to join the parts than to pass a list of them.
_JOIN_BYTES = 16384
# What a pipe holds by default on Linux.
_READ_BYTES = 65536


class Wire:
    """One end of the connection: it reads one pipe and writes another.

    `echo` is the writing end of the pipe that it reads. Only an end that has it can be
    ended by `end`."""

    def __init__(self, reader: int, writer: int, echo: int = -1) -> None:
        self._reader = reader
        self._writer = writer
        self._echo = echo
        self._is_large = False
        # The part of the next message that was received already.
        self._kept = b""

    def send(self, kind: int, *parts: Any, buffers: Sequence[Any] = ()) -> None:
        """Send a message whose body is the `parts` joined.

        Blocks while the other end does not read. Raises `OSError` when the other end is
        closed."""
        length = sum(map(len, parts))
        head = _HEAD.pack(kind, len(buffers), length)
        if not buffers and length <= _JOIN_BYTES:
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
        """The next message. Blocks until it is there.

        Raises `EOFError` or `OSError` when none can come any more."""
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
        """Close this end. No other thread may use it."""
        for descriptor in (self._reader, self._writer, self._echo):
            if descriptor >= 0:
                os.close(descriptor)
        self._reader = self._writer = self._echo = -1

    def end(self) -> None:
        """End the connection, because the process at the other end is dead.

        The programs that it has started may still hold its ends open. A thread that
        receives gets what is there, then `OSError`. A thread that sends gets `OSError`.
        May be called by any thread, but not beside `close`."""
        if self._echo < 0:
            return
        for descriptor in (self._reader, self._writer, self._echo):
            os.set_blocking(descriptor, False)
        # Wake a thread that sleeps in a read.
        os.write(self._echo, b"\0")
        # Wake a thread that sleeps in a write: with the pipe empty, it goes on and does
        # not sleep again. It fails if no thread can sleep there, or if this is not
        # Linux.
        with contextlib.suppress(OSError):
            drain = os.open(f"/proc/self/fd/{self._writer}", os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.read(drain, _PIPE_BYTES)
            finally:
                os.close(drain)

    def _read(self) -> bytes:
        data = os.read(self._reader, _READ_BYTES)
        if not data:
            raise EOFError("the other end is closed")
        return data

    def _enlarge(self) -> None:
        """Enlarge the pipe, if possible: large messages come in fewer pieces."""
        self._is_large = True
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _take(self, size: int) -> bytearray:
        taken = bytearray(size)
        self._fill(memoryview(taken))
        return taken

    def _take_bytes(self, size: int) -> bytes:
        # `BytesIO` lends its bytes for writing while nothing else refers to them.
        file = io.BytesIO(bytes(size))
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
