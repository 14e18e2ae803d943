"""An `on_check` that tests look into."""

from __future__ import annotations

import threading

from tests.support.waiting import PATIENCE


class Check:
    """An `on_check` that notes what it was called with, and does what it is told for each resource."""

    def __init__(self):
        self.calls = []
        self.threads = []
        self.verdicts = {}  # what to return, or to raise, by the number of the resource
        self.gates = {}  # what to wait for first
        self.begun = threading.Semaphore(0)

    def __call__(self, resource):
        self.calls.append(resource.number)
        self.threads.append(threading.get_ident())
        self.begun.release()
        if resource.number in self.gates:
            self.gates[resource.number].wait(PATIENCE)
        verdict = self.verdicts.get(resource.number)
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict
