"""The two forms of a hook, and how to know which of them a function has.

`check_health` is called with the error, or with the error and the resource. `on_create`
is called with nothing, or with the slot. A function gets the longer form only if it
cannot be called with the shorter one. So another parameter that has a default, or
`*args`, does not ask for the longer one. Of a decorator's wrapper the own parameters
count. If these are any arguments, those of the function that it wraps count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasker._base.callables import check_callable, plainly_takes, signature_of

__all__ = ["check_maker", "takes_resource", "takes_slot"]


def takes_resource(check: Callable[..., object]) -> bool:
    """Whether a `check_health` is to be called with the error and the resource."""
    return _needs_more(check, 1)


def takes_slot(create: Callable[..., object]) -> bool:
    """Whether an `on_create`, or what makes a context manager, is to get the slot."""
    return _needs_more(create, 0)


def check_maker(name: str, make: Any, *, error: type[Exception] = TypeError) -> bool:
    """Whether what makes resources is to get the slot.

    Raises `error` if it can be called neither without arguments nor with a slot."""
    with_slot = callable(make) and takes_slot(make)
    check_callable(
        name,
        make,
        int(with_slot),
        given="no arguments, or with a Slot",
        thorough=True,
        error=error,
    )
    return with_slot


def _needs_more(hook: Callable[..., object], given: int) -> bool:
    """Whether a hook cannot be called with so many arguments.

    If its signature cannot be read, it can."""
    if plainly_takes(hook, given):
        return False

    try:
        signature = signature_of(hook, follow_wrapped=False)
        if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
            signature = signature_of(hook)
    except Exception:
        # It may also be one that the hook raises when it is compared.
        return False

    try:
        signature.bind(*[None] * given)
    except TypeError:
        return True

    return False
