"""How the soak submits its tasks, and how it learns their outcomes."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from pickle import PickleBuffer
from typing import Any

from tasker import QueueFullError, TaskFuture, TaskManager, TaskManagerShutdownError
from tests.soak import patience
from tests.soak.faults import Burden, Chaos
from tests.soak.in_child import ACTS_IN_CHILD, PATTERN
from tests.soak.ledger import Job, Ledger, Resource
from tests.soak.tasks import ACTS, FORKS, Tasks, TasksInThread

__all__ = ["AT_ONCE", "FORMS", "HASTY", "PATIENT", "UNHURRIED", "Submitter"]

# For one round. With a limit the harness keeps as much in each of them.
MOST_JOBS = 15_000
MOST_JOBS_WITH_CHILDREN = 1_500

FORMS = ["async"] * 8 + ["callback"] * 4 + ["blocking"] * 2 + ["dropped"] * 2 + ["run_task"]
# Forms that do not block, for tasks, callbacks and signal handlers.
UNHURRIED = ["async", "callback", "dropped"]

# The timeouts of tasks that do not hear of the end of their contexts, in seconds.
DEAF = {"is deaf": [0.005, 0.05, 0.5], "overstays": [0.005, 0.05]}

# The waits for room, in seconds, that a submitter chooses from.
PATIENT = (None, 0.01, 0)
HASTY = (0.01, 0)
AT_ONCE = (0,)


class Submitter:
    """Submits to one manager.

    The harness refers to the manager only here, so that the manager can be forgotten.
    """

    def __init__(
        self,
        manager: TaskManager[Resource],
        chaos: Chaos,
        ledger: Ledger,
        tasks_in_child: Tasks | None = None,
    ) -> None:
        self.manager: TaskManager[Resource] | None = manager
        self.chaos = chaos
        self.ledger = ledger
        self.released = threading.Event()  # see `release`
        # More could not all be abandoned, and would keep workers.
        self.places = deque[None]([None] * ledger.most_workers)
        self._loads = {
            "is laden": PickleBuffer(PATTERN),
            "cannot be sent": threading.Lock(),
            "is deaf": getattr(self.ledger.engine.config.placement, "grace", None),
        }
        self._recent: deque[Job] = deque(maxlen=100)
        self._tasks = tasks_in_child or TasksInThread(self)
        self._choices, self._most_jobs = (
            (ACTS, MOST_JOBS)
            if tasks_in_child is None
            else (ACTS_IN_CHILD, MOST_JOBS_WITH_CHILDREN)
        )

    # -- submitting --------------------------------------------------------------------

    def submit(
        self, rng: random.Random, form: str, waits: Sequence[float | None], *, act: str = ""
    ) -> Job | None:
        """Submit one task, of any act unless one is named.

        `None` where it was not accepted, or the round is full.
        """
        manager = self.manager
        if manager is None or (not act and len(self.ledger.jobs) >= self._most_jobs):
            time.sleep(0.0001)
            return None

        job, options = self._choose(rng, form, waits, act)
        fn = self._function(rng)
        if rng.random() < 0.1:
            fn = partial(fn)
            vars(fn)["burden"] = Burden(self.chaos, self.ledger)

        self.ledger.jobs.append(job)
        too_late = self.ledger.engine.queue.closed

        try:
            self._hand_over(manager, job, fn, options)
        except QueueFullError:
            return None
        except TaskManagerShutdownError:
            job.met_closing = not too_late
            return None
        except TypeError:
            if job.act != "cannot be sent":
                raise

            self.chaos.note("a task cannot be sent")
            return None

        if job.act == "cannot be sent":
            self.ledger.broken(f"{job} was accepted")
        job.accepted_at = time.perf_counter()
        if too_late:
            self.ledger.broken(f"{job} was accepted after closing had begun")
        if job.future is not None:
            self._recent.append(job)
            if rng.random() < 0.1:
                _cancel(job)

        return job

    def _choose(
        self, rng: random.Random, form: str, waits: Sequence[float | None], act: str
    ) -> tuple[Job, dict[str, Any]]:
        act = act or rng.choice(self._choices)
        may_be_limited = form not in ("dropped", "run_task", "mapped")
        if (act in DEAF and not may_be_limited) or (act in FORKS and form == "run_task"):
            # The child of a thread of the harness would go on with the load.
            act = "returns"
        if act == "returns a burden" and form in ("async", "mapped"):
            # The harness keeps these results.
            act = "returns"

        limited = (may_be_limited and rng.random() < 0.2) or act in DEAF
        timeout = rng.choice([0.0005, 0.005, 5.0]) if limited else None
        if act in DEAF:
            timeout = rng.choice(DEAF[act])
        if form == "blocking" and timeout is None and None not in waits:
            # Every wait of a hasty submitter ends. With child processes this may be too
            # short.
            timeout = patience.SECONDS
            limited = self.ledger.loses

        job = Job(
            self.chaos.rng.getrandbits(60),
            form,
            act,
            priority=rng.random() < 0.3,
            once=rng.random() < 0.3,
            limited=limited,
            load=self._loads.get(act),
        )

        return job, {"timeout": timeout, "queue_timeout": rng.choice(waits)}

    def _hand_over(
        self, manager: TaskManager[Resource], job: Job, fn: Any, options: dict[str, Any]
    ) -> None:
        queue_task = f"queue_task{'_with_priority' * job.priority}{'_once' * job.once}"
        if job.form == "async":
            job.future = getattr(manager, f"{queue_task}_async")(fn, job, **options)
            job.future.add_done_callback(partial(self._done, job))
        elif job.form == "callback":
            getattr(manager, f"{queue_task}_with_callback")(
                fn, partial(self._call_back, job), job, **options
            )
        elif job.form == "dropped":
            job.reference = weakref.ref(
                manager.submit(fn, job, priority=job.priority, once=job.once, **options)
            )
        elif job.form == "blocking":
            self._wait_for(job, partial(getattr(manager, queue_task), fn, job, **options))
        else:
            self._wait_for(job, partial(manager.run_task, fn, job))

    def _wait_for(self, job: Job, call: Callable[[], Any]) -> None:
        try:
            result = call()
        except (QueueFullError, TaskManagerShutdownError):
            raise
        except BaseException as error:
            if type(error) is TypeError and job.act == "cannot be sent":
                raise
            if type(error) is KeyboardInterrupt and not error.args:
                raise  # a real one

            self.ledger.told(job, None, error)
        else:
            self.ledger.told(job, result, None)

    def map(self, rng: random.Random) -> None:
        """Map over some jobs, perhaps not to the end."""
        manager = self.manager
        room = self._most_jobs - len(self.ledger.jobs)
        if manager is None or room <= 0:
            return

        jobs = [
            self._choose(rng, "mapped", AT_ONCE, "")[0]
            for _ in range(min(room, rng.choice([1, 10, 50])))
        ]
        jobs = [job for job in jobs if job.act != "cannot be sent"]
        once, last = rng.random() < 0.3, rng.choice([3, 1000])
        for job in jobs:
            job.once = once
        self.ledger.jobs += jobs

        try:
            with manager.map(
                self._function(rng),
                jobs,
                chunksize=rng.choice([1, 4, 10]),
                once=once,
                return_exceptions=True,
            ) as results:
                handed_out = 0
                for job, result in zip(jobs, results, strict=False):
                    failed = isinstance(result, BaseException)
                    self.ledger.told(job, None if failed else result, result if failed else None)
                    handed_out += 1
                    if handed_out == last:
                        self.chaos.note("a map is left")
                        break

                for job in jobs[handed_out:]:
                    job.asked_to_end = True
        except TaskManagerShutdownError:
            pass

    def release(self) -> None:
        """End the tasks that are stuck, and let no more of them be."""
        self.places.clear()
        self.released.set()

    def cancel_one(self, rng: random.Random) -> None:
        """Cancel one of the tasks submitted last."""
        with contextlib.suppress(IndexError):
            _cancel(self._recent[rng.randrange(len(self._recent) or 1)])

    # -- callbacks ---------------------------------------------------------------------

    def _done(self, job: Job, future: TaskFuture[Any]) -> None:
        error = CancelledError() if future.cancelled() else future.exception(0)
        self._call_back(job, None if error is not None else future.result(0), error)

    def _call_back(self, job: Job, result: Any, error: BaseException | None) -> None:
        self.ledger.entered("a callback")
        self.ledger.told(job, result, error)
        if job.act.endswith("from a callback"):
            self.end_from_inside(job.act)
        elif self.chaos.strikes("a callback submits another", 0.02):
            self.submit_another()

        self.chaos.raise_in("a callback", 0.05)

    # -- tasks -------------------------------------------------------------------------

    def _function(self, rng: random.Random) -> Callable[..., Any]:
        return self._tasks.run_with_context if rng.random() < 0.2 else self._tasks.run

    def submit_another(self) -> None:
        self.submit(self.chaos.rng, self.chaos.rng.choice(UNHURRIED), AT_ONCE)

    def end_from_inside(self, act: str) -> None:
        if (manager := self.manager) is not None:
            report = manager.kill() if act.startswith("kill") else manager.stop()
            if report.drained:
                self.ledger.broken(
                    f"a manager that was ended by one of its tasks has not waited for it: {report}"
                )


def _cancel(job: Job) -> None:
    job.asked_to_end = True
    if job.future is not None and job.future.cancel() and job.withdrawn_at is None:
        job.withdrawn_at = time.perf_counter()
