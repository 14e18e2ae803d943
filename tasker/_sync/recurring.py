"""`Faults`: how seldom a fault is told that comes again and again.

    first: told --> in a row: after 10 s, 1 min, 10 min told with the count --> it has not come for SETTLED: over, told

A *kind* of fault has one row, however many threads meet it. A kind that is `held` is over when whoever holds it says so
as well: an outage is not over because each attempt of a worker takes a minute to fail.

Nothing of a fault is kept here but numbers. `_lock` guards the rows; it is held for a few lines, and nothing is logged
under it. Times are those of the real clock, whatever clock deadlines go by.
"""

from __future__ import annotations

from collections.abc import Callable

from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock
from tasker.errors import origin_of

__all__ = ["OUTAGE", "Faults", "Row", "kind_of"]

INTERVALS = 10.0, 60.0, 600.0  # seconds between two that are told; the last one stays
SETTLED = (
    10.0  # seconds without one after which a row is over: workers that fail pause for up to 5 s
)
OUTAGE = "outage"  # the kind: workers cannot have resources
KINDS = 100  # of which the rows are kept; the oldest give way


class Row:
    """One kind of fault, since it began."""

    def __init__(
        self,
        msg: str,
        args: tuple[object, ...],
        now: float,
        *,
        held: bool = False,
        before: Row | None = None,
    ) -> None:
        self.msg = msg
        self.args = args
        self.held = held
        self.count: int = 0
        # those of the row before, if the end of that was not told
        self.untold: int = before.untold if before else 0
        self.began: float = now
        self.last: float = now
        self._told = 0  # how often
        self._told_at: float = before._told_at if before else now
        self._next = now

    def came(self, now: float) -> str | None:
        """One more. Returns `None` if it is not to be told, else what to say of those that were not."""
        self.last = now
        self.count += 1
        self.untold += 1
        if now < self._next:
            return None
        untold, seconds = self.untold, now - self._told_at
        self._next = now + INTERVALS[min(self._told, len(INTERVALS) - 1)]
        self._told += 1
        self._told_at, self.untold = now, 0
        return f" ({untold} times in {shown(seconds)})" if untold > 1 else ""

    @property
    def lasted(self) -> str:
        """From the first to the last one."""
        return shown(self.last - self.began)


class Faults:
    """The rows of one manager, or of what belongs to none."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._rows: dict[str, Row] = {}

    def came(
        self, kind: str, msg: str = "", args: tuple[object, ...] = (), *, held: bool = False
    ) -> str | None:
        """A fault has come; see `Row.came`. `msg % args` says what it is, and is kept."""
        now = monotonic()
        with self._lock:
            row = self._rows.get(kind)
            if row is None or (now - row.last >= SETTLED and not row.held):
                row = self._rows[kind] = Row(msg, args, now, held=held, before=row)
                if len(self._rows) > KINDS:
                    del self._rows[next(iter(self._rows))]
            return row.came(now)

    def any(self) -> bool:
        """Whether any row is not over."""
        return bool(self._rows)

    def over(self, *, whole: bool) -> list[Row]:
        """Take out the rows that are over, those that are held only if all is `whole`."""
        if not self._rows:
            return []
        now = monotonic()
        return self._take_out(lambda row: now - row.last >= SETTLED and (whole or not row.held))

    def all(self) -> list[Row]:
        """Take out all rows."""
        return self._take_out(lambda row: True)

    def _take_out(self, wanted: Callable[[Row], bool]) -> list[Row]:
        with self._lock:
            kinds = [kind for kind, row in self._rows.items() if wanted(row)]
            return [self._rows.pop(kind) for kind in kinds]


def kind_of(callback: object) -> str:
    """The kind of fault that it is when a callback raises: the same for one function however often it is made."""
    return f"callback {origin_of(callback)}"


def shown(seconds: float) -> str:
    """As people say it: 0.3 s, 42 s, 15 min, 3 h."""
    if seconds < 10.0:
        return f"{seconds:.1f} s"
    if seconds < 600.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000.0 else f"{seconds / 3600:.0f} h"
