"""`Room`: a bounded number of seats, and the line of those that wait for one.

The seats are those of a bounded queue, or the turns in `run_task`.

    new --there is room and no line--> has a seat
      '--> in the line --a seat is freed, it is first--> called --it comes--> has a seat
               '--timeout, closing, Ctrl-C, cancellation--> gone <--'

A seat is handed over. A seat that is freed belongs to the first in the line from that
moment on, before the first is awake. A newcomer takes a seat only when there is no
line. So all are served in the order in which they came, and none is overtaken. One that
is called and leaves gives its seat to the next.

Threads and coroutines stand in the same line. A thread's place in it is a `Parker`, a
coroutine's is what it awaits. A thread that is called comes. A coroutine comes when its
loop runs, which may be never. So when one has not come for `ABSENT_S` seconds, its seat
goes to the next, and all coroutines of its loop leave the line. They line up again when
the loop runs.

A place stays in the line until it is called, and called until it comes or leaves. So
the burst thread's tick does what a Ctrl-C leaves undone in between: a seat was freed
and not given away, or a wake-up was not sent.

`_lock` is held while a seat is given away or taken, for a few lines. The wake-ups come
after it. A thread that frees a seat does so first, then looks at the line. A thread
that lines up does so first, then looks for a seat (R1). The lock is reentrant: a signal
handler may come between any two of those lines, and do all of this itself. The worst
that comes of it is a seat too many for a moment.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from tasker._sync.clock import monotonic
from tasker._sync.locks import holds, new_lock
from tasker._sync.parking import Parker

__all__ = ["Room"]

# A loop that was called and has not come for so long is taken for one that does not
# run. A guess: a loop that is busy for longer loses its coroutines' places, and nothing
# else.
ABSENT_S = 0.5

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


class Place(Protocol):
    """A thread's or a coroutine's place in the line."""

    @property
    def loop(self) -> object:
        """The loop that must run if the coroutine is to come; `None` for a thread."""
        ...

    def wake(self) -> None:
        """Make it look whether it is called.

        From any thread, and as often as one likes."""


class Room(Generic[H]):
    """`capacity` seats, each held by a task that waits in the queue, say.

    Holders are compared by identity."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

        # Once closed, no seat is given any more, and none waits for one.
        self.closed = False

        # A set, so that freeing a seat twice frees one.
        self._holders: set[H] = set()

        self._line: deque[Place] = deque()

        # Those that have a seat and have not come yet, and since when they have it.
        self._called: dict[Place, float] = {}

        # By thread, the place of the coroutine for which it submits, whose turn it is.
        self._turns: dict[int, Place] = {}
        self._lock: Any = new_lock()

    def enter(self, task: H, timeout: float | None, parker: Parker | None = None) -> bool:
        """Get the task a seat, or find the room closed.

        Blocks for at most `timeout` seconds (`None`: as long as it takes). `False` when
        there was no room by then, or when others woke the `parker` on which to wait."""
        if self.closed or self._take(task, self._turns.get(threading.get_ident())):
            return True

        # A signal handler that has interrupted this very thread while it held the lock
        # would wait for ever.
        if timeout == 0 or holds(self._lock):
            return False

        deadline = None if timeout is None else monotonic() + timeout
        place, came = parker or Parker(), False

        try:
            self.line_up(place)
            came = self._wait(task, place, deadline, given=parker is not None)
            return came or self.closed
        finally:
            if not came:
                try:
                    self.give_up(place)
                except BaseException:
                    # Ctrl-C in the middle of it.
                    self.give_up(place)
                    raise

    def leave(self, task: H) -> None:
        """Free the seat of a task, if it has one.

        The task was taken from the queue, was settled, or was not put there after
        all."""
        try:
            self._holders.remove(task)
        except KeyError:
            return

        if self._line:
            self._call_next()

    # -- the line ----------------------------------------------------------------------

    def line_up(self, place: Place) -> None:
        """Stand in the line.

        The place is woken when it is called and when the room closes, perhaps now."""
        with self._lock:
            self._line.append(place)

        if self.closed:
            place.wake()
        else:
            self._call_next()

    def give_up(self, place: Place) -> None:
        """Leave the line, called or not; harmless for one that is not there."""
        with self._lock:
            self._unlist(place)
            self._called.pop(place, None)

        if self._line:
            self._call_next()

    def in_turn(self, place: Place, submit: Callable[[], T]) -> T:
        """Call `submit`, which submits in this thread, and return its result.

        If `place` is called, its seat is for that task."""
        me = threading.get_ident()
        self._turns[me] = place
        try:
            return submit()
        finally:
            self._turns.pop(me, None)
            if place in self._called:
                self.give_up(place)

    def heal(self) -> None:
        """Give free seats away, and wake once more those that are called.

        Once the room is closed, wake all. Called by the burst thread's tick, and when
        the closing begins."""
        if not self.is_wanted():
            return

        with self._lock:
            woken = self._dismiss_absent()
            self._call()
            woken += self._called
            if self.closed:
                woken += self._line
                self._line.clear()

        for place in woken:
            place.wake()

    def is_wanted(self) -> bool:
        """Whether any wait for a seat, or were called and have not come yet."""
        return bool(self._line or self._called)

    def may_enter(self) -> bool:
        """Whether there is a free seat, or one on its way to the place that was called.

        Also `True` once the room is closed, as then none has to wait."""
        return self.closed or bool(self._called) or self._has_seat()

    def holders(self) -> set[H]:
        """Those that have a seat now."""
        return self._holders.copy()

    def used(self) -> int:
        """Seats that are taken, or given to those that are called."""
        return len(self._holders) + len(self._called)

    def __str__(self) -> str:
        return f"{self.used()} of {self.capacity} waiting"

    # -- the pieces --------------------------------------------------------------------

    def _wait(self, task: H, parker: Parker, deadline: float | None, *, given: bool) -> bool:
        """Sleep until the place is called.

        `False`: the deadline has passed, the room is closed, or others woke the
        parker."""
        woken = False
        while not self._take(task, parker):
            left = -1.0 if deadline is None else min(deadline - monotonic(), threading.TIMEOUT_MAX)
            if self.closed or (given and woken) or (deadline is not None and left <= 0):
                return False

            woken = parker.sleep(left)
        return True

    def _take(self, task: H, place: Place | None) -> bool:
        """Take the seat for which `place` was called, or a free one if no line
        stands."""
        with self._lock:
            if place in self._called:
                self._called.pop(place, None)
                self._holders.add(task)
                return True

            if not self._line and self._has_seat():
                self._holders.add(task)
                return True

            return False

    def _call_next(self) -> None:
        with self._lock:
            called = self._call()

        for place in called:
            place.wake()

    def _call(self) -> list[Place]:
        """With the lock: give the free seats to the first in the line.

        The caller is to wake them."""
        called: list[Place] = []
        with contextlib.suppress(IndexError):
            while self._has_seat():
                place = self._line[0]
                self._called[place] = monotonic()
                called.append(place)

                # Unlisted last: one that is interrupted here is called twice, and not
                # forgotten.
                self._unlist(place)

        return called

    def _unlist(self, place: Place) -> None:
        with contextlib.suppress(ValueError):
            self._line.remove(place)

    def _has_seat(self) -> bool:
        return self.used() < self.capacity

    def _dismiss_absent(self) -> list[Place]:
        """With the lock: take the coroutines of loops that do not run out of the line.

        The caller is to wake them."""
        late = monotonic() - ABSENT_S
        loops = [
            place.loop
            for place, since in self._called.items()
            if since < late and place.loop is not None
        ]
        absent = (
            [place for place in (*self._called, *self._line) if place.loop in loops]
            if loops
            else []
        )

        for place in absent:
            self._unlist(place)
            self._called.pop(place, None)

        return absent
