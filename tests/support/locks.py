"""Locks that do what others hardly do at that moment."""

from __future__ import annotations

import threading


class HookedLock:
    """An RLock that calls `hook` once, in its holder's thread, as a signal handler might be called there."""

    def __init__(self, hook, when="taken"):
        self.lock = threading.RLock()
        self.hook = hook
        self.when = when

    def __enter__(self):
        self.lock.acquire()
        self._now("taken")

    def __exit__(self, *_):
        self.lock.release()
        self._now("released")

    def _now(self, moment):
        if moment == self.when and self.hook is not None:
            hook, self.hook = self.hook, None
            hook()


class HastyLock:
    """A lock that is taken, for which every timeout ends at once: only who waits without one sleeps."""

    def __init__(self):
        self.lock = threading.Lock()
        self.lock.acquire()
        self.release = self.lock.release

    def acquire(self, *, timeout):
        return self.lock.acquire() if timeout < 0 else self.lock.acquire(blocking=False)
