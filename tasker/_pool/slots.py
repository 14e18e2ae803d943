"""`Slots`: the numbers of a manager's living resources (I12).

A slot has an owner: the worker that makes and uses the resource, or a loan of
`run_task`. The slot is stored in its owner first, and then its index is marked as
taken. To free it is the same backwards. So whatever strikes a thread, and wherever, a
taken index has an owner, and the code that destroys what the owner has frees it. To
free what is free already does nothing.

`_lock` guards the list. No code of the user's runs under it (I7). It is reentrant: a
signal handler may call `run_task` while its thread takes a slot.
"""

from __future__ import annotations

from typing import Protocol

from tasker._sync.locks import new_lock
from tasker.slot import Reason, Slot

__all__ = ["Owner", "Slots"]


class Owner(Protocol):
    """A worker or a loan, as seen from here."""

    slot: Slot | None
    """The slot of the resource that it makes, has or destroys."""


class Slots:
    """Hands out the smallest free index."""

    def __init__(self) -> None:
        self._lock = new_lock()
        # For each index the slot that has it. If it is free, the generation of its next
        # resource.
        self._entries: list[Slot | int] = []

    def take(self, owner: Owner, worker: str, reason: Reason) -> Slot:
        """Give a slot to an owner, which has none."""
        slot: Slot | None = None
        with self._lock:
            while slot is None:
                slot = self._try(owner, worker, reason)

        return slot

    def _try(self, owner: Owner, worker: str, reason: Reason) -> Slot | None:
        """As `take`. `None`: a signal handler has taken the index meanwhile."""
        index, generation = self._smallest()
        slot = _new_slot(index, worker, generation, reason)

        # One step to the end (R2).
        if self._entries[index] is not generation:
            return None
        owner.slot = slot
        self._entries[index] = slot
        return slot

    def free(self, owner: Owner, *, unused: bool = False) -> None:
        """Take the slot from its owner, if it has one.

        `unused`: no resource was made in it."""
        with self._lock:
            # One step (R2). If its `take` was struck, the slot may have no entry.
            slot = owner.slot
            if slot is not None and self._entries[slot.index] is slot:
                self._entries[slot.index] = slot.generation + (not unused)
            owner.slot = None

    def _smallest(self) -> tuple[int, int]:
        """The smallest free index, and the generation of its next resource."""
        for index, entry in enumerate(self._entries):
            if isinstance(entry, int):
                return index, entry

        first = 0
        self._entries.append(first)
        return len(self._entries) - 1, first


def _new_slot(index: int, worker: str, generation: int, reason: Reason) -> Slot:
    """As `Slot(...)`, at a third of the price: a `run_task` may make one each time."""
    slot = Slot.__new__(Slot)
    vars(slot).update(index=index, worker=worker, generation=generation, reason=reason)

    return slot
