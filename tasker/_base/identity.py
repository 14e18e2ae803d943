"""`ByIdentity`: a memory of other people's objects that keeps none of them alive."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

__all__ = ["ByIdentity"]

V = TypeVar("V")


class ByIdentity(Generic[V]):
    """What is known of objects, as long as they live. Found by identity: `==` and `hash()` may be the user's.

    Nothing that is kept here may refer to its object. May be used by all threads, and at any moment: it has no lock."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], V]] = {}

    def get(self, thing: object) -> V | None:
        """What is known of it; `None`: nothing."""
        entry = self._known.get(id(thing))
        return entry[1] if entry is not None and entry[0]() is thing else None

    def put(self, thing: object, what: V) -> None:
        """Raises `TypeError` for what can have no weak reference."""
        known, key = self._known, id(thing)

        def forget(reference: weakref.ref[Any]) -> None:
            entry = known.get(key)
            if (
                entry is not None and entry[0] is reference
            ):  # not another object's, at the same address
                known.pop(key, None)

        known[key] = weakref.ref(thing, forget), what
