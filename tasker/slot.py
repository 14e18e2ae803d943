"""`Slot`: which of a manager's resources one is, and why it was made."""

from __future__ import annotations

from enum import StrEnum

from tasker._base.record import Record

__all__ = ["Reason", "Slot"]


class Reason(StrEnum):
    """Why a resource is made."""

    HIRED = "hired"
    """Another worker was hired."""
    CALL = "call"
    """A `run_task` found no idle resource, or the pool of `run_task` is filled."""
    BROKEN = "broken"
    """`check_health`, or a failing `on_reset`, called the last one broken."""
    CHECK = "check"
    """The last one did not pass its `on_check`."""
    LOST = "lost"
    """The child process or actor of the last one is gone."""
    SUSPECT = "suspect"
    """Others broke within a second, and nothing showed that the last one was well."""
    OUTLIER = "outlier"
    """Tasks failed on the last one that succeed on others (`eject_after`)."""


class Slot(Record):
    """The place of one resource among those of its manager.

    A model takes its GPU by it, a browser its port and its profile directory."""

    index: int
    """The smallest number, from 0, that no other living resource of the manager has.

    It is free again when `on_destroy` has returned, or the process or actor is gone.
    The resources of `run_task` have one, too."""
    worker: str
    """The name of the worker that makes it; for `run_task` that of the calling
    thread."""
    generation: int = 0
    """How many resources were there before in this slot."""
    reason: Reason = Reason.HIRED
    """Why it is made."""
