"""The burst thread: a tick decides scaling, heals the crew, and once closing has begun, closes.

It is always there, scaling or not, from before the first worker until CLOSED. A tick is `burst_interval`, or less so
that healing never waits longer than `TICK_S`. It sleeps on a parker that anyone may wake. What goes wrong in a tick is
logged, and the next tick comes all the same. What takes long, to hire many workers say, is done for the time of a tick,
and goes on in the next one. Where nothing happens the thread rests: it sleeps without a tick until something does
(`TaskQueue.stir`).

The thread runs no user code: what it logs is logged by the callback runner, and what it refers to that may be the user's is dropped
there. At interpreter exit, when no thread can be started that would, it runs the callbacks of what it ended. One that
ends before its time is replaced by its own last act, or by whoever waits for the closing (`ensure`).

A tick that comes much too late (the machine slept, the process was stopped) means that nobody could act: the limits
for others begin to count anew. Where one comes after another that is how things are, and the time counts.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import Any, Protocol

from tasker._pool.backoff import Backoff
from tasker._pool.crew import Crew
from tasker._pool.lifecycle import CLOSED, OPEN, Lifecycle
from tasker._pool.metrics import Counters
from tasker._pool.news import News
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ResourcePool
from tasker._pool.scaling import Limits, Window, decide
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

TICK_S = 0.1  # seconds: the longest that a fault stays unhealed
STUCK_S = 5.0  # seconds without a tick, while somebody waits for the closing, after which another thread takes over
QUIET_S = 1.0  # seconds in which nothing has happened, after which the thread rests
REST_S = 30.0  # seconds until it looks again all the same


class EngineForHousekeeper(Protocol):
    """What the burst thread looks after."""

    name: str
    backend: Backend
    queue: TaskQueue
    crew: Crew[Any]
    pool: ResourcePool[Any]
    turns: Turns
    runner: CallbackRunner
    counters: Counters
    logger: GuardedLogger
    service_logger: BackgroundLogger
    news: News
    settling: set[Any]
    fallen: list[Worker[Any]]
    backoff: Backoff
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
        self._held_at = (
            self._scaled_at
        )  # when a worker was last seen to hold a resource, without being stuck
        self.hopeless: bool = False  # whether that is longer ago than `create_timeout`
        self._stuck = False  # whether all workers that hold a resource wait, at last, for what is in the lanes
        self._look_at = 0.0  # when to look at waits again
        self._window = Window(interval, self._scaled_at)
        self._began = self._scaled_at  # when the last tick began
        self._was_late = False
        self._settling: list[Any] = []  # tasks that were being settled at the last tick
        self._has_ended = False
        self._struck = False  # whether the last tick was ended by an error
        self._replacing = new_lock()
        self._beats = 0  # ticks begun
        self._seen = (
            -1,
            0.0,
        )  # beats at an `ensure`, and when they were so many for the first time
        self._arrived: int = 0  # tasks, as the last tick saw
        self._stirred_at = self._scaled_at  # when there was last anything to see to
        engine.queue.wake_housekeeper = self.wake
        self.thread: threading.Thread = new_thread(self._run, f"{engine.name}-burst")

    def wake(self) -> None:
        """End its sleep: something is to be done now. Signal-safe."""
        self._parker.wake()

    def ensure(self) -> None:
        """See to it that somebody closes: called now and then by whoever waits for that.

        Replaces a thread that has ended before its time, or has begun no tick for too long: it is kept by a destructor
        that the garbage collector runs there. Where no thread can be started (the interpreter exits), the tick is done
        here."""
        with self._replacing:
            now, beats = monotonic(), self._beats
            if beats != self._seen[0]:
                self._seen = beats, now
            is_stuck = now - self._seen[1] > STUCK_S
            if not self._has_ended and (is_stuck or not self.thread.is_alive()):
                self._replace()

    def _replace(self) -> None:
        with self._replacing:
            self.thread = new_thread(self._run, f"{self._engine.name}-burst")
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
            if (
                not self._has_ended and self.thread is thread
            ):  # an exception that another thread sent
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
            with contextlib.suppress(BaseException):  # no memory: then without a word
                what = "%s: the burst thread met an error"
                self._engine.service_logger.fault("error", what, self._engine.name, error=error)
            return False

    def _excuse(self, patience: float) -> None:
        """A tick begins: it was to come so many seconds after the last one."""
        began, self._began = self._began, monotonic()
        late = self._began - began - patience
        is_late = late > LATE_S
        if is_late and not self._was_late:
            self._held_at += late
            self._engine.lifecycle.excuse(late)
        self._was_late = is_late

    def _do(self) -> bool:
        """One tick; `True`: everything is closed, and there is nothing left to do."""
        engine = self._engine
        if engine.exiting:  # no thread can be started any more
            engine.runner.run_here()
        state = engine.lifecycle.state
        if state == CLOSED or (state != OPEN and engine.lifecycle.step(self._began)):
            engine.runner.let_go(self._settling)
            return engine.lifecycle.finish()

        self._heal()
        if engine.lifecycle.state == OPEN:
            self._scale()
        return False

    # -- resting -------------------------------------------------------------------------------------------------

    def _patience(self) -> float:
        """Seconds to sleep: a tick, or many when there has been nothing to do for `QUIET_S` seconds. Then it rests."""
        queue, now = self._engine.queue, monotonic()
        queue.resting = False
        if not self._is_quiet():
            self._stirred_at = now
        elif now - self._stirred_at >= QUIET_S:
            queue.resting = (
                True  # announce, then look: whoever makes work looks for this afterwards
            )
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
        self._held_at = (
            now  # the workers have kept their resources: the loss of one would have ended the rest
        )
        engine.counters.rested(now)

    def _is_quiet(self) -> bool:
        """Whether there is nothing that a tick could see to: all workers are there, hold resources, and are parked."""
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
            and not engine.turns.is_wanted()
            and not engine.logger.faults.any()
            and engine.runner.idle()
            and all(worker.parker.parked for worker in members)
            and engine.queue.is_quiet()
        )

    # -- healing -------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        engine = self._engine
        if engine.lifecycle.state == OPEN:
            engine.heal_crew()
        else:
            engine.crew.bury()  # or the closing would wait for them
        engine.queue.ripen(monotonic())
        if any(engine.queue.waiting()) and engine.queue.idle.announced:
            engine.queue.idle.wake_all()  # tasks wait and workers sleep: a wake-up got lost
        engine.runner.let_go(engine.queue.compact())
        while engine.fallen:
            engine.runner.run(partial(engine.inherit, engine.fallen[-1]))
            engine.fallen.pop()
        self._finish_settling()
        engine.queue.wake_submitters()
        engine.turns.heal()
        engine.runner.heal()
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
        """Once no worker that is free, or will be, has held a resource for `create_timeout`, give up hope: what waits
        fails, or the waits of the workers do that hold one (see `deadlock`)."""
        engine = self._engine
        now = self._began  # what is late in the middle of this tick the next one excuses
        holding = [worker for worker in engine.crew.members if worker.holds_resource]
        self._look_at_waits(holding)
        if holding and not self._stuck:
            self._held_at = now
        else:  # one that broke between two ticks was held, too
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
        """Finish what a collector that blocks has held up since the last tick."""
        engine = self._engine
        jobs: list[Callback] = []
        for place in range(len(self._settling)):
            # a thread that is about to store the outcome may have to wait for its turn longer than a tick
            if self._settling[place] in engine.settling and self._settling[place]._has_outcome():
                jobs += self._settling[place]._finish_for_other_thread()
        engine.runner.run_all(jobs)
        engine.runner.let_go(self._settling)
        self._settling = list(engine.settling)

    def _look_at_waits(self, holding: list[Any]) -> None:
        """Look whether the workers that hold a resource wait for what is in the lanes, and for circles. That takes
        long where tasks wait for thousands of others, so it is not done at every tick there."""
        now = monotonic()
        if now >= self._look_at:
            engine = self._engine
            self._stuck = (
                bool(holding) and any(engine.queue.waiting()) and not deadlock.any_free(holding)
            )
            deadlock.look_again(engine.crew.members)
            self._look_at = now + 50 * (monotonic() - now)

    def _creation_error(self) -> ResourceCreationError:
        impossible = self._engine.backend.impossible
        if impossible is None:
            what = f"no worker has held a resource for {self._why_hopeless()}"
        else:  # an error of tasker's own. The worker that found out may be yet to note it as the last one
            what = f"no worker will ever hold a resource: no resource was made: {last_line_of(impossible)}"
        error = ResourceCreationError(f"{self._engine.name}: {what}")
        error.__cause__ = impossible or self._engine.user.create_error
        return error

    def trouble(self) -> str:
        """Why there is no hope, although workers hold resources. Runs code of the user's."""
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
        elif any(worker.creating for worker in lacking):
            why = engine.backend.late()
        else:
            why = "on_destroy has not returned"
        return f"{self._create_timeout:g} s (create_timeout): {why}"

    # -- scaling -------------------------------------------------------------------------------------------------

    def _scale(self) -> None:
        now = monotonic()
        if not self.scales or now - self._scaled_at < self._interval * 0.9:
            return
        self._scaled_at = now
        engine = self._engine
        arrived, finished = engine.counters.progress()
        sample = self._window.tick(
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
