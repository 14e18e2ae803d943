"""One round of the soak: a manager under random load with every fault at once, from its making to its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import faulthandler
import gc
import random
import signal
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from benchmarks.chaos import ERRORS, Chaos, Collector, Hooks, Log, fail, steal_wake_up, trip, unreliable_threads
from benchmarks.ledger import Job, Ledger, Resource
from tasker import (
    Config,
    Context,
    QueueFullError,
    ResourceCreationError,
    StopReport,
    TaskFuture,
    TaskManager,
    TaskManagerShutdownError,
    background,
    with_cancel,
)

__all__ = ["PATIENCE", "Storm"]

PATIENCE = 30.0  # seconds after which something that has to end is taken for hung
MOST_JOBS = 15_000  # in one round, so that what the harness keeps is the same in all of them

FORMS = ["async"] * 8 + ["callback"] * 4 + ["blocking"] * 2 + ["dropped"] * 2 + ["run_task"]
UNHURRIED = ["async", "callback", "dropped"]  # forms that do not block, for tasks and callbacks
ACTS = ["returns"] * 80 + ["sleeps"] * 6 + ["submits another"] * 6 + ["cancels another"] * 4 + ["recurses for ever"]
ACTS += [*ERRORS] + ["is sick"] * 2


class Storm:
    """A round. `run()` it once; `moves()` grows as long as it is alive."""

    def __init__(self, number: int, seed: int) -> None:
        self.name = f"soak-{number}"
        self.rng = random.Random(f"{seed}/{number}")
        self.chaos = Chaos(f"{seed}/{number}/chaos")
        self.ledger = Ledger(self.name)
        self.counts: Counter[str] = Counter()
        self.way = ""  # how it ends
        self._impatient = self.rng.random() < 0.5  # gives up soon when no resource can be made
        self._seed = f"{seed}/{number}"
        self._manager: TaskManager[Resource] | None = None  # the harness keeps it here and nowhere else
        self._engine: Any = None
        self._recent: deque[Job] = deque(maxlen=100)
        self._finished = threading.Event()
        self._released = threading.Event()  # ends stuck tasks
        self._hangs = False
        self._producers: list[threading.Thread] = []
        self._collector = Collector(self.chaos) if self.rng.random() < 0.3 else None

    def moves(self) -> int:
        """How much has happened so far; submissions do not count, which a signal handler may go on with for ever."""
        return sum(len(job.runs) + len(job.outcomes) for job in tuple(self.ledger.jobs)) + len(self.ledger.resources)

    def engine_reference(self) -> weakref.ref[Any] | None:
        """For seeing whether the engine is collected; `None` when the manager could not be made."""
        return None if self._engine is None else weakref.ref(self._engine)

    def run(self, seconds: float) -> None:
        """Make a manager, load it for so long, end it in one of the ways, and audit it."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(self.rng.choice([interval, interval, 1e-4, 1e-6]))
        try:
            with unreliable_threads(self.chaos, self.name):
                if self._open():
                    with self._alarms():
                        self._load(time.monotonic() + seconds)
                    if self.rng.random() < 0.5:
                        self._rest()
                    with self._alarms():
                        self._end()
                    self._audit()
        finally:
            sys.setswitchinterval(interval)
            self._finished.set()

    # -- its beginning -----------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        rng, hooks = self.rng, Hooks(self.chaos, self.ledger)
        workers = rng.randint(1, 3)
        most = rng.choice([workers, workers, workers + 1, workers + 3])
        self._context = with_cancel(background())
        config = Config(
            on_create=hooks.create,
            on_destroy=hooks.destroy,
            check_health=hooks.healthy,
            worker_count=workers,
            max_worker_count=most,
            name=self.name,
            ctx=self._context,
            burst_interval=rng.choice([0, 0.005, 0.02, 0.1]),
            max_retries=rng.choice([0, 1, 3]),
            create_timeout=0.2 if self._impatient else 30.0,
            resource_pool_size=rng.choice([None, 0, 2]),
            burst_task_threshold=rng.choice([0, 0, 10]),
            queue_size=rng.choice([0, 0, 5, 50]),
            logger=Log(self.chaos, self.ledger),
            collector=self._collector,
        )
        self.ledger.most_workers = most
        try:
            self._manager = TaskManager(config)
        except BaseException as error:
            if not isinstance(error, ResourceCreationError) and error.args != ("on_create",):
                raise
            self.way = "never opened"  # on_create failed for the run_task pool
            self._check_nothing_is_left()
            return False
        self._engine = self._manager._engine
        self.ledger.watch(self._engine)
        trip(self.chaos, self._engine.crew, "heal")
        trip(self.chaos, self._engine.figures, "sample")
        return True

    # -- its load ----------------------------------------------------------------------------------------------------

    def _load(self, deadline: float) -> None:
        for number in range(self.rng.randint(1, 3)):
            self._start_producer(f"producer-{number}", partial(self._produce, random.Random(f"{self._seed}/{number}")))
        self._start_producer("asyncio", lambda: asyncio.run(self._produce_and_await(random.Random(self._seed))))
        self._start_producer("looker", partial(self._look, random.Random(f"{self._seed}/look")))
        if self.rng.random() < 0.3:
            self.chaos.outage_until = time.monotonic() + 0.5
        while time.monotonic() < deadline:  # the main thread, where signal handlers run, works too
            self._burst(self.rng, patient=False)
            time.sleep(self.rng.random() * 0.005)

    def _start_producer(self, name: str, target: Callable[[], object]) -> None:
        thread = threading.Thread(target=target, name=f"harness-{name}", daemon=True)
        self._producers.append(thread)
        thread.start()

    def _produce(self, rng: random.Random) -> None:
        while not self._finished.is_set():
            self._burst(rng, patient=True)
            self._finished.wait(rng.choice([0, 0.001, 0.01]))

    def _burst(self, rng: random.Random, *, patient: bool) -> None:
        """Submit some, then wait for some of them. Who is not patient gives every wait an end."""
        jobs = [self._submit(rng, rng.choice(FORMS), patient=patient) for _ in range(rng.choice([1, 5, 30, 200]))]
        if rng.random() < 0.3:
            self._cancel_another(rng)
        futures = [job.future for job in jobs if job is not None and job.future is not None]
        if futures and rng.random() < 0.5:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                self._wait(futures[: rng.choice([1, 10, 100])], rng)

    def _wait(self, futures: list[TaskFuture[Any]], rng: random.Random) -> None:
        if rng.random() < 0.5:
            concurrent.futures.wait(futures, 0.05, rng.choice(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"]))
            return
        seen = list(concurrent.futures.as_completed(futures, 0.1))
        if len(seen) != len(futures) or set(seen) != set(futures):
            self.ledger.broken(f"as_completed() gave {len(seen)} futures for {len(futures)}")

    async def _produce_and_await(self, rng: random.Random) -> None:
        while not self._finished.is_set():
            jobs = [self._submit(rng, "async", queue_timeout=0) for _ in range(rng.choice([1, 5, 30]))]
            # awaiting a GeneratorExit closes the coroutine that awaits: so Python throws it
            gentle = [job for job in jobs if job is not None and job.act != "raises GeneratorExit"]
            futures = [job.future for job in gentle if job.future is not None]
            if rng.random() < 0.5:
                await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
            else:
                for future in futures:
                    await _awaited(future)
            await asyncio.sleep(rng.random() * 0.005)

    def _look(self, rng: random.Random) -> None:
        """Watch the figures, steal wake-ups, collect garbage, join for a moment."""
        before = dict.fromkeys(("arrived", "completed", "failed", "retried", "cancelled"), 0)
        while not self._finished.wait(rng.random() * 0.003):
            self._check_figures(before)
            if rng.random() < 0.3:
                steal_wake_up(self.chaos, self._engine)
            if rng.random() < 0.01:
                self.chaos.note("garbage is collected")
                gc.collect()
            if rng.random() < 0.02 and (manager := self._manager) is not None:
                (manager.join if rng.random() < 0.5 else manager.wait_ready)(0.01)
                del manager

    def _check_figures(self, before: dict[str, int]) -> None:
        stats, metrics = self._engine.stats(), self._engine.metrics()
        for field in fields(stats):
            if getattr(stats, field.name) < 0:
                self.ledger.broken(f"stats().{field.name} is {getattr(stats, field.name)}")
        if stats.active_workers > self.ledger.most_workers:
            self.ledger.broken(f"{stats.active_workers} workers, {self.ledger.most_workers} are the most")
        for name, least in before.items():
            now = getattr(metrics, f"total_tasks_{name}")
            if now < least:
                self.ledger.broken(f"metrics().total_tasks_{name} fell from {least} to {now}")
            before[name] = now

    # -- submitting --------------------------------------------------------------------------------------------------

    def _submit(
        self, rng: random.Random, form: str, *, act: str = "", patient: bool = True, queue_timeout: float | None = None
    ) -> Job | None:
        """Submit one task, unless the round is full; `None` when it was not accepted."""
        manager = self._manager
        if manager is None or (not act and len(self.ledger.jobs) >= MOST_JOBS):
            time.sleep(0.0001)
            return None
        timeout = None
        if form in ("async", "callback", "blocking") and rng.random() < 0.2:
            timeout = rng.choice([0.0005, 0.005, 5.0])
        job = Job(
            self.chaos.rng.getrandbits(60),
            form,
            act or rng.choice(ACTS),
            priority=rng.random() < 0.3,
            once=rng.random() < 0.3,
            limited=timeout is not None,
        )
        if queue_timeout is None:
            queue_timeout = rng.choice([None, 0.01, 0]) if patient else rng.choice([0.01, 0])
        options: dict[str, Any] = {"timeout": timeout, "queue_timeout": queue_timeout}
        if form == "blocking" and not patient and timeout is None:
            options["timeout"] = PATIENCE
        self.ledger.jobs.append(job)
        too_late = self._engine.queue.closed
        try:
            self._hand_over(manager, job, rng.random() < 0.2, options)
        except QueueFullError:
            return None
        except TaskManagerShutdownError:
            job.met_closing = not too_late
            return None
        job.accepted_at = time.perf_counter()
        if too_late:
            self.ledger.broken(f"{job} was accepted after closing had begun")
        if job.future is not None:
            self._recent.append(job)
            if rng.random() < 0.1:
                _cancel(job)
        return job

    def _hand_over(self, manager: TaskManager[Resource], job: Job, wants_context: bool, options: Any) -> None:
        fn: Any = self._run_with_context if wants_context else self._run
        kind, ledger = f"{'_with_priority' * job.priority}{'_once' * job.once}", self.ledger
        if job.form == "callback":
            getattr(manager, f"queue_task{kind}_with_callback")(fn, partial(self._call_back, job), job, **options)
        elif job.form in ("blocking", "run_task"):
            method = manager.run_task if job.form == "run_task" else getattr(manager, f"queue_task{kind}")
            try:
                result = method(fn, job, **({} if job.form == "run_task" else options))
            except (QueueFullError, TaskManagerShutdownError):
                raise
            except BaseException as error:
                if type(error) is KeyboardInterrupt and not error.args:
                    raise  # a real one
                ledger.told(job, None, error)
            else:
                ledger.told(job, result, None)
        elif job.form == "dropped":
            job.reference = weakref.ref(manager.submit(fn, job, priority=job.priority, once=job.once, **options))
        else:
            job.future = getattr(manager, f"queue_task{kind}_async")(fn, job, **options)
            job.future.add_done_callback(partial(self._done, job))

    def _done(self, job: Job, future: TaskFuture[Any]) -> None:
        error = concurrent.futures.CancelledError() if future.cancelled() else future.exception(0)
        self._call_back(job, None if error is not None else future.result(0), error)

    def _call_back(self, job: Job, result: Any, error: BaseException | None) -> None:
        self.ledger.entered("a callback")
        self.ledger.told(job, result, error)
        if job.act.startswith("ends by its callback"):
            self._end_from_inside(job.act)
        elif self.chaos.strikes("a callback submits another", 0.02):
            self._submit(self.chaos.rng, self.chaos.rng.choice(UNHURRIED), queue_timeout=0)
        self.chaos.raise_in("a callback", 0.05)

    def _cancel_another(self, rng: random.Random) -> None:
        with contextlib.suppress(IndexError):
            _cancel(self._recent[rng.randrange(len(self._recent) or 1)])

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _run(self, resource: Resource, job: Job) -> int:
        return self._run_with_context(None, resource, job)

    def _run_with_context(self, context: Context | None, resource: Resource, job: Job) -> int:
        self.ledger.take(resource, job)
        try:
            self._act(job, context)
        finally:
            self.ledger.give_back(resource)
        job.returned = True
        return job.number

    def _act(self, job: Job, context: Context | None) -> None:
        act, rng = job.act, self.chaos.rng
        may_end = job.asked_to_end or job.limited or self.ledger.may_be_killed
        if context is not None and context.cancelled() and not may_end:
            self.ledger.broken(f"{job} found its context ended: {context.err()!r}")
        if act == "returns":
            return
        if act == "sleeps":
            (time.sleep if context is None else context.wait)(rng.random() * 0.003)
        elif act == "submits another":
            self._submit(rng, rng.choice(UNHURRIED), queue_timeout=0)
        elif act == "cancels another":
            self._cancel_another(rng)
        elif act == "is stuck":
            self._released.wait(PATIENCE)
        elif act.startswith("ends by its task"):
            self._end_from_inside(act)
        elif act in ERRORS or act == "recurses for ever":
            self.chaos.note(f"a task {act}")
            fail(job)

    def _end_from_inside(self, act: str) -> None:
        if (manager := self._manager) is not None:
            report = manager.kill() if act.endswith("kill") else manager.stop()
            if report.drained:
                self.ledger.broken(f"a manager that was ended by one of its tasks has not waited for it: {report}")

    # -- signals -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alarms(self) -> Any:
        """A signal handler that submits, cancels, and ends the manager now and then; where there are signals."""
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.002, self.rng.choice([0.002, 0.01, 0.05]))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _on_alarm(self, *_: object) -> None:
        self.chaos.note("a signal")
        self._submit(self.chaos.rng, self.chaos.rng.choice(UNHURRIED), queue_timeout=0)
        self._cancel_another(self.chaos.rng)
        self._engine.stats()
        self._engine.metrics()
        if self.chaos.strikes("a signal handler stops the manager", 0.0005) and self._manager is not None:
            self._manager.stop()

    # -- its end -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        ways: dict[str, Callable[[], object]] = {
            "stop": self._stop,
            "stop with a timeout": self._stop_soon,
            "kill": self._kill,
            "kill with stuck tasks": self._kill_stuck,
            "several at once": self._end_at_once,
            "stop from a task": partial(self._end_by, "async", "ends by its task: stop"),
            "kill from a task": partial(self._end_by, "async", "ends by its task: kill"),
            "stop from a callback": partial(self._end_by, "callback", "ends by its callback: stop"),
            "kill from a callback": partial(self._end_by, "callback", "ends by its callback: kill"),
            "cancelled context": self._context.cancel,
            "KeyboardInterrupt": self._interrupt,
            "forgotten": self._forget,
        }
        self.way = self.rng.choice(list(ways))
        ways[self.way]()
        if not self._engine.lifecycle.wait(PATIENCE):
            self._hung(f"the manager has not closed within {PATIENCE:g} s")
        # a timeout or a cancel() may be about to settle its task at this very moment
        if not _eventually(lambda: all(job.is_done() for job in self.ledger.accepted()), min(PATIENCE, 1.0)):
            self.ledger.broken("the manager has closed and there are tasks without an outcome")

    def _audit(self) -> None:
        stuck = self.way == "kill with stuck tasks"
        self.ledger.closed = not stuck
        self._released.set()
        self._join_producers()
        self._check_nothing_is_left()
        report: StopReport = self._engine.lifecycle.report()
        self.counts = self.ledger.audit(report, self.chaos.counts()["on_destroy raises"], stuck)
        self._check_collector()
        self._manager = None

    def _stop(self) -> None:
        assert self._manager is not None
        report = self._manager.stop()
        if not report.drained:
            self.ledger.broken(f"stop() returned {report}")

    def _stop_soon(self) -> None:
        assert self._manager is not None
        self.ledger.may_be_killed = True
        self._manager.stop(self.rng.choice([0, 0.001, 0.01, 0.1]))

    def _kill(self) -> None:
        assert self._manager is not None
        self.ledger.may_be_killed = True
        self._manager.kill(PATIENCE)

    def _kill_stuck(self) -> None:
        assert self._manager is not None
        for _ in range(self.ledger.most_workers):
            self._submit(self.rng, "async", act="is stuck", queue_timeout=0.01)
        self.ledger.may_be_killed = True
        self._manager.kill(self.rng.choice([0, 0.01, 0.1]))

    def _end_at_once(self) -> None:
        manager = self._manager
        assert manager is not None
        self.ledger.may_be_killed = True
        ends = (manager.stop, partial(manager.stop, 0.01), partial(manager.kill, PATIENCE), partial(manager.stop, 5))
        threads = [threading.Thread(target=end, name="harness-end", daemon=True) for end in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

    def _end_by(self, form: str, act: str) -> None:
        self.ledger.may_be_killed = act.endswith("kill")
        deadline = time.monotonic() + PATIENCE
        while not self._engine.queue.closed and time.monotonic() < deadline:
            self._submit(self.rng, form, act=act, queue_timeout=0.01)
            time.sleep(0.001)

    def _interrupt(self) -> None:
        assert self._manager is not None
        self.ledger.may_be_killed = True
        with contextlib.suppress(KeyboardInterrupt), self._manager:
            raise KeyboardInterrupt("left by one")

    def _forget(self) -> None:
        self._manager = None
        self._join_producers()
        gc.collect()

    def _rest(self) -> None:
        """Without faults and without load the manager heals, and everything that was accepted ends."""
        self.chaos.calm = True
        self._join_producers()
        manager, broken = self._manager, self.ledger.broken
        if manager is None or self._hangs or self._engine.lifecycle.state:
            return
        if not manager.wait_ready(PATIENCE):
            broken(f"the base workers had no resources after {PATIENCE:g} s without faults: {manager!r}")
        if not manager.join(PATIENCE):
            broken(f"not at rest after {PATIENCE:g} s without load: {manager!r}")
        stats, metrics = manager.stats(), manager.metrics()
        ended = metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
        if ended != metrics.total_tasks_arrived:
            broken(f"at rest {metrics.total_tasks_arrived} tasks had arrived and {ended} ended")
        if stats.queued_tasks or stats.priority_tasks or stats.running_tasks or stats.base_workers < 1:
            broken(f"at rest: {stats}")
        dropped = [job for job in self.ledger.jobs if job.reference is not None]
        if not _eventually(lambda: gc.collect() >= 0 and not any(job.reference() for job in dropped if job.reference)):
            broken("a resting manager keeps the futures of tasks that have ended")

    def _join_producers(self) -> None:
        self._finished.set()
        for thread in self._producers:
            if not self._hangs:
                thread.join(PATIENCE)
            if thread.is_alive() and not self._hangs:
                self._hung(f"{thread.name} still waits {PATIENCE:g} s after the load ended")

    def _check_nothing_is_left(self) -> None:
        def ours() -> list[str]:
            return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"{self.name}-")]

        if not _eventually(lambda: not ours()):
            self._hung(f"threads of the closed manager are left: {', '.join(ours())}")
        if self._engine is None and not all(resource.ends for resource in self.ledger.resources):
            self.ledger.broken("a constructor that failed left resources behind")

    def _check_collector(self) -> None:
        if self._collector is None:
            return
        told = self._collector.counts()
        counts = {"arrived": self.counts["accepted"]} | {
            name: self.counts[name] for name in ("completed", "failed", "retried")
        }
        if told != Counter(counts):
            self.ledger.broken(f"the collector was told {dict(told)}, metrics() says {counts}")

    def _hung(self, sentence: str) -> None:
        self._hangs = True  # the rest is not waited for
        self.ledger.broken(sentence)
        faulthandler.dump_traceback(all_threads=True)


def _cancel(job: Job) -> None:
    job.asked_to_end = True
    if job.future is not None and job.future.cancel() and job.withdrawn_after is None:
        job.withdrawn_after = len(job.runs)


async def _awaited(future: TaskFuture[Any]) -> None:
    """Await a future; here, because the error's traceback keeps this frame, which must not know the manager."""
    with contextlib.suppress(BaseException):
        await future


def _eventually(condition: Callable[[], bool], patience: float | None = None) -> bool:
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
