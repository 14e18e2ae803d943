"""Steps that nothing can divide: an object passes from one owner to the next.

At no moment does it have no owner.

An exception may strike a thread from outside: a signal handler raises one in the main
thread, or another thread sends one by `PyThreadState_SetAsyncExc`. CPython looks for
them when a call of a C function has returned. So in `x = give()` the result may be lost
before it has a name. Each function here is one call of a C function, which makes the
other calls itself: the result has its new owner before CPython looks (R2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice, repeat
from operator import call
from typing import TypeVar

__all__ = ["do_both", "hand_on", "move_all", "set_from"]

T = TypeVar("T")


def set_from(holder: object, name: str, give: Callable[[], object]) -> None:
    """`setattr(holder, name, give())`."""
    next(map(setattr, repeat(holder), repeat(name), map(call, repeat(give))))


def hand_on(give: Callable[[], T], take: Callable[[T], object]) -> object:
    """`take(give())`."""
    return next(map(take, map(call, repeat(give))))


def do_both(first: Callable[[], object], second: Callable[[], object]) -> None:
    """`first(); second()`. If the first raises, the second is not called."""
    deque(map(call, (first, second)), maxlen=0)


def move_all(things: list[T], into: deque[T]) -> None:
    """Empty a list into a deque, in order.

    Afterwards the deque alone refers to the items, and the calling thread does not."""
    things.reverse()
    into.extend(islice(map(call, repeat(things.pop)), len(things)))
