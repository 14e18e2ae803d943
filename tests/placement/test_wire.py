"""Messages over a stream: whole, in order, whatever their size and however the stream cuts them."""

from __future__ import annotations

import os
import random
import sys
import threading

import pytest

from tasker.placement.processes.wire import Wire


@pytest.fixture
def ends():
    (a, b), (c, d) = os.pipe(), os.pipe()
    ends = Wire(c, b), Wire(a, d)
    yield ends
    for end in ends:
        end.close()


def receive(wire: Wire) -> tuple[int, bytes, list[bytes]]:
    kind, body, buffers = wire.receive()
    return kind, bytes(body), list(map(bytes, buffers))


def exchanged(ends, messages):
    """What arrives at the second end of what is sent from the first, by a thread: much of it does not fit between."""
    first, second = ends
    sender = threading.Thread(
        target=lambda: [
            first.send(kind, *parts, buffers=buffers) for kind, parts, buffers in messages
        ]
    )
    sender.start()
    try:
        return [receive(second) for _ in messages]
    finally:
        sender.join()


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 65520, 65536, 1_000_000])
@pytest.mark.parametrize(
    "buffers", [[], [b""], [b"one"], [b"x" * 70_000, b"", b"y" * 300_000]], ids=len
)
def test_a_message_arrives_as_it_was_sent(ends, size, buffers):
    body = random.Random(size).randbytes(size)
    assert exchanged(ends, [(7, [body], buffers)]) == [(7, body, buffers)]


def test_the_parts_of_a_body_are_joined(ends):
    parts = [b"head", memoryview(b"body"), bytearray(b"tail"), b"z" * 20_000]
    assert exchanged(ends, [(3, parts, []), (4, parts[:3], [])]) == [
        (3, b"headbodytail" + b"z" * 20_000, []),
        (4, b"headbodytail", []),
    ]


def test_buffers_may_have_items_of_any_size(ends):
    import array

    numbers = array.array("d", range(9))
    assert exchanged(ends, [(1, [b""], [numbers, memoryview(numbers)])]) == [
        (1, b"", [numbers.tobytes()] * 2)
    ]


def test_more_buffers_than_one_call_takes_arrive_in_order(ends):
    buffers = [bytes([number]) * number for number in range(200)]
    assert exchanged(ends, [(1, [b"body"], buffers)]) == [(1, b"body", buffers)]


def test_messages_that_arrive_together_are_told_apart(ends):
    messages = [
        (number, [bytes([number]) * number], [b"beside"] * (number % 3)) for number in range(100)
    ]
    assert exchanged(ends, messages) == [
        (kind, *map(bytes, parts), buffers) for kind, parts, buffers in messages
    ]


@pytest.mark.parametrize("step", [1, 7, 16, 17, 1000])
def test_a_message_that_arrives_in_pieces_is_put_together(ends, step):
    def send(wire: Wire) -> None:
        wire.send(1, b"first" * 20)
        wire.send(2, b"second", buffers=[b"beside" * 30, b""])
        wire.send(3)

    sent = bytes_of(send)
    sender = threading.Thread(
        target=lambda: [write(ends[0], sent[i : i + step]) for i in range(0, len(sent), step)]
    )
    sender.start()
    assert receive(ends[1]) == (1, b"first" * 20, [])
    assert receive(ends[1]) == (2, b"second", [b"beside" * 30, b""])
    assert receive(ends[1]) == (3, b"", [])
    sender.join()


def bytes_of(send) -> bytes:
    """What a wire writes; less than all of it fits into a pipe."""
    reader, writer = os.pipe()
    wire = Wire(os.dup(reader), writer)
    sender = threading.Thread(target=lambda: (send(wire), wire.close()))
    sender.start()
    with open(reader, "rb") as file:
        data = file.read()
    sender.join()
    return data


def write(wire: Wire, data: bytes) -> None:
    while data:
        data = data[os.write(wire._writer, data) :]


@pytest.mark.parametrize("cut", ["nothing", "head", "sizes", "body", "buffer"])
def test_the_end_of_the_stream_is_an_error_wherever_it_comes(ends, cut):
    sent = bytes_of(lambda wire: wire.send(2, b"body" * 5000, buffers=[b"beside" * 5000]))
    first, second = ends
    write(
        first, sent[: {"nothing": 0, "head": 9, "sizes": 20, "body": 10_000, "buffer": 40_000}[cut]]
    )
    first.close()
    with pytest.raises(EOFError):
        second.receive()


def test_what_was_sent_before_the_end_is_received_first(ends):
    first, second = ends
    first.send(1, b"one")
    first.send(2, b"two", buffers=[b"beside"])
    first.close()
    assert [receive(second), receive(second)] == [(1, b"one", []), (2, b"two", [b"beside"])]
    with pytest.raises(EOFError):
        second.receive()


def test_sending_to_a_closed_end_is_an_error(ends):
    first, second = ends
    second.close()
    with pytest.raises(OSError):  # noqa: PT011  # which of them, the system says
        first.send(1, b"x" * 1_000_000)


@pytest.fixture
def held():
    """The receiving end of a wire whose other end somebody holds open, and the descriptor for it."""
    reader, writer = os.pipe()
    wire = Wire(reader, os.open(os.devnull, os.O_WRONLY), os.dup(writer))
    yield wire, writer
    wire.close()
    os.close(writer)


def test_who_sleeps_in_receive_is_told_that_nothing_more_will_come(held):
    wire, _ = held
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            wire.receive()
        except (EOFError, OSError) as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wire.end()
    thread.join()
    assert len(errors) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_who_sleeps_in_send_is_told_that_nobody_will_read(held):
    wire, _ = held
    reader, wire._writer = os.pipe()
    errors: list[BaseException] = []

    def send() -> None:
        try:
            wire.send(1, b"x" * 10_000_000)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    os.read(reader, 1)  # it is sending
    wire.end()
    thread.join()
    os.close(reader)
    assert len(errors) == 1


@pytest.mark.parametrize("buffers", [[], [b"beside" * 3]], ids=len)
def test_the_end_completes_no_message_that_was_cut_short(held, buffers):
    wire, writer = held
    sent = bytes_of(lambda other: other.send(5, b"body", buffers=buffers))
    for missing in range(1, len(sent)):
        os.write(writer, sent)
        os.write(writer, sent[:-missing])
        assert receive(wire) == (5, b"body", buffers)
        wire.end()
        with pytest.raises((EOFError, OSError)):
            wire.receive()
        wire._kept = b""
        os.set_blocking(wire._reader, True)
