"""Futures by themselves, without a manager."""

from __future__ import annotations

from tasker import background
from tasker._sync.guarded_logger import GuardedLogger
from tasker._tasks.context import ManagerValues
from tasker._tasks.future import new_task

VALUES = ManagerValues(background(), lambda: False)


class Owner:
    """What a future needs of a manager: writes down what it is told, and keeps what is to run elsewhere."""

    def __init__(self, log):
        self.logger = GuardedLogger(log)
        self.has_collector = False
        self.orphaned = None
        self.settling = set()
        self.told, self.jobs = [], []
        self.values = VALUES

    def future(self):
        return new_task(self, len, (), False, 1.0)

    def entry_died(self, future):
        assert future._engine is self
        self.told.append("entry died")

    def record_cancelled(self):
        self.told.append("cancelled")

    def record_failure(self, future, error, *, was_waiting):
        assert not future.done(), "recorded first, then published"
        self.told.append(("failed", error, was_waiting))

    def run_in_other_thread(self, jobs):
        self.jobs += jobs

    def let_go(self, things):
        things.clear()
