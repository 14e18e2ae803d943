"""`Lifecycle`: how a manager closes.

    OPEN --stop--> STOPPING --kill--> KILLING
      '-----------------|-----kill----^  |
                        '---> CLOSED <---'

`request_stop()` and `request_kill()` only store the wish and wake the burst thread.
They take no lock, wait for nothing and run no code of the user's, so a signal handler
may call them anywhere. The burst thread closes, in `step()`. `stop()` and `kill()` wait
until it reaches CLOSED. The state only moves forward, and a kill overtakes a stop.

STOPPING: the queue is closed; workers drain it and leave. CLOSED follows when the lanes
are empty, the workers have left, `run_task` callers have handed back, and callbacks
have run. When there is nothing left to do, a worker that still tries to create a
resource has `create_timeout` to end.

KILLING: the contexts of running tasks are cancelled, and waiting tasks fail. A step
fails only so many of them, so that the burst thread can look at other things. When the
given time is over, the futures of running tasks fail too, and calls that run elsewhere
are ended. CLOSED follows a moment later, so that the workers that this frees, and the
callbacks, can finish. Threads that are still busy then are abandoned. If there was no
time at all to fail the waiting tasks, they fail after CLOSED (`finish`).

A hook that began before the kill counts as a running task: `on_check` and `on_reset`
are aborted, and none is given more time than that. One that begins later belongs to a
worker that leaves, which resets and frees its resource.

Time in which no thread could run (the machine slept, the process was stopped) does not
count: see `excuse`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tasker._pool.backoff import Backoff
from tasker._pool.crew import Crew
from tasker._pool.metrics import Counters
from tasker._pool.news import News
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import Loan, ResourcePool
from tasker._pool.turns import Turns
from tasker._pool.usercode import UserCode
from tasker._pool.worker import Worker
from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.clock import monotonic
from tasker._sync.parking import Parker
from tasker._tasks import deadlock
from tasker._tasks.context import Callback, Context
from tasker.errors import ContextCancelledError, TaskManagerKilledError
from tasker.placement.base import Backend
from tasker.snapshots import StopReport

__all__ = ["CLOSED", "KILLING", "OPEN", "STOPPING", "Lifecycle"]

OPEN, STOPPING, KILLING, CLOSED = range(4)

# The time for a thread that is about to end, and for all that a kill has to do at its
# end. A guess: either takes milliseconds, unless the user's code or the machine is
# slow.
_JOIN_S = 1.0

# A thread that waits for the end looks so often whether the burst thread is there to
# bring it about. A guess: it matters only where that thread was lost.
_LOOK_S = 1.0

# A step fails waiting tasks for so long, then looks at other things. Half of a tick.
_SLICE_S = 0.05


class EngineForLifecycle(deadlock.EngineForDeadlock, Protocol):
    """The parts of an engine that a lifecycle closes."""

    queue: TaskQueue
    crew: Crew[Any]
    pool: ResourcePool[Any]
    turns: Turns
    runner: CallbackRunner
    counters: Counters
    user: UserCode[Any]
    backoff: Backoff
    news: News
    backend: Backend
    run_contexts: set[Context]
    settling: set[Any]
    fallen: list[Any]
    exiting: bool

    def end_elsewhere(self, loan: Loan[Any]) -> None: ...

    def closed(self) -> None: ...


class Lifecycle:
    """The state of one manager, and the only code that moves it."""

    def __init__(
        self,
        engine: EngineForLifecycle,
        create_timeout: float,
        wake: Callable[[], None],
        ensure: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._create_timeout = create_timeout
        # Wakes the burst thread.
        self._wake = wake
        # Ensures that there is one.
        self._ensure = ensure

        # The state. Each part is set once and never taken back, so threads that run at
        # the same time cannot undo each other.
        self._stop_wanted = False
        # When to give up running tasks: the earliest counts.
        self._kill_times: list[float] = []
        # When that was asked for, by the real clock.
        self._kills_asked: list[float] = []
        self._is_closed = False

        self._closing_since: float | None = None
        # When there was nothing left to wait for, except counts.
        self._empty_since: float | None = None
        # Since when it waits no more for calls to end, only for threads to leave.
        self._up_since: float | None = None
        self._killed = False
        # Seconds that do not count.
        self._excused = 0.0
        # When the step began, without the seconds that do not count.
        self._stepped_at = 0.0
        # The way of closing that was logged last.
        self._logged = ""
        self._ended = False

        # Waiters to wake when it has ended. There is no event: a signal handler might
        # find the event's lock taken by its own thread.
        self.awaiting: list[Any] = []
        self.abandoned: tuple[str, ...] = ()
        # Whether some of those had been given up before.
        self._lacks_some = False

    @property
    def state(self) -> int:
        """The state of the closing. It only moves forward."""
        if self._is_closed:
            return CLOSED
        if self._kill_times:
            return KILLING
        return STOPPING if self._stop_wanted else OPEN

    # -- any thread --------------------------------------------------------------------

    def request_stop(self) -> None:
        """Begin to stop. Signal-safe. Changes nothing if the manager closes already."""
        self._stop_wanted = True
        self._engine.queue.close()
        self._engine.turns.close()
        self._wake()

    def request_kill(self, timeout: float) -> None:
        """Begin to kill; running tasks get `timeout` seconds. Signal-safe.

        Of several timeouts the shortest counts."""
        # Both are set before any worker leaves.
        self._kills_asked.append(monotonic())
        self._engine.user.killed = True
        self._engine.queue.kill()
        self._engine.turns.close()
        self._kill_times.append(self._now() + timeout)
        self._wake()

    def name(self) -> str:
        """The state in a word."""
        return ("open", "stopping", "being killed", "closed")[self.state]

    def wait(self, timeout: float | None) -> bool:
        """Wait until CLOSED. `False` when that took longer than `timeout` seconds.

        Without a timeout, and inside of a task, it raises `PoolDeadlockError` if the
        wait could never end."""
        deadline = math.inf if timeout is None else monotonic() + timeout
        parker = Parker()
        # Announced before the look (R1).
        self.awaiting.append(parker)

        try:
            with deadlock.Wait(deadlock.Closing(self._engine), parker.wake, timeout) as wait:
                while not self._ended and wait.stuck is None:
                    left = deadline - monotonic()
                    if left <= 0:
                        return False

                    self._ensure()
                    parker.sleep(min(left, _LOOK_S))

            return True
        finally:
            self.awaiting.remove(parker)

    def has_ended(self) -> bool:
        """Whether CLOSED is reached.

        A waiter puts itself into `awaiting` before it looks (R1)."""
        return self._ended

    def end_after_fork(self) -> None:
        """Be closed, in a forked child: none of the threads exist there."""
        self._killed = True
        self._is_closed = True
        self._ended = True

    def report(self) -> StopReport:
        """The report, final when CLOSED."""
        return self._report(closed=self.state == CLOSED)

    def _report(self, *, closed: bool) -> StopReport:
        totals = self._engine.counters.totals()
        # A kill that had no time to fail all that waited does so now.
        left = sum(self._engine.queue.waiting()) if self._killed and closed else 0

        return StopReport(
            drained=closed and not self._killed and not self._lacks_some,
            completed=totals.completed,
            failed=totals.failed,
            cancelled=totals.cancelled + left,
            never_started=totals.untaken + left,
            destroy_errors=self._engine.user.destroy_errors,
            abandoned=self.abandoned,
        )

    # -- the burst thread --------------------------------------------------------------

    def excuse(self, seconds: float) -> None:
        """Let all limits count anew: no thread could run for so long."""
        self._excused += seconds

    def step(self, began: float) -> bool:
        """Do what closing needs now. `True` when CLOSED is reached.

        Limits are compared with the time when the tick `began` (`monotonic()`). If the
        tick is delayed in its middle, the next tick excuses that."""
        engine = self._engine
        self._stepped_at = began - self._excused

        if self._closing_since is None:
            self._closing_since = self._stepped_at
            engine.backend.stopping()
            engine.runner.run(
                *(partial(engine.end_elsewhere, loan) for loan in engine.pool.close())
            )
        engine.crew.wake_all(engine.queue.idle)
        engine.queue.wake_submitters()
        engine.turns.heal()

        # Looked at once: a kill that is requested from now on is for the next step.
        killing = self.state == KILLING
        self._log_closing("being killed" if killing else "stopping")
        if killing:
            self._killed = True
            self._cancel_running()
            engine.backend.killed()
            # The next step follows at once if there are more.
            if self._kill_waiting():
                self._wake()
        else:
            engine.runner.let_go(engine.queue.compact())
            # No worker can take what waits: it was put back after the last worker had
            # left, or the workers wait for it.
            if not engine.queue.is_empty() and not deadlock.any_free(engine.crew.members):
                hired = engine.crew.hire(1)
                # At interpreter exit no thread can start: no worker will ever take it.
                if engine.exiting and not hired and not engine.crew.members:
                    self._kill_waiting()

        if self._is_over():
            # The runner is busy with destructors, if at all.
            self._close(tuple(engine.runner.busy()))
            return True

        if not self._time_is_up(killing=killing):
            # A stop's time may be up before that of the kill that overtakes it.
            self._up_since = None
            return False

        self._kill_running()
        if self._is_leaving():
            return False

        self._close(self._busy_threads())
        return True

    def finish(self) -> bool:
        """After CLOSED: fail what a kill had no time for. `True` when that is done."""
        if self._killed and self._kill_waiting():
            self._wake()
            return False

        return True

    def _now(self) -> float:
        return monotonic() - self._excused

    def _is_leaving(self) -> bool:
        """Whether to wait a moment more before threads are called abandoned."""
        engine, now = self._engine, self._stepped_at
        if self._up_since is None:
            self._up_since = now

        elsewhere = engine.backend.end() if self._busy_threads() else 0.0
        if now < self._up_since + elsewhere:
            return True

        # The callbacks of tasks that were given up run now, or wait for a thread. Then
        # the objects that they refer to are dropped.
        since = self._kill_at() if self._killed else self._up_since
        return not (engine.runner.idle() and engine.runner.is_clean()) and now < since + _JOIN_S

    def _is_over(self) -> bool:
        engine = self._engine
        if (
            engine.crew.members
            or not engine.queue.is_empty()
            or engine.pool.out
            or engine.fallen
            or not engine.runner.idle()
        ):
            return False

        # A timeout or a `cancel()` may be about to settle its task. But a count that is
        # wrong must not hold up the closing.
        now = self._stepped_at
        if self._empty_since is None:
            self._empty_since = now
        # And a check that was given up may be about to return.
        unsettled = (
            any(engine.queue.waiting())
            or engine.counters.unfinished()
            or engine.settling
            or engine.pool.given_up()
        )

        # The runner is asked once more: it has got their callbacks by now, and then the
        # objects that these refer to.
        settled = not unsettled and engine.runner.idle() and engine.runner.is_clean()
        return settled or now >= self._empty_since + _JOIN_S

    def _time_is_up(self, *, killing: bool) -> bool:
        now = self._stepped_at

        if killing:
            if now < self._kill_at():
                return False

            # Workers that only have to wake up and leave get the time to do so.
            asked = min(self._kills_asked)
            return now >= self._kill_at() + _JOIN_S or all(
                worker.is_busy_since(asked) for worker in self._engine.crew.members
            )

        # An `on_create` that does not return must not hold up a stop that has nothing
        # else to wait for.
        engine = self._engine
        return (
            now >= (self._closing_since or now) + self._create_timeout
            and engine.queue.is_drained()
            and engine.pool.out == 0
            and all(self._creates_in_vain(worker) for worker in engine.crew.members)
            and engine.runner.idle()
        )

    def _creates_in_vain(self, worker: Worker[Any]) -> bool:
        """Whether it has had no resource for `create_timeout`.

        A worker that has just destroyed its last one is leaving."""
        return (
            worker.creating
            and self._stepped_at + self._excused >= worker.creating_since + self._create_timeout
        )

    def _kill_at(self) -> float:
        return min(self._kill_times, default=0.0)

    def _kill_waiting(self) -> bool:
        """Fail waiting tasks for a while. Returns whether there are more."""
        return self._engine.queue.fail_waiting(
            lambda task: task._fail_from_outside(
                self._killed_error("before the task started"), self._cancelled()
            ),
            self._engine.runner.let_go,
            _SLICE_S,
        )

    def _cancel_running(self) -> None:
        jobs: list[Callback] = []
        things: list[Any] = self._running_that("_cancel_asked", False)
        for place in range(len(things)):
            error, cause = self._cancelled(), self._killed_error("while the task was running")
            jobs += things[place]._ask_to_end(error, cause, things)

        # A list, because without the GIL `tuple()` is not made in one step.
        contexts = list(self._engine.run_contexts)
        for place in range(len(contexts)):
            jobs += contexts[place]._end(
                self._cancelled(), self._killed_error("while run_task was running"), things
            )

        self._engine.runner.let_go(contexts)
        self._engine.runner.run_all(jobs)
        self._engine.runner.let_go(things)

    def _kill_running(self) -> None:
        things = self._running_that("_final", None)
        for place in range(len(things)):
            error = self._killed_error("while the task was running")
            things[place]._fail_from_outside(error, self._cancelled())

        self._engine.runner.let_go(things)

    def running(self) -> list[Any]:
        """The tasks that workers run, or have just run."""
        return [task for worker in self._engine.crew.members if (task := worker.task) is not None]

    def _running_that(self, name: str, value: object) -> list[Any]:
        """The running tasks whose attribute has this value.

        When their workers go on, the burst thread may be the last that refers to them,
        so it hands the list to `CallbackRunner.let_go`. It refers to the other tasks
        for no longer than the look takes."""
        members = [
            worker
            for worker in self._engine.crew.members
            if getattr(worker.task, name, self) is value
        ]

        return [task for worker in members if (task := worker.task) is not None]

    def _busy_threads(self) -> tuple[str, ...]:
        engine = self._engine
        workers = (worker.name for worker in engine.crew.members)
        return (*workers, *engine.pool.borrowers(), *engine.runner.busy())

    def _close(self, abandoned: tuple[str, ...]) -> None:
        engine = self._engine
        engine.crew.join_gone(_JOIN_S)
        given_up = (*(worker.name for worker in engine.crew.abandoned), *engine.pool.given_up())
        self._lacks_some = bool(given_up)
        # A worker that is given up at this moment may be in both.
        self.abandoned = tuple(dict.fromkeys(given_up + abandoned))
        self._log_end()

        self._is_closed = True
        engine.closed()

        self._ended = True
        for waiter in tuple(self.awaiting):
            waiter.wake()

    def _log_closing(self, how: str) -> None:
        if how != self._logged:
            self._logged = how
            engine = self._engine
            running = sum(worker.task is not None for worker in engine.crew.members)
            engine.news.closing(how, sum(engine.queue.waiting()), running)

    def _log_end(self) -> None:
        """Have the end logged before those that wait for it go on and end the program.

        A logger that blocks holds that up for `_JOIN_S` seconds. It holds up nothing if
        it has kept the callback runner's thread before."""
        if self._logged == "":
            return

        self._logged = ""
        engine = self._engine
        parker, is_free = Parker(), engine.runner.idle()
        how, report = "killed" if self._killed else "drained", self._report(closed=True)
        if engine.news.closed(how, report, engine.backoff.made_at, parker.wake) and is_free:
            if engine.exiting:
                engine.runner.run_here()
            else:
                parker.sleep(_JOIN_S)

    def _killed_error(self, when: str) -> TaskManagerKilledError:
        return TaskManagerKilledError(f"{self._engine.name} was killed {when}")

    def _cancelled(self) -> ContextCancelledError:
        return ContextCancelledError(f"{self._engine.name} was killed")
