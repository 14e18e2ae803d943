"""google-cloud-pubsub's scheduler on an executor of ours: what was not begun when it is shut down is handed back."""

from __future__ import annotations

import threading
import warnings

import pytest

from tests.support.waiting import PATIENCE

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # of its own dependencies, and of Pythons that it will not support any more
    scheduler = pytest.importorskip("google.cloud.pubsub_v1.subscriber.scheduler")


def test_messages_that_were_not_begun_are_handed_back(executor, block):
    seen = []
    gate = block(executor, 2)
    threads = scheduler.ThreadScheduler(executor=executor)
    for number in range(10):
        threads.schedule(seen.append, f"message {number}")
    assert threads.shutdown() == [f"message {number}" for number in range(10)]
    gate.set()
    executor.shutdown()
    assert seen == []
    with pytest.warns(RuntimeWarning, match="after executor shutdown"):
        threads.schedule(seen.append, "too late")


def test_messages_that_were_begun_are_waited_for(executor):
    begun, gate, seen = threading.Event(), threading.Event(), []

    def callback(message):
        begun.set()
        gate.wait(PATIENCE)
        seen.append(message)

    threads = scheduler.ThreadScheduler(executor=executor)
    threads.schedule(callback, "message")
    begun.wait(PATIENCE)
    threading.Timer(0.01, gate.set).start()
    assert threads.shutdown(await_msg_callbacks=True) == []
    assert seen == ["message"]
