"""A bounded sorted reservoir.

It gives exact quantiles of the newest `capacity` samples, in bounded memory and
time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from sortedcontainers import SortedList

__all__ = ["Reservoir"]


class Reservoir:
    """The newest `capacity` samples, kept in order of age and in order of size.

    Quantile rule: *nearest rank*. The q-quantile of n samples is the ceil(q * n)-th
    smallest (at least the first), so it is always a sample that was seen. The 95th
    percentile of one sample is that sample, of two the larger, of ten the largest, of
    10,000 the 9,500th smallest.

    Not thread-safe: its owner locks."""

    __slots__ = ("_by_age", "_by_size", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity: int = capacity
        self._by_age: deque[float] = deque(maxlen=capacity)
        self._by_size: SortedList[float] = SortedList()

    def __len__(self) -> int:
        return len(self._by_age)

    def extend(self, samples: Sequence[float]) -> None:
        """Add samples, oldest first. The oldest of all make room.

        Costs at most one sort of `capacity` samples."""
        samples = samples[-self.capacity :]

        # To sort afresh is cheaper than many insertions; the factor is a guess. It also
        # mends a change that Ctrl-C left half done: the two lengths differ then.
        if len(samples) * 4 > len(self._by_age) or len(self._by_size) != len(self._by_age):
            self._by_size = SortedList()
            self._by_age.extend(samples)
            self._by_size = SortedList(self._by_age)
            return

        for sample in samples:
            if len(self._by_age) == self.capacity:
                self._by_size.remove(self._by_age[0])
            self._by_age.append(sample)
            self._by_size.add(sample)

    def quantile(self, q: float) -> float:
        """The q-quantile, 0 <= q <= 1, by nearest rank. 0.0 if there are no samples."""
        count = len(self._by_size)
        if count == 0:
            return 0.0

        # The product is rounded first: it may come out as 19.000000000000004, whose
        # rank is 19.
        return self._by_size[max(1, math.ceil(round(q * count, 9))) - 1]
