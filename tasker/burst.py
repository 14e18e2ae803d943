"""The burst thread: a tick decides scaling, heals the crew, and once closing has begun, closes.

It is always there, scaling or not, from before the first worker until CLOSED. A tick is `burst_interval`, or less so
that healing never waits longer than `TICK`. It sleeps on a seat that anyone may wake. What goes wrong in a tick is
logged, and the next tick comes all the same. What takes long, to hire many workers say, is done for the time of a tick,
and goes on in the next one. Where nothing happens the thread rests: it sleeps without a tick until something does
(`TaskQueue.stir`).

The thread runs no user code: what it logs is logged aside, and what it refers to that may be the user's is dropped
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

from tasker import deadlock, timer
from tasker.aside import Aside, LoggerAside
from tasker.backoff import Backoff
from tasker.clock import monotonic
from tasker.context import Callback
from tasker.crew import Crew
from tasker.errors import ContextCancelledError, ResourceCreationError
from tasker.lifecycle import CLOSED, OPEN, Lifecycle
from tasker.locks import new_lock, release_locks
from tasker.logger import GuardedLogger, last_line_of
from tasker.metrics import BuiltinCollector
from tasker.news import News
from tasker.parking import Seat
from tasker.placement.base import Site
from tasker.queue import TaskQueue
from tasker.resources import ResourcePool
from tasker.scaling import Limits, Window, decide
from tasker.threads import new_thread
from tasker.timer import LATE
from tasker.turns import Turns
from tasker.usercode import UserCode
from tasker.worker import Worker

__all__ = ["Burst"]

TICK = 0.1  # seconds: the longest that a fault stays unhealed
STUCK = 5.0  # seconds without a tick, while somebody waits for the closing, after which another thread takes over
QUIET = 1.0  # seconds in which nothing has happened, after which the thread rests
REST = 30.0  # seconds until it looks again all the same


class Parts(Protocol):
    """What the burst thread looks after."""

    name: str
    site: Site
    queue: TaskQueue
    crew: Crew[Any]
    pool: ResourcePool[Any]
    turns: Turns
    aside: Aside
    figures: BuiltinCollector
    logger: GuardedLogger
    service_logger: LoggerAside
    news: News
    settling: set[Any]
    fallen: list[Worker[Any]]
    backoff: Backoff
    lifecycle: Lifecycle
    user: UserCode[Any]
    watchers: list[Seat]
    exiting: bool

    def heal_crew(self) -> None: ...

    def inherit(self, worker: Worker[Any]) -> None: ...

    def correct_counts(self) -> None: ...

    def worker_changed(self) -> None: ...


class Burst:
    """The thread, and what it remembers from tick to tick."""

    def __init__(self, parts: Parts, interval: float, create_timeout: float, limits: Limits) -> None:
        self._parts = parts
        self._interval = interval
        self._create_timeout = create_timeout
        self._limits = limits
        self.scales: bool = interval > 0
        self._tick = min(interval or TICK, TICK)
        self._seat = Seat()
        self._scaled_at = monotonic()
        self._held_at = self._scaled_at  # when a worker was last seen to hold a resource, without being stuck
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
        self._seen = (-1, 0.0)  # beats at an `ensure`, and when they were so many for the first time
        self._arrived: int = 0  # tasks, as the last tick saw
        self._stirred_at = self._scaled_at  # when there was last anything to see to
        parts.queue.wake_burst = self.wake
        self.thread: threading.Thread = new_thread(self._run, f"{parts.name}-burst")

    def wake(self) -> None:
        """End its sleep: something is to be done now. Signal-safe."""
        self._seat.wake()

    def ensure(self) -> None:
        """See to it that somebody closes: called now and then by whoever waits for that.

        Replaces a thread that has ended before its time, or has begun no tick for too long: it is kept by a destructor
        that the garbage collector runs there. Where no thread can be started (the interpreter exits), the tick is done
        here."""
        with self._replacing:
            now, beats = monotonic(), self._beats
            if beats != self._seen[0]:
                self._seen = beats, now
            # the thread first, then its word: it gives that before it is gone
            is_missing = now - self._seen[1] > STUCK or not self.thread.is_alive()
            if is_missing and not self._has_ended:
                self._replace()

    def join(self, timeout: float) -> None:
        """Wait until the thread is gone, `timeout` seconds at most: everything is closed. A replacement that has not
        begun yet will do nothing."""
        if self.thread.ident is not None:
            self.thread.join(timeout)

    def _replace(self) -> None:
        with self._replacing:
            self.thread = new_thread(self._run, f"{self._parts.name}-burst")
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
            if not self._has_ended and self.thread is thread:  # an exception that another thread sent
                self._replace()

    def _guarded_tick(self, patience: float = 0.0) -> bool:
        try:
            woken = self._seat.sleep(patience)
            self._beats += 1
            self._excuse(patience)
            self._end_rest(woken=woken)
            return self._do()
        except BaseException as error:
            self._struck = True
            with contextlib.suppress(BaseException):  # no memory: then without a word
                what = "%s: the burst thread met an error"
                self._parts.service_logger.fault("error", what, self._parts.name, error=error)
            return False

    def _excuse(self, patience: float) -> None:
        """A tick begins: it was to come so many seconds after the last one."""
        began, self._began = self._began, monotonic()
        late = self._began - began - patience
        is_late = late > LATE
        if is_late and not self._was_late:
            self._held_at += late
            self._parts.lifecycle.excuse(late)
        self._was_late = is_late

    def _do(self) -> bool:
        """One tick; `True`: everything is closed, and there is nothing left to do."""
        parts = self._parts
        if parts.exiting:  # no thread can be started any more
            parts.aside.run_here()
        state = parts.lifecycle.state
        if state == CLOSED or (state != OPEN and parts.lifecycle.step(self._began)):
            parts.aside.let_go(self._settling)
            return parts.lifecycle.finish()

        self._heal()
        if parts.lifecycle.state == OPEN:
            self._scale()
        return False

    # -- resting -------------------------------------------------------------------------------------------------

    def _patience(self) -> float:
        """Seconds to sleep: a tick, or many when there has been nothing to do for `QUIET` seconds. Then it rests."""
        queue, now = self._parts.queue, monotonic()
        queue.resting = False
        if not self._is_quiet():
            self._stirred_at = now
        elif now - self._stirred_at >= QUIET:
            queue.resting = True  # announce, then look: whoever makes work looks for this afterwards
            if self._is_quiet():
                return REST
            queue.resting = False
        return self._tick

    def _end_rest(self, *, woken: bool) -> None:
        parts, now = self._parts, monotonic()
        if not parts.queue.resting:
            return
        parts.queue.resting = False
        if woken:
            self._stirred_at = now
        self._held_at = now  # the workers have kept their resources: the loss of one would have ended the rest
        parts.figures.rested(now)

    def _is_quiet(self) -> bool:
        """Whether there is nothing that a tick could see to: all workers are there, hold resources, and are parked."""
        parts, crew = self._parts, self._parts.crew
        members = crew.members
        return (
            len(parts.queue.idle.announced) == len(members)
            and (len(members) == crew.base or (len(members) > crew.base and not self.scales))
            and parts.lifecycle.state == OPEN
            and not parts.exiting
            and not parts.watchers
            and not parts.settling
            and not parts.fallen
            and not parts.pool.out
            and not parts.turns.is_wanted()
            and not parts.logger.faults.any()
            and parts.aside.idle()
            and all(worker.seat.parked for worker in members)
            and parts.queue.is_quiet()
        )

    # -- healing -------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        parts = self._parts
        if parts.lifecycle.state == OPEN:
            parts.heal_crew()
        else:
            parts.crew.bury()  # or the closing would wait for them
        parts.queue.ripen(monotonic())
        if any(parts.queue.waiting()) and parts.queue.idle.announced:
            parts.queue.idle.wake_all()  # tasks wait and workers sleep: a wake-up got lost
        parts.aside.let_go(parts.queue.compact())
        while parts.fallen:
            parts.aside.run(partial(parts.inherit, parts.fallen[-1]))
            parts.fallen.pop()
        self._finish_settling()
        parts.queue.wake_submitters()
        parts.turns.heal()
        parts.aside.heal()
        timer.ensure_running()
        self._watch_resources()
        now = monotonic()
        arrived = parts.figures.sample(now)
        if arrived != self._arrived:
            self._arrived, self._stirred_at = arrived, now
        parts.correct_counts()
        if parts.watchers:
            parts.worker_changed()

    def _watch_resources(self) -> None:
        """Once no worker that is free, or will be, has held a resource for `create_timeout`, give up hope: what waits
        fails, or the waits of the workers do that hold one (see `deadlock`)."""
        parts = self._parts
        now = self._began  # what is late in the middle of this tick the next one excuses
        holding = [worker for worker in parts.crew.members if worker.holds_resource]
        self._look_at_waits(holding)
        if holding and not self._stuck:
            self._held_at = now
        else:  # one that broke between two ticks was held, too
            self._held_at = max(self._held_at, parts.backoff.made_at)
        whole = len(holding) == len(parts.crew.members)
        if whole and parts.user.create_error is not None:
            parts.aside.let_go([parts.user.take_create_error()])
        parts.news.look(whole=whole)
        self.hopeless = parts.site.impossible is not None or now - self._held_at >= self._create_timeout
        if self.hopeless and not holding:
            parts.queue.fail_waiting(
                lambda task: task._fail_from_outside(self._creation_error(), ContextCancelledError("no resource")),
                parts.aside.let_go,
                TICK,
            )

    def _finish_settling(self) -> None:
        """Finish what a collector that blocks has held up since the last tick."""
        parts = self._parts
        jobs: list[Callback] = []
        for place in range(len(self._settling)):
            # a thread that is about to store the outcome may have to wait for its turn longer than a tick
            if self._settling[place] in parts.settling and self._settling[place]._has_outcome():
                jobs += self._settling[place]._finish_aside()
        parts.aside.run_all(jobs)
        parts.aside.let_go(self._settling)
        self._settling = list(parts.settling)

    def _look_at_waits(self, holding: list[Any]) -> None:
        """Look whether the workers that hold a resource wait for what is in the lanes, and for circles. That takes
        long where tasks wait for thousands of others, so it is not done at every tick there."""
        now = monotonic()
        if now >= self._look_at:
            parts = self._parts
            self._stuck = bool(holding) and any(parts.queue.waiting()) and not deadlock.any_free(holding)
            deadlock.look_again(parts.crew.members)
            self._look_at = now + 50 * (monotonic() - now)

    def _creation_error(self) -> ResourceCreationError:
        impossible = self._parts.site.impossible
        if impossible is None:
            what = f"no worker has held a resource for {self._why_hopeless()}"
        else:  # an error of tasker's own. The worker that found out may be yet to note it as the last one
            what = f"no worker will ever hold a resource: no resource was made: {last_line_of(impossible)}"
        error = ResourceCreationError(f"{self._parts.name}: {what}")
        error.__cause__ = impossible or self._parts.user.create_error
        return error

    def trouble(self) -> str:
        """Why there is no hope, although workers hold resources. Runs code of the user's."""
        return f"no other worker of {self._parts.name} has got a resource for {self._why_hopeless()}"

    def _why_hopeless(self) -> str:
        parts = self._parts
        lacking = [worker for worker in parts.crew.members if not worker.holds_resource]
        if parts.user.create_error is not None:
            why = parts.user.create_trouble
        elif not lacking:
            why = "none was hired"
        elif any(worker.creating for worker in lacking):
            why = parts.site.late()
        else:
            why = "on_destroy has not returned"
        return f"{self._create_timeout:g} s (create_timeout): {why}"

    # -- scaling -------------------------------------------------------------------------------------------------

    def _scale(self) -> None:
        now = monotonic()
        if not self.scales or now - self._scaled_at < self._interval * 0.9:
            return
        self._scaled_at = now
        parts = self._parts
        arrived, finished = parts.figures.progress()
        sample = self._window.tick(
            now,
            arrived=arrived,
            finished=finished,
            backlog=sum(parts.queue.waiting()),
            workers=parts.crew.staying(),
            holding=parts.crew.holding(),
            idle=len(parts.queue.idle.announced),
            stuck=self._stuck,
        )
        delta = 0 if sample is None else decide(sample, self._limits)
        if delta > 0:
            hired = parts.crew.hire(delta, lambda: parts.lifecycle.state == OPEN, TICK)
            parts.news.hired(hired, len(parts.crew.members))
        elif delta < 0:
            retired = parts.crew.retire(-delta, parts.queue.idle)
            parts.news.retired(retired, parts.crew.staying())
