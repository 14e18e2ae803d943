"""When to hire and when to retire workers: a pure function of what the last ticks saw.

Hire. The backlog should be gone in `HORIZON` seconds beside what arrives meanwhile. At the pace one busy worker shows,
that takes (arrival rate + backlog / HORIZON) / pace workers; a pool that shows no pace yet (nothing has finished
lately: slow tasks, slow creation) doubles instead. Workers being created count, so a slow `on_create` is not answered
by hiring again, and never more are hired than tasks wait.

Retire. Only by the low-water mark of a whole window: workers that were idle at every tick of it, less a margin of half
of those that were not, so that a steady load does not make the pool swing.

Go v1's rule stands beside it: a backlog above `threshold` hires `threshold_hires` at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Limits", "Sample", "decide"]

HORIZON = 0.5  # seconds in which a backlog should be gone
MARGIN = 1.5  # workers kept for each that was busy: a load of two thirds stays as it is


@dataclass(frozen=True, slots=True)
class Sample:
    """What the last ticks saw."""

    arrival_rate: float
    """Tasks accepted per second, over the window."""
    completion_rate: float
    """Tasks finished per second, failures included, over the window."""
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


@dataclass(frozen=True, slots=True)
class Limits:
    """What scaling must respect."""

    base: int
    most: int
    threshold: int = 0
    """Backlog above which `threshold_hires` are hired at once; 0: off."""
    threshold_hires: int = 0


def decide(sample: Sample, limits: Limits) -> int:
    """How many workers to hire (positive) or to retire (negative), never leaving `base` to `most`."""
    wanted = sample.workers
    if sample.backlog > 0:
        if sample.idle == 0:
            wanted = max(wanted, _needed(sample))
        if limits.threshold and sample.backlog > limits.threshold:
            wanted = max(wanted, sample.workers + limits.threshold_hires)
    elif sample.idle_low > 0:
        busy = sample.workers - sample.creating - sample.idle_low
        wanted = min(wanted, math.ceil(busy * MARGIN) + sample.creating)
    return min(max(wanted, limits.base), limits.most) - sample.workers


def _needed(sample: Sample) -> int:
    busy = sample.workers - sample.creating
    if sample.completion_rate > 0 and busy > 0:
        pace = sample.completion_rate / busy
        wanted = math.ceil((sample.arrival_rate + sample.backlog / HORIZON) / pace)
    else:
        wanted = sample.workers * 2
    return min(wanted, sample.workers + sample.backlog)  # one more than there are tasks waiting would be idle
