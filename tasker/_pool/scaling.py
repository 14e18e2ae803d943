"""When to hire and when to retire workers: a pure function of what the last ticks saw.

Hire. The backlog should be gone in `HORIZON_S` seconds. As long as the workers that are there can do that, at the pace
that one busy worker shows, nobody is hired: tasks that wait for a moment are what a steady load looks like. If they
cannot, (arrival rate + backlog / HORIZON_S) / pace of them are wanted; a pool that shows no pace (nothing has finished
lately: slow tasks, slow creation) doubles instead, and so does one that is stuck, whose pace is that of the past.
Workers being created count, so a slow `on_create` is not answered by hiring again, and never more are hired than tasks
wait.

Retire. Only by the low-water mark of a whole window: workers that were idle at every tick of it, less a margin of half
of those that were not, so that a steady load does not make the pool swing. The base is made of workers that hold a
resource: those being created are not counted on.

Go v1's rule stands beside it: a backlog above `threshold` hires `threshold_hires` at once.

`Window` turns what each tick counts into the sample that `decide` goes by.
"""

from __future__ import annotations

import math
from collections import deque

from tasker._base.record import Record

__all__ = ["Limits", "Sample", "Window", "decide"]

HORIZON_S = 0.5  # seconds in which a backlog should be gone
MARGIN = 1.5  # workers kept for each that was busy: a load of two thirds stays as it is
WINDOW_S = 1.0  # seconds over which rates and the low-water mark of idle workers are taken
PUNCTUAL_S = 0.1  # seconds: a tick after twice that is not late, however short the interval


class Sample(Record):
    """What the last ticks saw."""

    arrival_rate: float
    """Tasks accepted per second, over the window."""
    pace: float
    """Tasks finished per second of a worker's time, failures included, over the window; 0 when that cannot be told."""
    backlog: int
    """Live tasks waiting now."""
    workers: int
    """Workers alive now, those being created included, those told to leave not."""
    creating: int
    """Workers without a resource now."""
    idle: int
    """Workers waiting for a task now."""
    idle_low: int
    """Fewest idle workers at any tick of the window; 0 while the window is not full."""
    stuck: bool = False
    """Whether all workers that hold a resource run tasks that end only if another worker takes what waits."""


class Limits(Record):
    """What scaling must respect."""

    base: int
    most: int
    threshold: int = 0
    """Backlog above which `threshold_hires` are hired at once; 0: off."""
    threshold_hires: int = 0


def decide(sample: Sample, limits: Limits) -> int:
    """How many workers to hire (positive) or to retire (negative), never leaving `base` to `most`."""
    wanted = sample.workers
    holding = sample.workers - sample.creating
    if sample.backlog > 0:
        if sample.idle == 0:
            # all that hold a resource have a task: more than one for each waiting task beside them would be idle
            wanted = max(wanted, min(_needed(sample), holding + sample.backlog))
        if limits.threshold and sample.backlog > limits.threshold:
            wanted = max(wanted, sample.workers + limits.threshold_hires)
    elif sample.idle_low > 0:
        kept = max(limits.base, math.ceil((holding - sample.idle_low) * MARGIN))
        wanted -= max(0, holding - kept)
    return min(max(wanted, limits.base), limits.most) - sample.workers


def _needed(sample: Sample) -> int:
    if sample.pace <= 0 or sample.stuck:
        return sample.workers * 2
    clearing = sample.backlog / HORIZON_S / sample.pace
    return (
        math.ceil(sample.arrival_rate / sample.pace + clearing)
        if clearing > sample.workers
        else sample.workers
    )


class _Tick(Record):
    now: float
    arrived: int
    finished: int
    busy: int
    worked: float  # seconds of all workers together, since the beginning
    idle: int


class Window:
    """What the ticks of the last second counted. For one thread."""

    def __init__(self, interval: float, now: float) -> None:
        self._span = max(WINDOW_S, 2 * interval)
        self._late = 2 * max(interval, PUNCTUAL_S)
        self._was_late = False
        self._ticks = deque([_Tick(now=now, arrived=0, finished=0, busy=0, worked=0.0, idle=0)])

    def tick(
        self,
        now: float,
        *,
        arrived: int,
        finished: int,
        backlog: int,
        workers: int,
        holding: int,
        idle: int,
        stuck: bool = False,
    ) -> Sample | None:
        """The sample to decide by; `None` when it would be a guess.

        A late tick (the machine slept, or was starved) has not seen what it missed: the window begins anew with it.
        Where one comes after another that is how things are, and they count."""
        ticks = self._ticks
        last = ticks[-1]
        late = now - last.now > self._late
        if late and not self._was_late:
            ticks.clear()
        self._was_late = late
        holding = min(holding, workers)  # they were counted at different moments
        idle = min(idle, holding)
        busy = holding - idle
        worked = last.worked + (last.busy + busy) / 2 * (now - last.now)
        ticks.append(
            _Tick(now=now, arrived=arrived, finished=finished, busy=busy, worked=worked, idle=idle)
        )
        while len(ticks) > 2 and ticks[1].now <= now - self._span:
            ticks.popleft()
        first = ticks[0]
        past = now - first.now
        if past <= 0:
            return None
        worked -= first.worked
        # what is under way now is half done, let us say, and so was what was under way then
        done = finished - first.finished + (busy - first.busy) / 2
        return Sample(
            arrival_rate=(arrived - first.arrived) / past,
            pace=max(0.0, done) / worked if worked > 0 else 0.0,
            backlog=backlog,
            workers=workers,
            creating=workers - holding,
            idle=idle,
            idle_low=min(tick.idle for tick in ticks) if past >= self._span * 0.9 else 0,
            stuck=stuck,
        )
