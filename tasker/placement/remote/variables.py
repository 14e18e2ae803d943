"""Context variables on their way to another process.

A `ContextVar` cannot be pickled. But most are made at the top level of a module, so the
name of the module and the name in it tell the other side which one is meant.

Some stay behind: one that is not at the top level of a module, one of `__main__`, and
one whose value cannot be pickled. So does the variable in which `warnings` keeps its
state from CPython 3.14 on, if it is told to (`-X context_aware_warnings=1`). The other
side has filters of its own, and what it adds to a list of recorded warnings would never
come back.
"""

from __future__ import annotations

import contextvars
import pickle
import sys
from importlib import import_module
from typing import Any

__all__ = ["Variables", "pack_variables", "set_variables"]

# Each one's module, name there, and pickled value.
Variables = tuple[tuple[str, str, bytes], ...]

# Their variables stay. `multiprocessing` has another name for `__main__`.
_STAYING = ("__main__", "__mp_main__", "warnings", "_warnings", "_py_warnings")
# Where each variable was found, if it was. They live as long as modules, so it stays.
_places: dict[contextvars.ContextVar[Any], tuple[str, str] | None] = {}


def pack_variables() -> Variables:
    """Those variables of the calling code that can be sent."""
    context = contextvars.copy_context()
    if not context:
        return ()

    packed: list[tuple[str, str, bytes]] = []
    for variable, value in context.items():
        if variable not in _places:
            _places[variable] = _find(variable)
        place = _places[variable]
        if place is not None:
            try:
                packed.append((*place, pickle.dumps(value, 5)))
            except Exception:
                # It stays behind.
                continue

    return tuple(packed)


def set_variables(variables: Variables) -> None:
    """Set them in the current context.

    One that does not exist here, or cannot be unpickled, stays unset."""
    for module, name, value in variables:
        try:
            variable = getattr(import_module(module), name)
            variable.set(pickle.loads(value))
        except Exception:
            # It is left out, as on the way here.
            continue


def _find(variable: contextvars.ContextVar[Any]) -> tuple[str, str] | None:
    for name, module in list(sys.modules.items()):
        if name in _STAYING:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return name, attribute

    return None
