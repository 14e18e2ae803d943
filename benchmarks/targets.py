"""What each figure is to reach, on which Python."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

__all__ = ["Build", "Target", "on_3_11", "round_trip_target", "submit_target", "this_build"]


@dataclass(frozen=True)
class Build:
    """What the targets depend on."""

    minor: int
    free_threaded: bool = False


def this_build() -> Build:
    """The running interpreter."""
    return Build(sys.version_info.minor, not getattr(sys, "_is_gil_enabled", lambda: True)())


@dataclass(frozen=True)
class Target:
    """A bound for the ratio, or for tasker's own median (`of`); `goal` is the better value to aim at, if any."""

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
    """The target, where it is set for CPython 3.11 alone."""
    return target if build.minor <= 11 else None


def submit_target(build: Build) -> Target:
    """Submit all, gather all: how many times ThreadPoolExecutor's throughput."""
    if build.free_threaded:
        return Target("at least", 3)
    if build.minor <= 11:
        return Target("at least", 6, goal=8)
    return Target("at least", 5 if build.minor == 12 else 4)


def round_trip_target(build: Build) -> Target:
    """Time above two bare lock hand-overs, as a share of ThreadPoolExecutor's."""
    return Target("at most", 0.75 if build.minor <= 11 else 1.0, goal=0.5)
