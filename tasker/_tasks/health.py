"""The two forms of `check_health`, and which of them a function has.

It is called with the error; and with the resource after it, if it cannot be called with the error alone. So a second
parameter that has a default, or `*args`, does not ask for the resource. A decorator's wrapper is asked itself; where it
takes any arguments, what it wraps is asked.
"""

from __future__ import annotations

from collections.abc import Callable

from tasker._base.callables import plainly_takes, signature_of

__all__ = ["takes_resource"]


def takes_resource(check: Callable[..., object]) -> bool:
    """Whether a `check_health` is to be called with the error and the resource.

    One whose signature cannot be read is called with the error alone."""
    if plainly_takes(check, 1):
        return False
    try:
        signature = signature_of(check, follow_wrapped=False)
        if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
            signature = signature_of(check)
    except Exception:  # among others what it raises when it is compared
        return False
    try:
        signature.bind(None)
    except TypeError:
        return True
    return False
