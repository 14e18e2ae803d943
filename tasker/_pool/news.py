"""`News`: what a manager logs of its ordinary life: as info, or as debug (drop-in).

    started -> ready -> (hired, retired, a resource replaced, an outage over)*
            -> stopping or being killed -> stopped

The burst thread's messages are logged in the background. They cost nothing where a
standard logger drops them. The table of messages is in `examples/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tasker._sync.callback_runner import BackgroundLogger
from tasker._sync.guarded_logger import GuardedLogger
from tasker._sync.recurring import Row
from tasker.snapshots import StopReport

__all__ = ["News"]


class News:
    """One for each manager. Any thread may call it, unless a method says otherwise."""

    def __init__(
        self,
        name: str,
        logger: GuardedLogger,
        background: BackgroundLogger,
        level: Literal["debug", "info"],
    ) -> None:
        self._name = name
        self._logger = logger
        self._background = background
        self._level = level
        self._log: Callable[..., None] = getattr(logger, level)
        # For the burst thread.
        self._log_in_background: Callable[..., None] = getattr(background, level)
        # Not empty until all base workers have had a resource at the same time.
        self._unready: list[None] = [None]

    def started(self, base: int, most: int) -> None:
        """Workers are about to be hired. Called in the constructor's thread."""
        self._log("%s: started, workers: %d, at most: %d", self._name, base, most)

    def is_to_be_ready(self) -> bool:
        """Whether `ready` has not been called."""
        return bool(self._unready)

    def ready(self, base: int) -> None:
        """The base workers have resources. Called in a worker's thread; logged once."""
        try:
            self._unready.pop()
        except IndexError:
            # Another worker was quicker.
            return

        self._log("%s: ready, workers with resources: %d", self._name, base)

    def suspects_replaced(self, count: int) -> None:
        """Several resources broke within a second. Any thread may call it."""
        self._log_in_background(
            "%s: resources break one after the other, idle ones that are replaced: %d",
            self._name,
            count,
        )

    # -- the burst thread --------------------------------------------------------------

    def hired(self, count: int, workers: int) -> None:
        if count:
            self._log_in_background("%s: hired: %d, workers now: %d", self._name, count, workers)

    def retired(self, count: int, workers: int) -> None:
        if count:
            self._log_in_background("%s: retired: %d, workers now: %d", self._name, count, workers)

    def look(self, *, whole: bool) -> None:
        """Log which faults are over. `whole`: all workers have resources."""
        for row in self._logger.faults.over(whole=whole):
            self._log_over(row, recovered=True)

    def closing(self, how: str, waiting: int, running: int) -> None:
        self._log_in_background(
            "%s: %s, tasks waiting: %d, running: %d", self._name, how, waiting, running
        )

    def closed(
        self, how: str, report: StopReport, made_at: float, then: Callable[[], object]
    ) -> bool:
        """Everything has ended. `made_at`: when a resource was made for the last time.

        Returns whether there is anything to log. `then` is called in the background
        when it is logged."""
        rows = self._logger.faults.all()
        for row in rows:
            self._log_over(row, recovered=made_at > row.last)
        if not rows and self._logger.drops(self._level):
            return False

        self._log_in_background(
            "%s: stopped (%s), tasks completed: %d, failed: %d, cancelled: %d, never started: %d, "
            "errors of on_destroy: %d, threads abandoned: %d",
            self._name,
            how,
            report.completed,
            report.failed,
            report.cancelled,
            report.never_started,
            report.destroy_errors,
            len(report.abandoned),
        )

        self._background.then(then)
        return True

    def _log_over(self, row: Row, *, recovered: bool) -> None:
        count = "1 failure" if row.count == 1 else f"{row.count} failures"

        if not row.held:
            if row.unlogged:
                self._background.warning(
                    f"{row.msg}, %d times in %s: that is over", *row.args, row.count, row.lasted
                )
        elif recovered:
            self._background.warning(
                "%s: resources are made again after %s in %s", self._name, count, row.lasted
            )
        else:
            self._background.warning(
                "%s: closed in an outage, after %s in %s", self._name, count, row.lasted
            )
