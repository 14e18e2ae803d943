"""Interleaved rounds, and the statistics of their samples.

These are medians, quartiles, and ratios round by round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

__all__ = ["Sampler", "Spread", "interleave", "ratios", "seconds", "spread", "spreads"]

Sampler = Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Return the median and quartiles, or the extremes of fewer than four samples."""
    if len(samples) < 4:
        return Spread(median(samples), min(samples), max(samples))

    low, _, high = quantiles(samples, n=4, method="inclusive")
    return Spread(median(samples), low, high)


def spreads(samples: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """Return the spread of each, by name."""
    return {name: spread(values) for name, values in samples.items()}


def ratios(
    above: Sequence[float], below: Sequence[float], less: Sequence[float] | None = None
) -> list[float]:
    """Return `above / below` of each round, after taking off `less` from both.

    The machine's speed drifts from round to round. It is in both and cancels out. A
    round in which nothing is left below has no ratio and is left out.
    """
    base = [0.0] * len(above) if less is None else less
    rounds = zip(above, below, base, strict=True)
    return [(one - off) / (other - off) for one, other, off in rounds if other > off]


def interleave(
    samplers: Mapping[str, Sampler], rounds: int, *, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Take one sample of each in every round, beginning with another one each time.

    `warm_ups` rounds are thrown away.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    names = list(samplers)

    for number in range(-warm_ups, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            # The garbage of one must not be collected in the time of another.
            gc.collect()
            value = samplers[name]()
            if number >= 0:
                samples[name].append(value)

    return samples


def seconds(action: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
