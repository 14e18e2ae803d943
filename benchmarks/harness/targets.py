"""The targets of figures, where they depend on the Python."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

__all__ = ["Build", "Target", "both_forms_target", "on_3_11", "this_build"]


# The floor and the goal by CPython's minor version: how many times as fast as
# ThreadPoolExecutor tasker is to be.
FLOORS: dict[str, dict[int, tuple[float, float]]] = {
    "submit-1": {11: (5.5, 7), 14: (3.6, 5), 15: (3.6, 5)},
    "submit-4": {11: (5.0, 7), 14: (3.4, 5), 15: (3.4, 5)},
    "round-trip-1": {11: (1.6, 2), 14: (1.25, 2), 15: (1.25, 2)},
    "round-trip-4": {11: (1.5, 2), 14: (1.2, 2), 15: (1.2, 2)},
    "callers-8": {11: (1.35, 1.8), 14: (1.3, 1.8), 15: (1.3, 1.8)},
}


@dataclass(frozen=True)
class Build:
    """The properties of a Python on which targets depend."""

    minor: int
    free_threaded: bool = False


def this_build() -> Build:
    """Return the properties of the running interpreter."""
    return Build(sys.version_info.minor, not getattr(sys, "_is_gil_enabled", lambda: True)())


@dataclass(frozen=True)
class Target:
    """A bound for the ratio, or for tasker's own median (`of`).

    `goal` is the better value to aim at, if any.
    """

    relation: Literal["at least", "at most", "below"]
    value: float
    unit: str = ""
    goal: float | None = None
    of: Literal["ratio", "tasker"] = "ratio"

    def is_met_by(self, value: float) -> bool:
        """Whether a figure reaches it."""
        if self.relation == "at least":
            return value >= self.value
        return value <= self.value if self.relation == "at most" else value < self.value

    def __str__(self) -> str:
        goal = "" if self.goal is None else f" (goal {self.goal:g})"
        return f"{self.relation} {self.value:g}{' ' if self.unit else ''}{self.unit}{goal}"


def on_3_11(build: Build, target: Target) -> Target | None:
    """Return a target that is set for CPython 3.11 alone."""
    return target if build.minor <= 11 else None


def both_forms_target(row: str, build: Build) -> Target | None:
    """Return the target of a row in both forms, with the context and without.

    `None` for a Python that has no floor.
    """
    if build.free_threaded or build.minor not in FLOORS[row]:
        return None

    floor, goal = FLOORS[row][build.minor]
    return Target("at least", floor, goal=goal)
