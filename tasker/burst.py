"""The burst thread: a tick decides scaling, heals the crew, and once closing has begun, closes.

It is always there, scaling or not, from before the first worker until CLOSED. A tick is `burst_interval`, or less so
that healing never waits longer than `TICK`. It sleeps on a seat that anyone may wake. What goes wrong in a tick is
logged, and the next tick comes all the same. It runs no user code but the logger; at interpreter exit, when no thread
can be started that would, it runs the callbacks of what it ended.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from tasker import deadlock, timer
from tasker.aside import Aside
from tasker.backoff import Backoff
from tasker.crew import Crew
from tasker.errors import ContextCancelledError, ResourceCreationError
from tasker.lifecycle import OPEN, Lifecycle
from tasker.logger import GuardedLogger, traceback_of
from tasker.metrics import BuiltinCollector
from tasker.parking import Seat
from tasker.placement.base import Site
from tasker.queue import TaskQueue
from tasker.scaling import Limits, Window, decide
from tasker.threads import new_thread
from tasker.usercode import UserCode, last_line_of

__all__ = ["Burst"]

TICK = 0.1  # seconds: the longest that a fault stays unhealed


class Parts(Protocol):
    """What the burst thread looks after."""

    name: str
    site: Site
    queue: TaskQueue
    crew: Crew[Any]
    aside: Aside
    figures: BuiltinCollector
    logger: GuardedLogger
    backoff: Backoff
    lifecycle: Lifecycle
    user: UserCode[Any]
    watchers: int
    exiting: bool

    def heal_crew(self) -> None: ...

    def worker_changed(self) -> None: ...


class Burst:
    """The thread, and what it remembers from tick to tick."""

    def __init__(self, parts: Parts, interval: float, create_timeout: float, limits: Limits) -> None:
        self._parts = parts
        self._interval = interval
        self._create_timeout = create_timeout
        self._limits = limits
        self.scales: bool = interval > 0
        self._tick = min(interval or TICK, TICK)
        self._seat = Seat()
        self._scaled_at = time.monotonic()
        self._held_at = self._scaled_at  # when a worker was last seen to hold a resource, without being stuck
        self.hopeless: bool = False  # whether that is longer ago than `create_timeout`
        self._stuck = False  # whether all workers that hold a resource wait, at last, for what is in the lanes
        self._window = Window(interval, self._scaled_at)
        self.thread: threading.Thread = new_thread(self._run, f"{parts.name}-burst")

    def wake(self) -> None:
        """End its sleep: something is to be done now. Signal-safe."""
        self._seat.wake()

    def _run(self) -> None:
        parts = self._parts
        while True:
            self._seat.sleep(self._tick)
            try:
                if parts.exiting:  # no thread can be started any more
                    parts.aside.run_here()
                if parts.lifecycle.state != OPEN and parts.lifecycle.step():
                    return
                self._heal()
                if parts.lifecycle.state == OPEN:
                    self._scale()
            except BaseException as error:
                parts.logger.error("%s: the burst thread met an error\n%s", parts.name, traceback_of(error))

    # -- healing -------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        parts = self._parts
        if parts.lifecycle.state == OPEN:
            parts.heal_crew()
        parts.queue.ripen(time.monotonic())
        if any(parts.queue.waiting()) and parts.queue.idle.announced:
            parts.queue.idle.wake_all()  # tasks wait and workers sleep: a wake-up got lost
        parts.queue.compact()
        parts.queue.wake_submitters()
        parts.aside.heal()
        timer.ensure_running()
        self._watch_resources()
        deadlock.look_again(parts.crew.members)
        parts.figures.sample(time.monotonic())
        if parts.watchers:
            parts.worker_changed()

    def _watch_resources(self) -> None:
        """Once no worker that is free, or will be, has held a resource for `create_timeout`, give up hope: what waits
        fails, or the waits of the workers do that hold one (see `deadlock`)."""
        parts = self._parts
        now = time.monotonic()
        holding = [worker for worker in parts.crew.members if worker.holds_resource]
        self._stuck = bool(holding) and any(parts.queue.waiting()) and not deadlock.any_free(holding)
        if holding and not self._stuck:
            self._held_at = now
        else:  # one that broke between two ticks was held, too
            self._held_at = max(self._held_at, parts.backoff.made_at)
        if len(holding) == len(parts.crew.members):
            parts.user.create_error = None
        self.hopeless = now - self._held_at >= self._create_timeout
        if self.hopeless and not holding:
            for task in parts.queue.sweep():
                task._fail_from_outside(self._creation_error(), ContextCancelledError("no resource"))
                parts.queue.drop(task)

    def _creation_error(self) -> ResourceCreationError:
        error = ResourceCreationError(f"{self._parts.name}: no worker has held a resource for {self._why_hopeless()}")
        error.__cause__ = self._parts.user.create_error
        return error

    def trouble(self) -> str:
        """Why there is no hope, although workers hold resources. Runs code of the user's."""
        return f"no other worker of {self._parts.name} has got a resource for {self._why_hopeless()}"

    def _why_hopeless(self) -> str:
        parts = self._parts
        lacking = [worker for worker in parts.crew.members if not worker.holds_resource]
        if parts.user.create_error is not None:
            why = f"on_create raised {last_line_of(parts.user.create_error)}"
        elif not lacking:
            why = "none was hired"
        elif any(worker.creating for worker in lacking):
            why = parts.site.late()
        else:
            why = "on_destroy has not returned"
        return f"{self._create_timeout:g} s (create_timeout): {why}"

    # -- scaling -------------------------------------------------------------------------------------------------

    def _scale(self) -> None:
        now = time.monotonic()
        if not self.scales or now - self._scaled_at < self._interval * 0.9:
            return
        self._scaled_at = now
        parts = self._parts
        arrived, finished = parts.figures.progress()
        sample = self._window.tick(
            now,
            arrived=arrived,
            finished=finished,
            backlog=sum(parts.queue.waiting()),
            workers=parts.crew.staying(),
            holding=parts.crew.holding(),
            idle=len(parts.queue.idle.announced),
            stuck=self._stuck,
        )
        delta = 0 if sample is None else decide(sample, self._limits)
        if delta > 0:
            parts.logger.debug("%s: hired %d", parts.name, parts.crew.hire(delta))
        elif delta < 0:
            parts.logger.debug("%s: retired %d", parts.name, parts.crew.retire(-delta, parts.queue.idle))
