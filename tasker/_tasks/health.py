"""The two forms of `check_health`, and how to know which of them a function has.

It is called with the error alone, if it can be. Otherwise it is called with the error
and the resource. So a second parameter that has a default, or `*args`, does not ask for
the resource. Of a decorator's wrapper the own parameters count. If these are any
arguments, those of the function that it wraps count.
"""

from __future__ import annotations

from collections.abc import Callable

from tasker._base.callables import plainly_takes, signature_of

__all__ = ["takes_resource"]


def takes_resource(check: Callable[..., object]) -> bool:
    """Whether a `check_health` is to be called with the error and the resource.

    If its signature cannot be read, it is called with the error alone."""
    if plainly_takes(check, 1):
        return False

    try:
        signature = signature_of(check, follow_wrapped=False)
        if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
            signature = signature_of(check)
    except Exception:
        # It may also be one that `check` raises when it is compared.
        return False

    try:
        signature.bind(None)
    except TypeError:
        return True

    return False
