"""The burst thread: a tick decides scaling, heals the crew, and once closing has begun, closes.

It is always there, scaling or not, from before the first worker until CLOSED. A tick is `burst_interval`, or less so
that healing never waits longer than `TICK`. It sleeps on a seat that anyone may wake. What goes wrong in a tick is
logged, and the next tick comes all the same. It runs no user code but the logger, and `on_destroy` for the idle
resources of the `run_task` pool.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from typing import Any, Protocol

from tasker import timer
from tasker.aside import Aside
from tasker.crew import Crew
from tasker.errors import ContextCancelledError, ResourceCreationError
from tasker.lifecycle import OPEN, Lifecycle
from tasker.logger import GuardedLogger
from tasker.metrics import BuiltinCollector
from tasker.parking import Seat
from tasker.queue import TaskQueue
from tasker.scaling import Limits, Sample, decide

__all__ = ["Burst"]

TICK = 0.1  # seconds: the longest that a fault stays unhealed
WINDOW = 1.0  # seconds over which rates and the low-water mark of idle workers are taken


class Parts(Protocol):
    """What the burst thread looks after."""

    name: str
    queue: TaskQueue
    crew: Crew[Any]
    aside: Aside
    figures: BuiltinCollector
    logger: GuardedLogger
    lifecycle: Lifecycle
    create_error: BaseException | None
    watchers: int

    def worker_changed(self) -> None: ...


class Burst:
    """The thread, and what it remembers from tick to tick."""

    def __init__(self, parts: Parts, interval: float, create_timeout: float, limits: Limits) -> None:
        self._parts = parts
        self._interval = interval
        self._create_timeout = create_timeout
        self._limits = limits
        self._tick = min(interval or TICK, TICK)
        self._seat = Seat()
        self._scaled_at = time.monotonic()
        self._last_tick = self._scaled_at
        self._held_at = self._scaled_at  # when a worker was last seen to hold a resource
        self._samples: deque[tuple[float, int, int, int]] = deque()  # time, arrived, finished, idle
        self.thread = threading.Thread(target=self._run, name=f"{parts.name}-burst", daemon=True)

    def wake(self) -> None:
        """End its sleep: something is to be done now. Signal-safe."""
        self._seat.wake()

    def _run(self) -> None:
        parts = self._parts
        while True:
            self._seat.sleep(self._tick)
            try:
                if parts.lifecycle.state != OPEN and parts.lifecycle.step():
                    return
                self._heal()
                if parts.lifecycle.state == OPEN:
                    self._scale()
            except BaseException:
                parts.logger.error("%s: the burst thread met an error\n%s", parts.name, traceback.format_exc())

    # -- healing -------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        parts = self._parts
        if parts.lifecycle.state == OPEN:
            parts.crew.heal(parts.queue.idle)
        if any(parts.queue.waiting()) and parts.queue.idle.announced:
            parts.queue.idle.wake_all()  # tasks wait and workers sleep: a wake-up got lost
        parts.queue.compact()
        parts.queue.wake_submitters()
        parts.aside.heal()
        timer.ensure_running()
        self._fail_without_resources()
        parts.figures.sample(time.monotonic())
        if parts.watchers:
            parts.worker_changed()

    def _fail_without_resources(self) -> None:
        """Fail what waits once no worker has held a resource for `create_timeout`."""
        parts = self._parts
        now = time.monotonic()
        if parts.crew.holding():
            self._held_at = now
            parts.create_error = None
        elif now - self._held_at >= self._create_timeout:
            for task in parts.queue.sweep():
                task._fail_from_outside(self._creation_error(), ContextCancelledError("no resource"))
                parts.queue.drop(task)

    def _creation_error(self) -> ResourceCreationError:
        parts = self._parts
        error = ResourceCreationError(
            f"{parts.name}: no worker has held a resource for {self._create_timeout:g} s (create_timeout); "
            f"{'on_create raised ' + _text(parts.create_error) if parts.create_error else 'on_create has not returned'}"
        )
        error.__cause__ = parts.create_error
        return error

    # -- scaling -------------------------------------------------------------------------------------------------

    def _scale(self) -> None:
        now = time.monotonic()
        if not self._interval or now - self._scaled_at < self._interval * 0.9:
            return
        if now - self._last_tick > 2 * max(self._interval, TICK):
            self._samples.clear()  # a late tick (the machine slept, or was starved) has not seen what it missed
        self._last_tick = self._scaled_at = now
        delta = decide(self._sample(now), self._limits)
        parts = self._parts
        if delta > 0:
            parts.logger.debug("%s: hired %d", parts.name, parts.crew.hire(delta))
        elif delta < 0:
            parts.logger.debug("%s: retired %d", parts.name, parts.crew.retire(-delta, parts.queue.idle))

    def _sample(self, now: float) -> Sample:
        parts = self._parts
        arrived, finished = parts.figures.progress()
        idle = len(parts.queue.idle.announced)
        samples = self._samples
        samples.append((now, arrived, finished, idle))
        window = max(WINDOW, 2 * self._interval)
        while len(samples) > 2 and samples[1][0] <= now - window:
            samples.popleft()
        since, arrived_then, finished_then, _ = samples[0]
        past = max(now - since, 1e-9)
        workers = parts.crew.staying()
        return Sample(
            arrival_rate=(arrived - arrived_then) / past,
            completion_rate=(finished - finished_then) / past,
            backlog=sum(parts.queue.waiting()),
            workers=workers,
            creating=workers - parts.crew.holding(),
            idle=idle,
            idle_low=min(sample[3] for sample in samples) if past >= window * 0.9 else 0,
        )


def _text(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:  # the user's exceptions may be unable to print themselves
        return type(error).__name__
