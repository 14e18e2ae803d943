"""Context variables on their way to another process: by the name of the module that holds the variable.

A `ContextVar` cannot be pickled, but most are made at the top level of a module, where the other side finds its own.
One that is not, one of `__main__`, and one whose value cannot be pickled stay behind. So does what `warnings` keeps in
one from CPython 3.14 on, if it is asked to (`-X context_aware_warnings=1`): the other side has filters of its own, and
what it would add to a list of recorded warnings would be lost.
"""

from __future__ import annotations

import contextvars
import pickle
import sys
from importlib import import_module
from typing import Any

__all__ = ["Variables", "pack_variables", "set_variables"]

Variables = tuple[tuple[str, str, bytes], ...]  # module, name there, value

# multiprocessing has another name for `__main__`
_APART = ("__main__", "__mp_main__", "warnings", "_warnings", "_py_warnings")
_places: dict[
    contextvars.ContextVar[Any], tuple[str, str] | None
] = {}  # where each was found; such variables stay


def pack_variables() -> Variables:
    """The calling code's variables, those that can be sent."""
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
            except Exception:  # it stays behind
                continue
    return tuple(packed)


def set_variables(variables: Variables) -> None:
    """Set them in the current context; what does not exist here, or cannot be unpickled, stays unset."""
    for module, name, value in variables:
        try:
            variable = getattr(import_module(module), name)
            variable.set(pickle.loads(value))
        except Exception:  # as on the way here
            continue


def _find(variable: contextvars.ContextVar[Any]) -> tuple[str, str] | None:
    for name, module in list(sys.modules.items()):
        if name in _APART:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return name, attribute
    return None
