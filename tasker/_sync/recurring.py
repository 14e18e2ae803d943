"""`Faults`: how seldom a fault is logged that comes again and again.

    first one: logged
      --> in a row: after 10 s, 1 min, 10 min logged, with the count
      --> it has not come for SETTLED_S: over, and its end is logged

A *kind* of fault has one row, however many threads meet it. A row may be `held`: then
it also takes `over(whole=True)` to end it. An outage is held, as it is not over merely
because each attempt of a worker takes a minute to fail.

A row keeps the message of its fault, its arguments and numbers. `_lock` guards the
rows. It is held for a few lines, and nothing is logged under it. Times are those of the
real clock, whatever clock deadlines go by.
"""

from __future__ import annotations

from collections.abc import Callable

from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock
from tasker.errors import origin_of

__all__ = ["OUTAGE", "Faults", "Row", "kind_of"]

# Seconds between two records of a row; the last one stays. A guess: often enough to be
# seen, and seldom enough that a log can be read.
INTERVALS_S = 10.0, 60.0, 600.0

# A row is over after so many seconds without a fault. Workers that fail pause for up to
# 5 s, so this is twice as long.
SETTLED_S = 10.0

# The kind of fault of workers that cannot have resources.
OUTAGE = "outage"

# So many rows are kept; the oldest give way. A guess: a program has fewer kinds of
# fault.
MAX_KINDS = 100


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

        # Faults since the last record. They include those of the row before, if its end
        # was not logged.
        self.unlogged: int = before.unlogged if before else 0
        self.began: float = now
        self.last: float = now

        # How often, and when last, the row was logged; and when it may be logged next.
        self._logged = 0
        self._logged_at: float = before._logged_at if before else now
        self._next = now

    def came(self, now: float) -> str | None:
        """Count one more fault.

        Returns `None` if it is not to be logged. Else the text to add, about those that
        were not."""
        self.last = now
        self.count += 1
        self.unlogged += 1
        if now < self._next:
            return None

        unlogged, seconds = self.unlogged, now - self._logged_at
        self._next = now + INTERVALS_S[min(self._logged, len(INTERVALS_S) - 1)]
        self._logged += 1
        self._logged_at, self.unlogged = now, 0

        return f" ({unlogged} times in {shown(seconds)})" if unlogged > 1 else ""

    @property
    def lasted(self) -> str:
        """The time from the first fault to the last one."""
        return shown(self.last - self.began)


class Faults:
    """The rows of one manager, or of the code that belongs to none."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._rows: dict[str, Row] = {}

    def came(
        self, kind: str, msg: str = "", args: tuple[object, ...] = (), *, held: bool = False
    ) -> str | None:
        """Count a fault; see `Row.came`.

        `msg % args` describes the fault. Both are kept."""
        now = monotonic()

        with self._lock:
            row = self._rows.get(kind)
            if row is None or (now - row.last >= SETTLED_S and not row.held):
                row = self._rows[kind] = Row(msg, args, now, held=held, before=row)
                if len(self._rows) > MAX_KINDS:
                    del self._rows[next(iter(self._rows))]

            return row.came(now)

    def any(self) -> bool:
        """Whether any row is not over."""
        return bool(self._rows)

    def over(self, *, whole: bool) -> list[Row]:
        """Take out the rows that are over.

        Those that are held are over only if `whole`: all workers have resources."""
        if not self._rows:
            return []

        now = monotonic()
        return self._take_out(lambda row: now - row.last >= SETTLED_S and (whole or not row.held))

    def all(self) -> list[Row]:
        """Take out all rows."""
        return self._take_out(lambda row: True)

    def _take_out(self, wanted: Callable[[Row], bool]) -> list[Row]:
        with self._lock:
            kinds = [kind for kind, row in self._rows.items() if wanted(row)]
            return [self._rows.pop(kind) for kind in kinds]


def kind_of(callback: object) -> str:
    """The kind of fault when a callback raises.

    It is the same for one function, however often that is made anew."""
    return f"callback {origin_of(callback)}"


def shown(seconds: float) -> str:
    """A time as people write it: 0.3 s, 42 s, 15 min, 3 h."""
    if seconds < 10.0:
        return f"{seconds:.1f} s"
    if seconds < 600.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000.0 else f"{seconds / 3600:.0f} h"
