"""`Housekeeper`: the burst thread. Its ticks scale and heal the crew, and close it.

It exists from before the first worker until CLOSED, even in a manager that does not
scale. A tick comes every `burst_interval`, or more often so that healing never waits
longer than `TICK_S`. The thread sleeps on a parker that any thread may wake. An error
in a tick is logged, and the next tick comes all the same. Work that takes long, such as
to hire many workers, is done for the time of a tick and continued in the next one. When
nothing happens the thread rests: it sleeps without a tick until something does
(`TaskQueue.stir`).

The thread runs no user code (I7). The callback runner logs for it, and drops the
objects of the user's that it refers to. At interpreter exit no thread can be started
for that; then it runs the callbacks of the tasks that it ended. A burst thread that
ends before its time is replaced by its own last act, or by a thread that waits for the
closing (`ensure`).

A tick that comes much too late (the machine slept, the process was stopped) means that
no thread could run, so the limits for others begin to count anew. Where one late tick
follows another the machine is simply slow, and the time counts.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import Any, Protocol

from tasker._pool.backoff import Backoff
from tasker._pool.crew import Crew
from tasker._pool.keepalive import Keepalive
from tasker._pool.lifecycle import CLOSED, OPEN, Lifecycle
from tasker._pool.metrics import Counters
from tasker._pool.news import News
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ResourcePool
from tasker._pool.scaling import Limits, Sampler, decide
from tasker._pool.suspicion import Suspicion
from tasker._pool.turns import Turns
from tasker._pool.usercode import UserCode
from tasker._pool.watchers import Watchers
from tasker._pool.worker import Worker
from tasker._sync import timer
from tasker._sync.callback_runner import BackgroundLogger, CallbackRunner
from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import GuardedLogger, last_line_of
from tasker._sync.locks import new_lock, release_locks
from tasker._sync.parking import Parker
from tasker._sync.threads import new_thread
from tasker._sync.timer import LATE_S
from tasker._tasks import deadlock
from tasker._tasks.context import Callback
from tasker.errors import ContextCancelledError, ResourceCreationError
from tasker.placement.base import Backend

__all__ = ["Housekeeper"]

# The longest that a fault stays unhealed. A guess: short for a person, and long against
# what a tick costs.
TICK_S = 0.1

# When no tick began for so long, a thread that waits for the closing replaces the burst
# thread. A guess: far longer than a tick takes on a slow machine.
STUCK_S = 5.0

# When nothing has happened for so long, the thread rests. A guess: ten ticks, so that a
# pool in use hardly ever goes to rest.
QUIET_S = 1.0

# A resting thread looks again after so long all the same. A guess: it bounds what a
# lost wake-up costs, and two looks a minute cost nothing.
REST_S = 30.0

# The part of an interval after which scaling is due: a tick may come a little early.
_DUE = 0.9

# Looks at waits take at most about one part in so many of the time. A guess.
_LOOK_COST = 50


class EngineForHousekeeper(Protocol):
    """The parts of an engine that the burst thread looks after."""

    name: str
    backend: Backend
    queue: TaskQueue
    crew: Crew[Any]
    pool: ResourcePool[Any]
    keepalive: Keepalive[Any]
    turns: Turns
    runner: CallbackRunner
    counters: Counters
    logger: GuardedLogger
    service_logger: BackgroundLogger
    news: News
    settling: set[Any]
    fallen: list[Worker[Any]]
    backoff: Backoff
    suspicion: Suspicion
    lifecycle: Lifecycle
    user: UserCode[Any]
    watchers: Watchers
    exiting: bool

    def heal_crew(self) -> None: ...

    def inherit(self, worker: Worker[Any]) -> None: ...


class Housekeeper:
    """The thread, and what it remembers from tick to tick."""

    def __init__(
        self, engine: EngineForHousekeeper, interval: float, create_timeout: float, limits: Limits
    ) -> None:
        self._engine = engine
        self._interval = interval
        self._create_timeout = create_timeout
        self._limits = limits
        self.scales: bool = interval > 0
        self._tick = min(interval or TICK_S, TICK_S)
        self._parker = Parker()
        self._scaled_at = monotonic()

        # When a worker was last seen to hold a resource without being stuck.
        self._held_at = self._scaled_at
        # Whether that is longer ago than `create_timeout`.
        self.hopeless: bool = False
        # Whether all workers that hold a resource wait, in the end, for tasks in the
        # lanes.
        self._stuck = False
        # When to look at waits again.
        self._look_at = 0.0
        self._sampler = Sampler(interval, self._scaled_at)

        # When the last tick began.
        self._began = self._scaled_at
        self._was_late = False
        # Tasks that were being settled at the last tick.
        self._settling: list[Any] = []
        self._has_ended = False
        # Whether an error ended the last tick.
        self._struck = False

        self._replacing = new_lock()
        # Ticks begun.
        self._beats = 0
        # Beats at an `ensure`, and when they were so many for the first time.
        self._seen = (-1, 0.0)
        # Tasks that had arrived at the last tick.
        self._arrived: int = 0
        # When there was last anything to see to.
        self._stirred_at = self._scaled_at

        engine.queue.wake_housekeeper = self.wake
        self.thread: threading.Thread = new_thread(self._run, f"{engine.name}-burst", service=True)

    def wake(self) -> None:
        """End its sleep: something is to be done now. Signal-safe."""
        self._parker.wake()

    def ensure(self) -> None:
        """Ensure that a thread closes. Called now and then by threads that wait for
        that.

        Replaces a burst thread that has ended before its time. Also one that has begun
        no tick for too long: a destructor that the garbage collector runs there keeps
        it. At interpreter exit no thread can be started, so the tick is done here."""
        with self._replacing:
            now, beats = monotonic(), self._beats
            if beats != self._seen[0]:
                self._seen = beats, now

            # The thread first, then the mark, which the thread sets before it ends.
            is_missing = now - self._seen[1] > STUCK_S or not self.thread.is_alive()
            if is_missing and not self._has_ended:
                self._replace()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, for `timeout` seconds at most.

        Called when everything is closed. A replacement that has not begun yet will do
        nothing, so nothing waits for it."""
        if self.thread.ident is not None:
            self.thread.join(timeout)

    def _replace(self) -> None:
        with self._replacing:
            self.thread = new_thread(self._run, f"{self._engine.name}-burst", service=True)
            try:
                self.thread.start()
            except (RuntimeError, MemoryError):
                self._has_ended = self._guarded_tick()

    def _run(self) -> None:
        thread = threading.current_thread()

        try:
            while not self._has_ended and self.thread is thread:
                try:
                    if self._struck:
                        release_locks()
                        self._struck = False
                    self._has_ended = self._guarded_tick(self._patience())
                except BaseException:
                    self._struck = True
        finally:
            # Another thread sent an exception.
            if not self._has_ended and self.thread is thread:
                self._replace()

    def _guarded_tick(self, patience: float = 0.0) -> bool:
        try:
            woken = self._parker.sleep(patience)
            self._beats += 1
            self._excuse(patience)
            self._end_rest(woken=woken)

            return self._do()
        except BaseException as error:
            self._struck = True
            # Without memory the error cannot even be logged.
            with contextlib.suppress(BaseException):
                what = "%s: the burst thread met an error"
                self._engine.service_logger.fault("error", what, self._engine.name, error=error)
            return False

    def _excuse(self, patience: float) -> None:
        """A tick begins. It was due `patience` seconds after the last one."""
        began, self._began = self._began, monotonic()
        late = self._began - began - patience
        is_late = late > LATE_S

        if is_late and not self._was_late:
            self._held_at += late
            self._engine.lifecycle.excuse(late)
            self._engine.suspicion.excuse(late)

        self._was_late = is_late

    def _do(self) -> bool:
        """Do one tick. `True`: everything is closed, and nothing is left to do."""
        engine = self._engine
        # No thread can be started any more.
        if engine.exiting:
            engine.runner.run_here()

        state = engine.lifecycle.state
        if state == CLOSED or (state != OPEN and engine.lifecycle.step(self._began)):
            engine.runner.let_go(self._settling)
            return engine.lifecycle.finish()

        self._heal()
        if engine.lifecycle.state == OPEN:
            self._scale()
        return False

    # -- resting -----------------------------------------------------------------------

    def _patience(self) -> float:
        """Seconds to sleep: a tick, or `REST_S` if nothing happened for `QUIET_S`."""
        queue, now = self._engine.queue, monotonic()
        queue.resting = False

        if not self._is_quiet():
            self._stirred_at = now
        elif now - self._stirred_at >= QUIET_S:
            # Announced before the look: a thread that makes work looks for it (R1).
            queue.resting = True
            if self._is_quiet():
                return REST_S
            queue.resting = False

        return self._tick

    def _end_rest(self, *, woken: bool) -> None:
        engine, now = self._engine, monotonic()
        if not engine.queue.resting:
            return

        engine.queue.resting = False
        if woken:
            self._stirred_at = now
        # The workers have kept their resources: a loss would have ended the rest.
        self._held_at = now
        engine.counters.rested(now)

    def _is_quiet(self) -> bool:
        """Whether a tick would have nothing to see to.

        All workers are there, hold resources, and are parked."""
        engine, crew = self._engine, self._engine.crew
        members = crew.members

        return (
            len(engine.queue.idle.announced) == len(members)
            and (len(members) == crew.base or (len(members) > crew.base and not self.scales))
            and engine.lifecycle.state == OPEN
            and not engine.exiting
            and not engine.watchers
            and not engine.settling
            and not engine.fallen
            and not engine.pool.out
            and not engine.keepalive.runner.waits()
            and not engine.turns.is_wanted()
            and not engine.logger.faults.any()
            and engine.runner.idle()
            and all(worker.parker.parked for worker in members)
            and engine.queue.is_quiet()
        )

    # -- healing -----------------------------------------------------------------------

    def _heal(self) -> None:
        engine = self._engine
        if engine.lifecycle.state == OPEN:
            engine.heal_crew()
        else:
            # Or the closing would wait for ended threads.
            engine.crew.bury()

        engine.backoff.heal()
        engine.queue.ripen(monotonic())
        engine.suspicion.tick(self._began)
        # Tasks wait and workers sleep: a wake-up got lost.
        if any(engine.queue.waiting()) and engine.queue.idle.announced:
            engine.queue.idle.wake_all()
        engine.runner.let_go(engine.queue.compact())
        while engine.fallen:
            engine.runner.run(partial(engine.inherit, engine.fallen[-1]))
            engine.fallen.pop()
        for loan in engine.pool.take_left():
            engine.runner.run(partial(engine.pool.hand_back, loan, healthy=False))

        self._finish_settling()
        engine.queue.wake_submitters()
        engine.turns.heal()
        engine.runner.heal()
        engine.keepalive.runner.heal()
        timer.ensure_running()
        self._watch_resources()

        now = monotonic()
        arrived = engine.counters.sample(now)
        if arrived != self._arrived:
            self._arrived, self._stirred_at = arrived, now
        engine.watchers.correct_counts()
        if engine.watchers:
            engine.watchers.wake()

    def _watch_resources(self) -> None:
        """Give up hope when resources have been missing for `create_timeout`.

        That is, when no worker has held one in that time that is free or will be. Then
        the waiting tasks fail. If workers hold resources, the waits of these workers
        fail (see `deadlock`)."""
        engine = self._engine
        # If this tick is delayed in its middle, the next one excuses that.
        now = self._began
        holding = [worker for worker in engine.crew.members if worker.holds_resource]
        self._look_at_waits(holding)

        if holding and not self._stuck:
            self._held_at = now
        else:
            # A resource that broke between two ticks was held, too.
            self._held_at = max(self._held_at, engine.backoff.made_at)

        whole = len(holding) == len(engine.crew.members)
        if whole and engine.user.create_error is not None:
            engine.runner.let_go([engine.user.take_create_error()])
        engine.news.look(whole=whole)

        self.hopeless = (
            engine.backend.impossible is not None or now - self._held_at >= self._create_timeout
        )
        if self.hopeless and not holding:
            engine.queue.fail_waiting(
                lambda task: task._fail_from_outside(
                    self._creation_error(), ContextCancelledError("no resource")
                ),
                engine.runner.let_go,
                TICK_S,
            )

    def _finish_settling(self) -> None:
        """Finish tasks that a blocking collector has held up since the last tick."""
        engine = self._engine
        jobs: list[Callback] = []

        for place in range(len(self._settling)):
            # A thread that is about to store the outcome may wait longer than a tick
            # for its turn to run.
            if self._settling[place] in engine.settling and self._settling[place]._has_outcome():
                jobs += self._settling[place]._finish_for_other_thread()

        engine.runner.run_all(jobs)
        engine.runner.let_go(self._settling)
        self._settling = list(engine.settling)

    def _look_at_waits(self, holding: list[Any]) -> None:
        """Look for workers that wait for tasks in the lanes, and for circles of waits.

        That takes long where tasks wait for thousands of others, so it is not done at
        every tick there."""
        now = monotonic()
        if now >= self._look_at:
            engine = self._engine
            self._stuck = (
                bool(holding) and any(engine.queue.waiting()) and not deadlock.any_free(holding)
            )
            deadlock.look_again(engine.crew.members)
            self._look_at = now + _LOOK_COST * (monotonic() - now)

    def _creation_error(self) -> ResourceCreationError:
        impossible = self._engine.backend.impossible
        if impossible is None:
            what = f"no worker has held a resource for {self._why_hopeless()}"
        else:
            # An error of tasker's own. Perhaps the worker that found it out has not yet
            # noted it as the last one.
            why = f"no resource was made: {last_line_of(impossible)}"
            what = f"no worker will ever hold a resource: {why}"

        error = ResourceCreationError(f"{self._engine.name}: {what}")
        error.__cause__ = impossible or self._engine.user.create_error
        return error

    def trouble(self) -> str:
        """The reason for no hope, although workers hold resources.

        Runs code of the user's."""
        return (
            f"no other worker of {self._engine.name} has got a resource for {self._why_hopeless()}"
        )

    def _why_hopeless(self) -> str:
        engine = self._engine
        lacking = [worker for worker in engine.crew.members if not worker.holds_resource]

        if engine.user.create_error is not None:
            why = engine.user.create_trouble
        elif not lacking:
            why = "none was hired"
        elif any(worker.checks_too_long for worker in lacking):
            why = "on_check has not returned"
        elif any(worker.creating for worker in lacking):
            why = engine.backend.late()
        else:
            why = "on_destroy has not returned"

        return f"{self._create_timeout:g} s (create_timeout): {why}"

    # -- scaling -----------------------------------------------------------------------

    def _scale(self) -> None:
        now = monotonic()
        if not self.scales or now - self._scaled_at < self._interval * _DUE:
            return

        self._scaled_at = now
        engine = self._engine
        arrived, finished = engine.counters.progress()

        sample = self._sampler.tick(
            now,
            arrived=arrived,
            finished=finished,
            backlog=sum(engine.queue.waiting()),
            workers=engine.crew.staying(),
            holding=engine.crew.holding(),
            idle=len(engine.queue.idle.announced),
            stuck=self._stuck,
        )
        delta = 0 if sample is None else decide(sample, self._limits)

        if delta > 0:
            hired = engine.crew.hire(delta, lambda: engine.lifecycle.state == OPEN, TICK_S)
            engine.news.hired(hired, len(engine.crew.members))
        elif delta < 0:
            retired = engine.crew.retire(-delta, engine.queue.idle)
            engine.news.retired(retired, engine.crew.staying())
