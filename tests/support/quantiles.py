"""Quantiles by their definition."""

from __future__ import annotations

import math
from fractions import Fraction


def nearest_rank(samples, q):
    """The definition, in exact arithmetic; `q` as text, because 0.95 is no float."""
    ordered = sorted(samples)
    return ordered[max(1, math.ceil(Fraction(q) * len(ordered))) - 1]
