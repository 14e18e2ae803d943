"""Code in another thread, and threads that cannot be started."""

from __future__ import annotations

import math
import threading

from tests.support.waiting import PATIENCE


def in_another_thread(fn):
    """Run `fn()` elsewhere and wait for it: it would block for ever if this thread held a lock that it needs."""
    done = []
    thread = threading.Thread(target=lambda: done.append(fn()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the other thread is blocked"
    return done[0]


class Refusals:
    """Threads with `part` in their name cannot be started, as often as `times` says, except the one called `but`."""

    def __init__(self, monkeypatch):
        self.refuses, self.refused = lambda name: False, []
        start = threading.Thread.start

        def start_or_refuse(thread):
            if self.refuses(thread.name):
                self.refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_refuse)

    def begin(self, part, times=math.inf, but=""):
        self.refuses = lambda name: part in name and name != but and len(self.refused) < times

    def end(self):
        self.refuses = lambda name: False


def run_in_thread(fn, name="other"):
    """Run `fn` in a thread of that name to its end."""
    thread = threading.Thread(target=fn, name=name)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return thread
