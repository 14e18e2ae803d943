"""`Keepalive`: the idle resources of `run_task` are checked although no caller comes.

An idle worker checks its own resource. What `run_task` keeps has no thread of its own,
so the timer looks what is due, and has threads check it that end when nothing is due
any more. Such a thread borrows one resource, checks it, and hands it back or destroys
it. Meanwhile that is out as if a caller had it. So a caller who comes takes another, or
makes one, and never waits for a check.

What belongs to the thread that made it (see `resources`) is left alone: no other thread
may use it. It is checked when its thread next borrows it.

One thread checks one resource after the other. If a check takes longer than a moment,
another thread goes on with the next one (see `CallbackRunner`). A check that takes
longer than `check_timeout` is *given up*, as a worker is abandoned: nothing waits for
it, and the report of the stop names its thread. If it returns after all, its thread
destroys the resource. There are never more of these threads than resources may be idle.
A child process or actor is killed instead, which ends the check.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from tasker._pool.checking import Checks
from tasker._pool.resources import CheckLoan, ResourcePool
from tasker._sync import timer
from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.guarded_logger import GuardedLogger

__all__ = ["Keepalive"]

R = TypeVar("R")


class IsWell(Protocol):
    """Checks the resource of a loan, which was proved to be well last at that time.

    `late` is called by the timer when that takes too long."""

    def __call__(self, loan: Any, since: float, late: Callable[[], object], /) -> bool: ...


class Keepalive(Generic[R]):
    """That of one manager.

    `gives_up`: whether a check that takes too long is given up."""

    def __init__(
        self,
        name: str,
        pool: ResourcePool[R],
        checks: Checks[R],
        is_well: IsWell,
        logger: GuardedLogger,
        *,
        gives_up: bool,
    ) -> None:
        self._pool = pool
        self._checks = checks
        self._is_well = is_well
        self._gives_up = gives_up
        self.runner: CallbackRunner = CallbackRunner(f"{name}-keepalive", logger)
        self._alarm: timer.TimerEntry | None = None

    def start(self) -> None:
        """From now on what is idle is checked, if the config says so."""
        if self._checks.keepalive is not None and self._pool.is_lent_to_any_thread():
            self._look()

    def stop(self) -> None:
        """The pool is closed. Let go of the timer."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _look(self) -> None:
        """Have checked what is due. Called by the timer, and again if it raises."""
        now = timer.now()
        is_due, next_look = self._pool.look_for_due(self._checks.kept_alive_at, now)
        if is_due and self.runner.waits():
            # No thread could be started for it, say.
            self.runner.heal()
        elif is_due:
            self.runner.run(self._check_one)

        # What is handed back meanwhile is not due before this.
        soonest = now + self._checks.shortest_keepalive()
        self._alarm = alarm = timer.at(min(next_look, soonest), self._look)
        # It may have been stopped meanwhile (R1).
        if self._pool.closed:
            alarm.cancel()

    def _check_one(self) -> None:
        """Check a resource that is due, if one is. Then come others."""
        loan: CheckLoan[R] = CheckLoan()
        healthy = False
        try:
            if self._pool.lend_due(loan, self._checks.kept_alive_at, timer.now()):
                # For another thread if this one is kept by its check.
                self.runner.run(self._check_one)
                late = partial(self._pool.give_up, loan) if self._gives_up else bool
                healthy = self._is_well(loan, loan.since, late)
        finally:
            try:
                self._pool.hand_back(loan, healthy=healthy)
            except BaseException:  # another thread has sent an exception
                self._pool.hand_back(loan, healthy=healthy)
                raise
            finally:
                # Its traceback leads to frames that have the loan (R4).
                loan.error = None
