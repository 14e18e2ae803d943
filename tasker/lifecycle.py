"""`Lifecycle`: how a manager closes.

    OPEN --stop--> STOPPING --kill--> KILLING
      '-----------------|-----kill----^  |
                        '---> CLOSED <---'

`request_stop()` and `request_kill()` only store what is wanted and wake the burst thread: they take no lock, wait for
nothing and run nothing of the user's, so a signal handler may call them anywhere. The burst thread does the closing, in
`step()`; `stop()` and `kill()` wait for it to reach CLOSED. The state only moves forward, and kill overtakes stop.

STOPPING: the queue is closed, workers drain it and leave. CLOSED follows when the lanes are empty, the workers have
left, `run_task` callers have handed back and callbacks have run. A worker that only tries to create a resource, when
there is nothing left to do, is waited for as long as `create_timeout`.
KILLING: running tasks have their contexts cancelled, and waiting ones fail, so many in a step that the burst thread
looks up now and then. When the time given is over the futures of running tasks fail too, and what runs elsewhere is
ended. CLOSED follows when what waited for that, and the callbacks, had a moment to leave: the threads that are still
busy are abandoned. What waits then, if there was not even time to fail it, fails after that (`finish`).

Time in which nobody could act (the machine slept, the process was stopped) does not count: see `excuse`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tasker import deadlock
from tasker.aside import Aside
from tasker.backoff import Backoff
from tasker.clock import monotonic
from tasker.context import Callback, Context
from tasker.crew import Crew
from tasker.errors import ContextCancelledError, TaskManagerKilledError
from tasker.metrics import BuiltinCollector
from tasker.news import News
from tasker.parking import Seat
from tasker.placement.base import Site
from tasker.queue import TaskQueue
from tasker.resources import ResourcePool
from tasker.snapshots import StopReport
from tasker.turns import Turns
from tasker.usercode import UserCode
from tasker.worker import Worker

__all__ = ["CLOSED", "KILLING", "OPEN", "STOPPING", "Lifecycle"]

OPEN, STOPPING, KILLING, CLOSED = range(4)
_JOIN = 1.0  # seconds for a thread that has said it ends to be gone, and for all that a kill has to do at its end
_LOOK = 1.0  # seconds after which a thread that waits for the end looks whether anything brings it about
_SLICE = 0.05  # seconds of failing waiting tasks, after which it is time to look up


class Parts(deadlock.Pool, Protocol):
    """What a lifecycle closes."""

    queue: TaskQueue
    crew: Crew[Any]
    pool: ResourcePool[Any]
    turns: Turns
    aside: Aside
    figures: BuiltinCollector
    user: UserCode[Any]
    backoff: Backoff
    news: News
    site: Site
    run_contexts: set[Context]
    settling: set[Any]
    fallen: list[Any]
    exiting: bool

    def closed(self) -> None: ...


class Lifecycle:
    """The state of one manager, and the only code that moves it."""

    def __init__(
        self, parts: Parts, create_timeout: float, wake: Callable[[], None], ensure: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._create_timeout = create_timeout
        self._wake = wake  # the burst thread
        self._ensure = ensure  # that there is one
        # the state: each is set once and never taken back, so threads that run at once cannot undo one another
        self._stop_wanted = False
        self._kill_times: list[float] = []  # when running tasks are given up: the earliest counts
        self._is_closed = False
        self._closing_since: float | None = None
        self._empty_since: float | None = None  # when there was nothing left to wait for, but counts
        self._up_since: float | None = None  # since when no more is waited for what runs, but only for who leaves
        self._killed = False
        self._excused = 0.0  # seconds that do not count
        self._stepped_at = 0.0  # when the step began, those not counted
        self._told = ""  # how it closes, as was told
        self._ended = False
        # what is to be woken when it has ended; no event, whose lock a signal handler may find taken by its own thread
        self.awaiting: list[Any] = []
        self.abandoned: tuple[str, ...] = ()

    @property
    def state(self) -> int:
        """Where the closing is; it only moves forward."""
        if self._is_closed:
            return CLOSED
        if self._kill_times:
            return KILLING
        return STOPPING if self._stop_wanted else OPEN

    # -- anybody -------------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Begin to stop. Signal-safe; a manager that closes already is left alone."""
        self._stop_wanted = True
        self._parts.queue.close()
        self._parts.turns.close()
        self._wake()

    def request_kill(self, timeout: float) -> None:
        """Begin to kill; running tasks get `timeout` seconds, the shortest of several. Signal-safe."""
        self._parts.user.killed = True  # before any worker leaves
        self._parts.queue.kill()
        self._parts.turns.close()
        self._kill_times.append(self._now() + timeout)
        self._wake()

    def name(self) -> str:
        """The state in a word."""
        return ("open", "stopping", "being killed", "closed")[self.state]

    def wait(self, timeout: float | None) -> bool:
        """Wait until CLOSED; `False` when that took longer than `timeout` seconds.

        Without a timeout and inside of a task it raises `PoolDeadlockError` if the wait could never end."""
        deadline = math.inf if timeout is None else monotonic() + timeout
        seat = Seat()
        self.awaiting.append(seat)  # then look: so either this thread sees the end, or the end sees this thread
        try:
            with deadlock.Wait(deadlock.Closing(self._parts), seat.wake, timeout) as wait:
                while not self._ended and wait.stuck is None:
                    left = deadline - monotonic()
                    if left <= 0:
                        return False
                    self._ensure()
                    seat.sleep(min(left, _LOOK))
            return True
        finally:
            self.awaiting.remove(seat)

    def has_ended(self) -> bool:
        """Whether CLOSED is reached; who awaits that looks after he has put himself into `awaiting`."""
        return self._ended

    def end_after_fork(self) -> None:
        """In a forked child: closed, as none of the threads exist there."""
        self._killed = True
        self._is_closed = True
        self._ended = True

    def report(self) -> StopReport:
        """What there is to say, final when CLOSED."""
        return self._report(closed=self.state == CLOSED)

    def _report(self, *, closed: bool) -> StopReport:
        totals = self._parts.figures.totals()
        # a kill that had no time to fail all that waited does so now
        left = sum(self._parts.queue.waiting()) if self._killed and closed else 0
        return StopReport(
            drained=closed and not self._killed,
            completed=totals.completed,
            failed=totals.failed,
            cancelled=totals.cancelled + left,
            never_started=totals.untaken + left,
            destroy_errors=self._parts.user.destroy_errors,
            abandoned=self.abandoned,
        )

    # -- the burst thread ----------------------------------------------------------------------------------------

    def excuse(self, seconds: float) -> None:
        """Nobody could act for so long: all limits begin to count anew."""
        self._excused += seconds

    def step(self, began: float) -> bool:
        """Do what closing needs now; `True` when CLOSED is reached.

        Limits go by when the tick `began` (`monotonic()`): what is late in its middle the next one excuses."""
        parts = self._parts
        self._stepped_at = began - self._excused
        if self._closing_since is None:
            self._closing_since = self._stepped_at
            parts.site.stopping()
            parts.aside.run(*(partial(parts.user.destroy_elsewhere, resource) for resource in parts.pool.close()))
        parts.crew.wake_all(parts.queue.idle)
        parts.queue.wake_submitters()
        parts.turns.heal()
        killing = self.state == KILLING  # looked at once: a kill that comes from now on is for the next step
        self._tell_how("being killed" if killing else "stopping")
        if killing:
            self._killed = True
            self._cancel_running()
            parts.site.killed()
            if self._kill_waiting():
                self._wake()  # the next step follows at once
        else:
            parts.aside.let_go(parts.queue.compact())
            if not parts.queue.is_empty() and not deadlock.any_free(parts.crew.members):
                # nobody is there to take what waits: it was put back after the last worker had left, or the workers
                # wait for it
                hired = parts.crew.hire(1)
                if parts.exiting and not hired and not parts.crew.members:
                    self._kill_waiting()  # at interpreter exit no thread can be started: nobody will ever take it
        if self._is_over():
            self._close(tuple(parts.aside.busy()))  # in destructors, if at all
            return True
        if not self._time_is_up(killing=killing):
            self._up_since = None  # a stop's time may be up before that of the kill that overtakes it
            return False
        self._kill_running()
        if self._is_leaving():
            return False
        self._close(self._busy_threads())
        return True

    def finish(self) -> bool:
        """After CLOSED: fail what a kill had no time for; whether that is done."""
        if self._killed and self._kill_waiting():
            self._wake()
            return False
        return True

    def _now(self) -> float:
        return monotonic() - self._excused

    def _is_leaving(self) -> bool:
        """Whether it is too early to call threads abandoned, although time is up for whatever runs."""
        parts, now = self._parts, self._stepped_at
        if self._up_since is None:
            self._up_since = now
        elsewhere = parts.site.end() if self._busy_threads() else 0.0
        if now < self._up_since + elsewhere:
            return True
        # the callbacks of what was given up run now, or wait for a thread; then what they refer to is dropped
        since = self._kill_at() if self._killed else self._up_since
        return not (parts.aside.idle() and parts.aside.is_clean()) and now < since + _JOIN

    def _is_over(self) -> bool:
        parts = self._parts
        if parts.crew.members or not parts.queue.is_empty() or parts.pool.out or parts.fallen or not parts.aside.idle():
            return False
        # a timeout or a cancel() may be about to settle its task; a count that is wrong must not hold up the closing
        now = self._stepped_at
        if self._empty_since is None:
            self._empty_since = now
        unsettled = any(parts.queue.waiting()) or parts.figures.unfinished() or parts.settling
        # looked at once more: that is where their callbacks go, and then what they refer to
        settled = not unsettled and parts.aside.idle() and parts.aside.is_clean()
        return settled or now >= self._empty_since + _JOIN

    def _time_is_up(self, *, killing: bool) -> bool:
        now = self._stepped_at
        if killing:
            if now < self._kill_at():
                return False
            # those that only have to wake up and leave are given the time to
            return now >= self._kill_at() + _JOIN or all(
                worker.task is not None or (worker.creating and not worker.pausing)
                for worker in self._parts.crew.members
            )
        # an on_create that does not return must not hold up a stop that has nothing else to wait for
        parts = self._parts
        return (
            now >= (self._closing_since or now) + self._create_timeout
            and parts.queue.is_drained()
            and parts.pool.out == 0
            and all(self._creates_in_vain(worker) for worker in parts.crew.members)
            and parts.aside.idle()
        )

    def _creates_in_vain(self, worker: Worker[Any]) -> bool:
        """Whether it has had no resource for `create_timeout`: one that has just destroyed its last one is leaving."""
        return worker.creating and self._stepped_at + self._excused >= worker.creating_since + self._create_timeout

    def _kill_at(self) -> float:
        return min(self._kill_times, default=0.0)

    def _kill_waiting(self) -> bool:
        """Fail waiting tasks for a while; whether there are more."""
        return self._parts.queue.fail_waiting(
            lambda task: task._fail_from_outside(self._killed_error("before the task started"), self._cancelled()),
            self._parts.aside.let_go,
            _SLICE,
        )

    def _cancel_running(self) -> None:
        jobs: list[Callback] = []
        things: list[Any] = self._running_that("_cancel_asked", False)
        for place in range(len(things)):
            error, cause = self._cancelled(), self._killed_error("while the task was running")
            jobs += things[place]._ask_to_end(error, cause, things)
        contexts = list(self._parts.run_contexts)  # a tuple() is not made in one step without the GIL
        for place in range(len(contexts)):
            jobs += contexts[place]._end(self._cancelled(), self._killed_error("while run_task was running"), things)
        self._parts.aside.let_go(contexts)
        self._parts.aside.run_all(jobs)
        self._parts.aside.let_go(things)

    def _kill_running(self) -> None:
        things = self._running_that("_final", None)
        for place in range(len(things)):
            error = self._killed_error("while the task was running")
            things[place]._fail_from_outside(error, self._cancelled())
        self._parts.aside.let_go(things)

    def running(self) -> list[Any]:
        """The tasks that workers run, or have just run."""
        return [task for worker in self._parts.crew.members if (task := worker.task) is not None]

    def _running_that(self, name: str, value: object) -> list[Any]:
        """Those of the running tasks whose attribute has this value.

        The burst thread may be the last that refers to them when their workers go on, so it hands the list to
        `Aside.let_go`; to the others it does not refer for longer than the look takes."""
        members = [worker for worker in self._parts.crew.members if getattr(worker.task, name, self) is value]
        return [task for worker in members if (task := worker.task) is not None]

    def _busy_threads(self) -> tuple[str, ...]:
        parts = self._parts
        callers = ("a thread in run_task",) * parts.pool.out
        return (*(worker.name for worker in parts.crew.members), *callers, *parts.aside.busy())

    def _close(self, abandoned: tuple[str, ...]) -> None:
        parts = self._parts
        parts.crew.join_gone(_JOIN)
        self.abandoned = abandoned
        self._tell_end()
        self._is_closed = True
        parts.closed()
        self._ended = True
        for waiter in tuple(self.awaiting):
            waiter.wake()

    def _tell_how(self, how: str) -> None:
        if how != self._told:
            self._told = how
            parts = self._parts
            running = sum(worker.task is not None for worker in parts.crew.members)
            parts.news.closing(how, sum(parts.queue.waiting()), running)

    def _tell_end(self) -> None:
        """Have the end logged before those who wait for it may go on, and end the program. A logger that blocks holds
        that up for `_JOIN` seconds, and not at all if it has kept the helper's thread before."""
        if self._told == "":
            return
        self._told = ""
        parts = self._parts
        seat, is_free = Seat(), parts.aside.idle()
        if parts.news.closed(self._report(closed=True), parts.backoff.made_at, seat.wake) and is_free:
            if parts.exiting:
                parts.aside.run_here()
            else:
                seat.sleep(_JOIN)

    def _killed_error(self, when: str) -> TaskManagerKilledError:
        return TaskManagerKilledError(f"{self._parts.name} was killed {when}")

    def _cancelled(self) -> ContextCancelledError:
        return ContextCancelledError(f"{self._parts.name} was killed")
