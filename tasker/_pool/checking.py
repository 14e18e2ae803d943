"""`Checks`: when `on_check` is called, for how long, and for which task.

A resource is checked by its owner before it takes a task, if its last *proof* is older
than `check_after`. A proof is a moment at which it showed that it is well: it was made,
it passed a check, or it finished a task. With `keepalive` an idle resource is checked
as well when its proof is nearly that old: by its worker, or as module `keepalive` says.
Many resources may have become idle at the same moment. So each slot has a time of its
own, up to a fifth shorter, and they are not checked all at once. A pool that is busy
checks nothing.

One task, one check. A task wakes one worker, and that one checks its resource before it
takes the task, which waits in its lane until then. So a check that fails costs the task
no attempt. The worker *claims* a task while it checks. Others that are woken meanwhile
check for tasks that are not claimed, or go back to sleep. Otherwise one task would have
all idle workers check. A claim is over after `PATIENCE_S`: then the burst thread's tick
wakes another worker, so no task waits for a check that hangs.

A check has `check_timeout`. When that is over, its resource is not well, whatever the
check returns later. A child process or actor is killed. In a thread the worker counts
as one without a resource until `on_check` returns: it holds up neither a stop nor the
tasks that fail after `create_timeout`. There the check is aborted and abandoned as a
task is (see `supervisor`).

`_lock` guards the claims, and decides whether a check is late or over. The timer thread
takes it, too. No code of the user's runs under it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from tasker import checks
from tasker._pool.queue import TaskQueue
from tasker._pool.usercode import UserCode
from tasker._sync import timer
from tasker._sync.callback_runner import BackgroundLogger
from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock
from tasker.config import Config
from tasker.errors import DeadlineExceededError
from tasker.placement.base import Backend
from tasker.slot import Slot

__all__ = ["Checks"]

R = TypeVar("R")

# The defaults of `Config.check_after` and `Config.check_timeout`, in seconds. The first
# is a guess: a connection that served a second ago mostly lives, and an idle second
# pays for a check.
CHECK_AFTER_S = 1.0
CHECK_TIMEOUT_S = 5.0

# The part of `keepalive` over which the checks are spread. A guess: 64 resources are
# checked 0.1 s apart with a keepalive of 30 s, and no resource much more often.
_SPREAD = 0.2
# Multiples of the golden ratio are far from each other, however many there are.
_GOLDEN = (math.sqrt(5) - 1) / 2

# A task waits so long for a check before another worker is woken for it. One tick of
# the burst thread.
PATIENCE_S = 0.1


class _Call:
    """One call of `on_check`."""

    __slots__ = ("is_late", "is_over")

    def __init__(self) -> None:
        self.is_late = False
        self.is_over = False


class CallHook(Protocol):
    """Of the supervisor: see there."""

    def __call__(
        self, worker: Any, resource: Any, fn: Callable[[Any], object], /, *, timeout: float | None
    ) -> None: ...


class Checks(Generic[R]):
    """The checks of one manager."""

    def __init__(
        self,
        config: Config[R],
        backend: Backend,
        user: UserCode[R],
        queue: TaskQueue,
        logger: BackgroundLogger,
        call_hook: CallHook,
    ) -> None:
        self._backend = backend
        self._user = user
        self._call_hook = call_hook
        self._queue = queue
        self._logger = logger
        self._after = _seconds_or(CHECK_AFTER_S, "check_after", config.check_after)
        self._timeout = _seconds_or(CHECK_TIMEOUT_S, "check_timeout", config.check_timeout)
        self.keepalive: float | None = (
            None if config.keepalive is None else checks.seconds("keepalive", config.keepalive)
        )
        self._lock = new_lock()
        # When a worker claimed a task, by its name.
        self._claims: dict[str, float] = {}

    def is_due(self, proved_at: float) -> bool:
        """Whether a resource is checked before its next task."""
        return timer.now() >= proved_at + self._after

    def kept_alive_at(self, proved_at: float, slot: Slot | None) -> float:
        """When an idle resource is checked although there is no task."""
        if self.keepalive is None:
            return math.inf

        place = 0.0 if slot is None else slot.index * _GOLDEN % 1.0
        return proved_at + self.keepalive * (1.0 - _SPREAD * place)

    def shortest_keepalive(self) -> float:
        """Seconds in which nothing that is proved now will be due."""
        return math.inf if self.keepalive is None else self.keepalive * (1.0 - _SPREAD)

    def is_to_be_kept_alive(self, proved_at: float, slot: Slot | None) -> bool:
        """Whether an idle worker's resource is checked although there is no task."""
        return timer.now() >= self.kept_alive_at(proved_at, slot)

    def claim(self, worker: str, *, retries: bool = True) -> bool:
        """Claim a waiting task for a worker, which checks its resource then.

        `False`: none waits that is not claimed. `retries`: whether it may be one that
        ran before."""
        now = monotonic()

        with self._lock:
            self._claims = {
                name: since for name, since in self._claims.items() if now - since < PATIENCE_S
            }
            waiting = self._queue.length() - (0 if retries else self._queue.retries())
            unclaimed = waiting - len(self._claims)
            if unclaimed > 0:
                self._claims[worker] = now

        if unclaimed > 1:
            self._queue.wake_next()
        return unclaimed > 0

    def end_claim(self, worker: str) -> None:
        """The worker has taken the task, or will not take it."""
        with self._lock:
            self._claims.pop(worker, None)

    def trouble(
        self, owner: str, resource: R, late: Callable[[], object] = bool, worker: Any = None
    ) -> BaseException | None:
        """Call `on_check` in the owner's thread. Returns why the resource is not well.

        No variable of the caller's must hold that when the caller has ended (R4).
        `worker`: the owner, if that is not a thread in `run_task`. `late` is called
        under a lock, by the timer, when the check takes too long."""
        call = _Call()
        deadline = timer.now() + self._timeout
        troubles: list[BaseException] = []
        alarms: list[timer.TimerEntry] = []
        try:
            alarms.append(
                timer.at(deadline, partial(self._found_late, call, owner, resource, late))
            )
            if self._queue.resting:
                # The burst thread rests through a check that is quick.
                alarms.append(timer.after(PATIENCE_S, self._queue.stir))

            check = partial(self._user.check, troubles)
            self._call_hook(worker, resource, check, timeout=self._timeout)
        except DeadlineExceededError:
            # Its time was up before it began: the machine slept, say.
            call.is_late = True
        finally:
            with self._lock:
                call.is_over = True
            for alarm in alarms:
                alarm.cancel()

        if call.is_late:
            troubles[:] = [
                TimeoutError(
                    f"on_check has not returned within {self._timeout:g} s (check_timeout)"
                )
            ]
        if not troubles:
            return None

        self._queue.stir()
        return troubles.pop()

    def _found_late(
        self, call: _Call, owner: str, resource: Any, late: Callable[[], object]
    ) -> None:
        """The time of a check is up. Called by the timer."""
        with self._lock:
            if call.is_over:
                return

            call.is_late = True
            late()
            self._backend.end_check(resource)

        self._logger.outage(
            "%s: on_check has not returned within %g s (check_timeout)", owner, self._timeout
        )


def _seconds_or(default: float, name: str, value: Any) -> float:
    return default if value is None else checks.seconds(name, value)
