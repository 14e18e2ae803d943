"""When to hire and when to retire workers: a pure function of the last ticks.

Hire. The backlog should be gone in `HORIZON_S` seconds. If the workers that are there
can do that, at the pace that one busy worker shows, none is hired: in a steady load
tasks wait for a moment, too. If they cannot, (arrival rate + backlog / HORIZON_S) /
pace of them are wanted. A pool without a pace doubles instead: nothing has finished
lately, because tasks or the creation are slow. A pool that is stuck doubles as well,
because its pace is that of the past. Workers being created count, so a slow `on_create`
is not answered by hiring again. Never more are hired than tasks wait.

Retire. The low-water mark of a whole window decides: only workers that were idle at
every tick of it are retired. Half as many as the others are kept as a margin, so that a
steady load does not make the pool swing. The base is made of workers that hold a
resource; those being created are not counted on.

The rule of Go v1 stands beside it: a backlog above `threshold` hires `threshold_hires`
at once.

`Sampler` turns the counts of each tick into the sample that `decide` uses.
"""

from __future__ import annotations

import math
from collections import deque

from tasker._base.record import Record

__all__ = ["Limits", "Sample", "Sampler", "decide"]

# The time in which a backlog should be gone. A guess: a wait that a person notices, and
# long against the thread starts that it costs to hire.
HORIZON_S = 0.5

# Workers kept for each that was busy: a load of two thirds stays as it is. A guess.
MARGIN = 1.5

# Rates and the low-water mark of idle workers are taken over so long a time. A guess:
# ten ticks, so that one odd tick does not decide.
WINDOW_S = 1.0

# A tick is late only after twice that, however short the interval is. As long as the
# default interval.
PUNCTUAL_S = 0.1

# The part of a window that ticks must cover for its low-water mark to count: ticks do
# not come at the very moment.
_WHOLE = 0.9


class Sample(Record):
    """The counts of the last ticks."""

    arrival_rate: float
    """Tasks accepted per second, over the window."""
    pace: float
    """Tasks finished per second of a worker's time, failures included, over the window.
    0 when that is unknown."""
    backlog: int
    """Live tasks waiting now."""
    workers: int
    """Workers alive now, with those being created, without those dismissed."""
    creating: int
    """Workers without a resource now."""
    idle: int
    """Workers waiting for a task now."""
    idle_low: int
    """Fewest idle workers at any tick of the window. 0 while the window is not full."""
    stuck: bool = False
    """Whether all workers that hold a resource run tasks that cannot end by themselves:
    another worker must take a waiting task first."""


class Limits(Record):
    """The bounds of scaling."""

    base: int
    most: int
    threshold: int = 0
    """Backlog above which `threshold_hires` are hired at once. 0: off."""
    threshold_hires: int = 0


def decide(sample: Sample, limits: Limits) -> int:
    """How many workers to hire (positive) or to retire (negative).

    The number of workers stays between `base` and `most`."""
    wanted = sample.workers
    holding = sample.workers - sample.creating

    if sample.backlog > 0:
        if sample.idle == 0:
            # All workers with a resource have a task. Beside them one worker for each
            # waiting task is enough: more would be idle.
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
    # Seconds of all workers together, since the beginning.
    worked: float
    idle: int


class Sampler:
    """The counts of the ticks of the last second. For one thread."""

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
        """The sample to decide by. `None` when it would be a guess.

        Before a late tick the machine slept, or was starved, and nothing was counted.
        So the window begins anew with it. Where one late tick follows another the
        machine is simply slow, and they count."""
        ticks = self._ticks
        last = ticks[-1]

        late = now - last.now > self._late
        if late and not self._was_late:
            ticks.clear()
        self._was_late = late

        # They were counted at different moments.
        holding = min(holding, workers)
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
        # Tasks under way count as half done, at both ends of the window.
        done = finished - first.finished + (busy - first.busy) / 2

        return Sample(
            arrival_rate=(arrived - first.arrived) / past,
            pace=max(0.0, done) / worked if worked > 0 else 0.0,
            backlog=backlog,
            workers=workers,
            creating=workers - holding,
            idle=idle,
            idle_low=min(tick.idle for tick in ticks) if past >= self._span * _WHOLE else 0,
            stuck=stuck,
        )
