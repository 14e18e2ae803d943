"""One round of the soak, from the making of a manager to its end.

The manager is under random load, with every fault at once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import shutil
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tasker import Config, Processes, ResourceCreationError, TaskManager, background, with_cancel
from tests.soak import patience
from tests.soak.audit import audit
from tests.soak.children import left_behind, witnessed
from tests.soak.endings import ENDINGS, ENDINGS_WITH_CHILDREN, LEAVE_STUCK, STUCK
from tests.soak.faults import (
    Aborts,
    Chaos,
    Collector,
    Hooks,
    Listener,
    Log,
    trip,
    unreliable_threads,
)
from tests.soak.in_child import LOGGER, ChaosInChild, HooksInChild, TasksInChild
from tests.soak.journal import Journal, Replay
from tests.soak.ledger import Ledger, Resource
from tests.soak.load import Load
from tests.soak.submitting import Submitter

__all__ = ["Round"]

# A short create_timeout, but longer than a hook takes with a logger that blocks.
HASTY_S = 0.5


class Round:
    """A round. `run()` it once."""

    def __init__(self, number: int, seed: int, placement: str = "threads") -> None:
        self.name = f"soak-{number}"
        self.rng = random.Random(f"{seed}/{number}")
        # Children leave their journals there. `None`: there are no children.
        self._folder = Path(mkdtemp(prefix="soak-")) if placement == "processes" else None
        self.chaos = Chaos(f"{seed}/{number}/chaos", self._folder)
        self.ledger = Ledger(self.name)
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.way = ""  # how it ends
        self._seed = f"{seed}/{number}"
        self._collector = Collector(self.chaos, self.ledger) if self.rng.random() < 0.3 else None

    def engine_reference(self) -> weakref.ref[Any] | None:
        """Return a weak reference, which tells whether the engine is collected.

        `None` if the manager could not be made.
        """
        return None if self.ledger.engine is None else weakref.ref(self.ledger.engine)

    def run(self, seconds: float) -> None:
        """Make a manager, load it for so long, end it in one way, and audit it."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(self.rng.choice([interval, interval, 1e-4, 1e-6]))
        try:
            with unreliable_threads(self.chaos, self.name), self._witnessed():
                if (submitter := self._open()) is None:
                    # on_create failed for the run_task pool.
                    self.way = "never opened"
                    self._check_no_thread_is_left()
                    self._read_journals()
                    self._check_no_resource_is_left()
                else:
                    with self._listening():
                        self._go_through(Load(submitter, self.rng, self._seed), seconds)

                self._check_no_child_is_left()
        finally:
            sys.setswitchinterval(interval)
            # Destructors may run later still.
            self.chaos.calm_down()
            self.faults += self.chaos.counts()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

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
            load.submitter.manager = None

    def _witnessed(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._folder is None else witnessed(self.ledger)

    def _open(self) -> Submitter | None:
        try:
            manager = TaskManager(self._config())
        except BaseException as error:
            if not isinstance(error, ResourceCreationError) and error.args != ("on_create",):
                raise
            return None

        engine = manager._engine
        self.ledger.watch(engine)
        manager._submit_asked = self.ledger.noting_chunks(manager._submit_asked)
        self.ledger.note_abandoned(engine.crew)
        trip(self.chaos, engine.crew, "heal")
        trip(self.chaos, engine.counters, "sample")
        tasks = (
            None if self._folder is None else TasksInChild(self._chaos_in_child(), self._journal())
        )

        return Submitter(manager, self.chaos, self.ledger, tasks)

    def _config(self) -> Config[Resource]:
        config = self._config_in_place()
        self.ledger.supervises = config.on_abort is not None or config.abandon_after is not None
        return config

    def _config_in_place(self) -> Config[Resource]:
        config = self._config_with_threads()
        if self._folder is None:
            return replace(
                config,
                **self._service(Hooks(self.chaos, self.ledger)),
                abandon_after=self.rng.choice([None, 0.02, 0.1]),
            )

        self.ledger.loses = True
        hasty = self.ledger.hasty_creation = config.create_timeout == HASTY_S
        hooks = HooksInChild(self._chaos_in_child(), self._journal())

        return replace(
            config,
            on_create=hooks.create,
            on_destroy=hooks.destroy,
            # For a process, 2 seconds are short.
            create_timeout=2.0 if hasty else config.create_timeout,
            on_abort=config.on_abort and hooks.abort,
            placement=Processes(grace=self.rng.choice([0.05, 0.2, 0.5])),
            **self._service(hooks),
        )

    def _journal(self) -> Journal:
        return Journal(str(self._folder))

    def _chaos_in_child(self) -> ChaosInChild:
        return ChaosInChild(f"{self._seed}/there", self._journal())

    def _config_with_threads(self) -> Config[Resource]:
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
            create_timeout=rng.choice([HASTY_S, 30.0]),
            resource_pool_size=rng.choice([None, 0, 2]),
            burst_task_threshold=rng.choice([0, 0, 10]),
            queue_size=rng.choice([0, 0, 5, 50]),
            logger=Log(self.chaos, self.ledger),
            collector=self._collector,
            **rng.choice([{}, {"on_abort": Aborts(self.chaos, self.ledger).abort}]),
        )

    def _service(self, hooks: Hooks) -> dict[str, Any]:
        """What is done for resources between tasks. Nothing, in half of the rounds."""
        rng = self.rng
        if rng.random() < 0.5:
            return {}

        return {
            "on_check": hooks.check,
            "check_after": rng.choice([0, 0.01, None]),
            "keepalive": rng.choice([None, 0.02]),
            # For a process, 0.05 seconds are short.
            "check_timeout": rng.choice([None, 0.05 if self._folder is None else 0.2]),
            "on_reset": rng.choice([None, hooks.reset]),
        }

    def _rest(self, load: Load) -> None:
        """Check that without faults and load the manager heals, and all tasks end."""
        self.chaos.calm_down()
        load.join()
        manager, broken = load.submitter.manager, self.ledger.broken
        if manager is None or self.ledger.hangs or self.ledger.engine.lifecycle.state:
            return
        if not manager.wait_ready(patience.SECONDS):
            broken(
                f"the base workers had no resources after {patience.SECONDS:g} s"
                f" without faults: {manager!r}"
            )
        if not manager.join(patience.SECONDS):
            broken(f"not at rest after {patience.SECONDS:g} s without load: {manager!r}")
        stats, metrics = manager.stats(), manager.metrics()
        ended = (
            metrics.total_tasks_completed
            + metrics.total_tasks_failed
            + metrics.total_tasks_cancelled
        )
        if ended != metrics.total_tasks_arrived:
            broken(f"at rest {metrics.total_tasks_arrived} tasks had arrived and {ended} ended")
        if stats.queued_tasks or stats.priority_tasks or stats.running_tasks:
            broken(f"at rest: {stats}")
        self._check_stuck(manager)
        dropped = [job.reference for job in self.ledger.jobs if job.reference is not None]
        if not patience.eventually(
            lambda: gc.collect() >= 0 and not any(reference() for reference in dropped)
        ):
            broken("a resting manager keeps the futures of tasks that have ended")

    def _check_stuck(self, manager: TaskManager[Resource]) -> None:
        """Check that all that are stuck are abandoned, and the pool has its size."""

        def abandoned() -> set[str]:
            return {worker.name for worker in self.ledger.engine.crew.abandoned}

        if not patience.eventually(lambda: abandoned() == self.ledger.stuck):
            self.ledger.broken(
                f"at rest {self.ledger.stuck or 'no threads'} are stuck,"
                f" {abandoned() or 'none'} are abandoned"
            )
        size = self.ledger.engine.config.worker_count
        if not patience.eventually(lambda: manager.stats().base_workers == size):
            self.ledger.broken(f"at rest, of {size} base workers: {manager.stats()}")

    def _end(self, load: Load) -> None:
        endings = ENDINGS if self._folder is None else ENDINGS_WITH_CHILDREN
        self.way = self.rng.choice(list(endings))
        # A kill waits for them, and abandons no more threads.
        if self.way not in LEAVE_STUCK or self.rng.random() < 0.5:
            load.submitter.release()
        endings[self.way](load)
        if not self.ledger.engine.lifecycle.wait(patience.SECONDS):
            self.ledger.hung(f"the manager has not closed within {patience.SECONDS:g} s")
        # A timeout or a cancel() may be about to settle its task at this very moment.
        settled = patience.eventually(
            lambda: all(job.is_done() for job in self.ledger.accepted()), min(patience.SECONDS, 1.0)
        )
        if not settled:
            self.ledger.broken("the manager has closed and there are tasks without an outcome")

    def _audit(self, load: Load) -> None:
        # A process that is stuck does not keep its worker.
        stuck = self.way == STUCK and self._folder is None
        left = self.ledger.abandoned & self.ledger.stuck
        if not stuck:
            self.ledger.close()
        load.submitter.release()
        load.join()
        self._check_no_thread_is_left()
        self._read_journals()
        raised = (self.chaos.counts() + self.faults)["on_destroy raises"]
        lost = sum(resource.lost for resource in self.ledger.resources)
        self.counts += audit(
            self.ledger, destroy_errors=range(raised, raised + lost + 1), stuck=stuck, left=left
        )
        self._check_collector()

    def _read_journals(self) -> None:
        """Tell the ledger the acts of children."""
        if self._folder is not None:
            replay = Replay(self.ledger, self._folder)
            self.faults += replay.faults
            self.counts["children"] = len(replay.children)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Hear the logs of tasks in children."""
        logger, handler = logging.getLogger(LOGGER), Listener(self.chaos, self.ledger)
        logger.addHandler(handler)

        try:
            yield
        finally:
            logger.removeHandler(handler)

    def _check_no_child_is_left(self) -> None:
        """Check for children with a resource, and for those that a task has forked."""
        if not patience.eventually(lambda: not left_behind(), 1.0):
            self.ledger.hung("a child process of the closed manager is left")

    def _check_no_thread_is_left(self) -> None:
        def ours() -> list[str]:
            return [
                thread.name
                for thread in threading.enumerate()
                if thread.name.startswith(f"{self.name}-")
            ]

        if not patience.eventually(lambda: not ours()):
            self.ledger.hung(f"threads of the closed manager are left: {', '.join(ours())}")

    def _check_no_resource_is_left(self) -> None:
        if not all(resource.ends or resource.lost for resource in self.ledger.resources):
            self.ledger.broken("a constructor that failed left resources behind")

    def _check_collector(self) -> None:
        if self._collector is None:
            return

        told = self._collector.counts()
        counts = {"arrived": self.counts["accepted"] + self.counts["chunks"]} | {
            name: self.counts[name] for name in ("completed", "failed", "retried")
        }
        if told != Counter(counts):
            self.ledger.broken(f"the collector was told {dict(told)}, metrics() says {counts}")
