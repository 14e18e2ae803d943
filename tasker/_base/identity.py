"""`ByIdentity`: a memory of other people's objects that keeps none of them alive."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

__all__ = ["ByIdentity"]

V = TypeVar("V")


class ByIdentity(Generic[V]):
    """Values about objects, each kept as long as its object lives.

    An object is found by its identity, as its `==` and `hash()` may be the user's. No
    value may refer to its object. Any thread may use it at any moment: it has no
    lock."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], V]] = {}

    def get(self, thing: object) -> V | None:
        """The value about an object; `None` if there is none."""
        entry = self._known.get(id(thing))
        return entry[1] if entry is not None and entry[0]() is thing else None

    def put(self, thing: object, what: V) -> None:
        """Keep a value about an object.

        Raises `TypeError` for an object that can have no weak reference."""
        known, key = self._known, id(thing)

        def forget(reference: weakref.ref[Any]) -> None:
            entry = known.get(key)
            # The entry may be that of another object by now, at the same address.
            if entry is not None and entry[0] is reference:
                known.pop(key, None)

        known[key] = weakref.ref(thing, forget), what
