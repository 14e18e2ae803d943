"""One round of the soak: a manager under random load with every fault at once, from its making to its end."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from collections import Counter
from typing import Any

from benchmarks import patience
from benchmarks.audit import audit
from benchmarks.chaos import Chaos, Collector, Hooks, Log, trip, unreliable_threads
from benchmarks.endings import ENDINGS, STUCK
from benchmarks.ledger import Ledger, Resource
from benchmarks.load import Load
from benchmarks.work import Work
from tasker import Config, ResourceCreationError, TaskManager, background, with_cancel

__all__ = ["Storm"]


class Storm:
    """A round. `run()` it once."""

    def __init__(self, number: int, seed: int) -> None:
        self.name = f"soak-{number}"
        self.rng = random.Random(f"{seed}/{number}")
        self.chaos = Chaos(f"{seed}/{number}/chaos")
        self.ledger = Ledger(self.name)
        self.counts: Counter[str] = Counter()
        self.way = ""  # how it ends
        self._seed = f"{seed}/{number}"
        self._collector = Collector(self.chaos) if self.rng.random() < 0.3 else None

    def engine_reference(self) -> weakref.ref[Any] | None:
        """For seeing whether the engine is collected; `None` when the manager could not be made."""
        return None if self.ledger.engine is None else weakref.ref(self.ledger.engine)

    def run(self, seconds: float) -> None:
        """Make a manager, load it for so long, end it in one of the ways, and audit it."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(self.rng.choice([interval, interval, 1e-4, 1e-6]))
        try:
            with unreliable_threads(self.chaos, self.name):
                if (work := self._open()) is None:
                    self.way = "never opened"  # on_create failed for the run_task pool
                    self._check_no_thread_is_left()
                    self._check_no_resource_is_left()
                else:
                    self._go_through(Load(work, self.rng, self._seed), seconds)
        finally:
            sys.setswitchinterval(interval)

    def _go_through(self, load: Load, seconds: float) -> None:
        try:
            with load.alarms():
                load.run(seconds)
            if self.rng.random() < 0.5:
                self._rest(load)
            with load.alarms():
                self._end(load)
            self._audit(load)
        finally:
            load.over.set()
            load.work.manager = None

    def _open(self) -> Work | None:
        try:
            manager = TaskManager(self._config())
        except BaseException as error:
            if not isinstance(error, ResourceCreationError) and error.args != ("on_create",):
                raise
            return None
        engine = manager._engine
        self.ledger.watch(engine)
        trip(self.chaos, engine.crew, "heal")
        trip(self.chaos, engine.figures, "sample")
        return Work(manager, self.chaos, self.ledger)

    def _config(self) -> Config[Resource]:
        rng, hooks = self.rng, Hooks(self.chaos, self.ledger)
        workers = rng.randint(1, 3)
        self.ledger.most_workers = rng.choice([workers, workers, workers + 1, workers + 3])
        return Config(
            on_create=hooks.create,
            on_destroy=hooks.destroy,
            check_health=hooks.healthy,
            worker_count=workers,
            max_worker_count=self.ledger.most_workers,
            name=self.name,
            ctx=with_cancel(background()),
            burst_interval=rng.choice([0, 0.005, 0.02, 0.1]),
            max_retries=rng.choice([0, 1, 3]),
            create_timeout=rng.choice([0.2, 30.0]),
            resource_pool_size=rng.choice([None, 0, 2]),
            burst_task_threshold=rng.choice([0, 0, 10]),
            queue_size=rng.choice([0, 0, 5, 50]),
            logger=Log(self.chaos, self.ledger),
            collector=self._collector,
        )

    def _rest(self, load: Load) -> None:
        """Without faults and without load the manager heals, and everything that was accepted ends."""
        self.chaos.calm = True
        load.join()
        manager, broken = load.work.manager, self.ledger.broken
        if manager is None or self.ledger.hangs or self.ledger.engine.lifecycle.state:
            return
        if not manager.wait_ready(patience.SECONDS):
            broken(f"the base workers had no resources after {patience.SECONDS:g} s without faults: {manager!r}")
        if not manager.join(patience.SECONDS):
            broken(f"not at rest after {patience.SECONDS:g} s without load: {manager!r}")
        stats, metrics = manager.stats(), manager.metrics()
        ended = metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
        if ended != metrics.total_tasks_arrived:
            broken(f"at rest {metrics.total_tasks_arrived} tasks had arrived and {ended} ended")
        if stats.queued_tasks or stats.priority_tasks or stats.running_tasks or stats.base_workers < 1:
            broken(f"at rest: {stats}")
        dropped = [job.reference for job in self.ledger.jobs if job.reference is not None]
        if not patience.eventually(lambda: gc.collect() >= 0 and not any(reference() for reference in dropped)):
            broken("a resting manager keeps the futures of tasks that have ended")

    def _end(self, load: Load) -> None:
        self.way = self.rng.choice(list(ENDINGS))
        ENDINGS[self.way](load)
        if not self.ledger.engine.lifecycle.wait(patience.SECONDS):
            self.ledger.hung(f"the manager has not closed within {patience.SECONDS:g} s")
        # a timeout or a cancel() may be about to settle its task at this very moment
        settled = patience.eventually(
            lambda: all(job.is_done() for job in self.ledger.accepted()), min(patience.SECONDS, 1.0)
        )
        if not settled:
            self.ledger.broken("the manager has closed and there are tasks without an outcome")

    def _audit(self, load: Load) -> None:
        stuck = self.way == STUCK
        self.ledger.closed = not stuck
        load.work.released.set()
        load.join()
        self._check_no_thread_is_left()
        self.counts = audit(self.ledger, destroy_errors=self.chaos.counts()["on_destroy raises"], stuck=stuck)
        self._check_collector()

    def _check_no_thread_is_left(self) -> None:
        def ours() -> list[str]:
            return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"{self.name}-")]

        if not patience.eventually(lambda: not ours()):
            self.ledger.hung(f"threads of the closed manager are left: {', '.join(ours())}")

    def _check_no_resource_is_left(self) -> None:
        if not all(resource.ends for resource in self.ledger.resources):
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
