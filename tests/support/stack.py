"""Calls near the recursion limit."""

from __future__ import annotations


def room() -> int:
    """How many more calls there is room for on the stack."""

    def deeper(depth):
        try:
            return deeper(depth + 1)
        except RecursionError:
            return depth

    return deeper(0)


def at_depth(depth, call):
    return at_depth(depth - 1, call) if depth else call()
