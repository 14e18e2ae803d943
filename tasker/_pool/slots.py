"""`Slots`: the numbers of a manager's living resources (I12).

A slot has an owner: the worker that makes and uses the resource, or a loan of
`run_task`. To take one is to mark its index as taken and to store it in its owner, in
one step (R2). To free one is the same step backwards. So whatever strikes a thread, a
taken index has an owner, and the code that destroys what the owner has frees it. To
free what is free already does nothing.

`_lock` guards `_next`. No code of the user's runs under it (I7). It is reentrant: a
signal handler may call `run_task` while its thread takes a slot.
"""

from __future__ import annotations

from typing import Protocol

from tasker._sync.locks import new_lock
from tasker.slot import Reason, Slot

__all__ = ["Owner", "Slots"]

_TAKEN = -1


class Owner(Protocol):
    """A worker or a loan, as seen from here."""

    slot: Slot | None
    """The slot of the resource that it makes, has or destroys."""


class Slots:
    """Hands out the smallest free index."""

    def __init__(self) -> None:
        self._lock = new_lock()
        # For each index the generation of its next resource, or `_TAKEN`.
        self._next: list[int] = []

    def take(self, owner: Owner, worker: str, reason: Reason) -> Slot:
        """Give a slot to an owner, which has none."""
        with self._lock:
            while True:
                index, generation = self._smallest()
                slot = _new_slot(index, worker, generation, reason)

                # A signal handler may have taken this one meanwhile.
                if self._next[index] == generation:
                    # One step to the end (R2).
                    self._next[index] = _TAKEN
                    owner.slot = slot
                    return slot

    def free(self, owner: Owner, *, unused: bool = False) -> None:
        """Take the slot from its owner, if it has one.

        `unused`: no resource was made in it."""
        with self._lock:
            # One step to the end (R2).
            slot = owner.slot
            if slot is not None:
                self._next[slot.index] = slot.generation if unused else slot.generation + 1
                owner.slot = None

    def _smallest(self) -> tuple[int, int]:
        """The smallest free index, and the generation of its next resource."""
        for index, generation in enumerate(self._next):
            if generation != _TAKEN:
                return index, generation

        self._next.append(0)
        return len(self._next) - 1, 0


def _new_slot(index: int, worker: str, generation: int, reason: Reason) -> Slot:
    """As `Slot(...)`, at a third of the price: a `run_task` may make one each time."""
    slot = Slot.__new__(Slot)
    vars(slot).update(index=index, worker=worker, generation=generation, reason=reason)

    return slot
