"""The mailbox by which threads tell a loop: each message is delivered once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import deque

import pytest

from tasker._sync import awaiting
from tests.support.loops import double, others, run
from tests.support.waiting import PATIENCE


class Note(awaiting.Message):
    """Counts how often it was delivered."""

    def __init__(self, mailbox, told=lambda: None):
        super().__init__(mailbox)
        self.delivered = 0
        self.told = told

    def deliver(self):
        self.delivered += 1
        self.told()


def test_a_message_that_is_put_when_a_delivery_has_just_ended_is_delivered_too():
    asked = []

    class Loop:
        def call_soon_threadsafe(self, callback):
            asked.append(callback)

    class Messages(deque):
        def append(self, message):
            for delivery in asked:  # as if the loop came before this thread goes on
                delivery()
            asked.clear()
            super().append(message)

    mailbox = awaiting.Mailbox(Loop())
    mailbox._messages = Messages()
    notes = [Note(mailbox), Note(mailbox)]
    for note in notes:
        note.wake()
    assert [note.delivered for note in notes] == [1, 0]
    (delivery,) = asked
    delivery()
    assert [note.delivered for note in notes] == [1, 1]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_message_is_delivered_once_however_many_threads_put(threads):
    rounds, each = 30, 40
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    async def main():
        rng = random.Random(seed)
        mailbox = awaiting.mailbox_here()
        for _ in range(rounds):
            arrived = asyncio.Event()
            left = threads * each

            def count():
                nonlocal left
                left -= 1
                if not left:
                    arrived.set()  # noqa: B023  # it is called in its own turn

            notes = [[Note(mailbox, count) for _ in range(each)] for _ in range(threads)]
            pauses = [[rng.random() < 0.3 for _ in range(each)] for _ in range(threads)]
            start = threading.Barrier(threads)

            def put(mine, pausing, start=start):
                start.wait(PATIENCE)
                for note, pause in zip(mine, pausing, strict=True):
                    note.wake()
                    if pause:
                        threading.Event().wait(0)  # lets the loop in

            putters = [
                threading.Thread(target=put, args=pair) for pair in zip(notes, pauses, strict=True)
            ]
            for putter in putters:
                putter.start()
            await arrived.wait()
            for putter in putters:
                putter.join()
            assert all(note.delivered == 1 for mine in notes for note in mine)
            assert not mailbox._messages

    run(main)


@pytest.mark.usefixtures("hasty")
def test_no_await_is_lost_however_tasks_settle_and_are_cancelled(new_manager):
    manager = new_manager(worker_count=4)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    async def main():
        rng = random.Random(seed)
        for _ in range(40):
            futures = [manager.submit(double, i) for i in range(30)]
            waiters = [asyncio.ensure_future(future) for future in futures]
            await asyncio.sleep(0)
            for waiter in rng.sample(waiters, 10):
                waiter.cancel()
            outcomes = await asyncio.gather(*waiters, return_exceptions=True)
            for i, outcome in enumerate(outcomes):
                assert outcome == 2 * i or isinstance(outcome, asyncio.CancelledError)
            assert sum(outcome == 2 * i for i, outcome in enumerate(outcomes)) >= 20

    run(main)


def test_an_interrupted_delivery_loses_nothing():
    """Ctrl-C leaves a loop that nothing protects from it; the loop may be run again."""
    notes = []

    def put():
        mailbox = awaiting.mailbox_here()

        def interrupt():
            if notes[0].delivered == 1:
                raise KeyboardInterrupt

        notes.extend((Note(mailbox, interrupt), Note(mailbox), Note(mailbox)))
        for note in notes:
            note.wake()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.call_soon(put)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        loop.run_until_complete(others())
    assert [note.delivered for note in notes] == [2, 1, 1]


def test_an_interrupted_question_is_asked_again_by_the_next_message(monkeypatch):
    async def main():
        mailbox = awaiting.mailbox_here()
        loop = asyncio.get_running_loop()
        notes = [Note(mailbox), Note(mailbox)]

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", interrupted, raising=False)
            with pytest.raises(KeyboardInterrupt):
                notes[0].wake()
        notes[1].wake()
        await others()
        assert [note.delivered for note in notes] == [1, 1]

    run(main)
