"""The soak's own notes of one manager's tasks and resources.

Some violations are seen at once. Nothing is noted under a lock that a signal handler
could meet. Notes are appended to lists, which is indivisible on every build, and
counted at the end (see `audit`).
"""

from __future__ import annotations

import faulthandler
import re
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from tasker import (
    ContextCancelledError,
    RemoteTaskError,
    ResourceCreationError,
    TaskFuture,
    TaskManagerKilledError,
    TaskTimeoutError,
    WorkerLostError,
    current_slot,
)

__all__ = ["Job", "Ledger", "Loss", "Resource"]

# More violations of the same kind would tell nothing new.
MOST_VIOLATIONS = 10


@dataclass(slots=True, eq=False, repr=False)
class Job:
    """One submission: its request and its outcome."""

    number: int  # its result, or its error's argument
    form: str  # how it is submitted
    act: str  # what it does
    _: KW_ONLY
    priority: bool
    once: bool
    limited: bool  # has a timeout that may well end
    offered_at: float = field(default_factory=time.perf_counter)
    # `None` if it was refused, or if that is not known yet.
    accepted_at: float | None = None
    # The time when each run began.
    runs: list[float] = field(default_factory=list)
    returned: bool = False
    # One for each time that a caller or a callback was told.
    outcomes: list[str] = field(default_factory=list)
    # Refused by a manager that was open when it was offered.
    met_closing: bool = False
    # Ended by something other than its own function.
    cut_short: bool = False
    asked_to_end: bool = False
    # The time when cancel() had returned True.
    withdrawn_at: float | None = None
    # Set if it failed with a WorkerLostError.
    lost: Loss | None = None
    # The load that it carries to its resource.
    load: Any = None
    future: TaskFuture[Any] | None = None
    # To a future that was dropped unseen.
    reference: weakref.ref[TaskFuture[Any]] | None = None

    def known_future(self) -> TaskFuture[Any] | None:
        """The future; `None` if there never was one, or if it is collected."""
        return self.future if self.reference is None else self.reference()

    def is_done(self) -> bool:
        """Whether its future, where there is one, has an outcome."""
        future = self.known_future()
        return future is None or future.done()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the request alone: a child needs no more."""
        return _job, (
            self.number,
            self.form,
            self.act,
            self.priority,
            self.once,
            self.limited,
            self.load,
        )

    def __str__(self) -> str:
        lane, once = "priority" if self.priority else "main", ", once" if self.once else ""
        return f"task {self.number:x} ({self.form}, {self.act}, {lane}{once})"


def _job(
    number: int, form: str, act: str, priority: bool, once: bool, limited: bool, load: Any
) -> Job:
    return Job(number, form, act, priority=priority, once=once, limited=limited, load=load)


@dataclass(frozen=True, slots=True)
class Loss:
    """The evidence in a WorkerLostError."""

    pid: int | None
    began: bool


@dataclass(slots=True, eq=False, repr=False)
class Resource:
    """It knows its owner, and whether it is alive and in use."""

    # The worker's name, or `None` for a resource of the run_task pool.
    owner: str | None
    in_use: threading.Lock = field(default_factory=threading.Lock)
    ends: list[str] = field(default_factory=list)  # the threads that destroyed it
    index: int = -1  # of its slot
    # Set by `on_abort`.
    interrupted: threading.Event = field(default_factory=threading.Event)
    lost: bool = False  # with its process
    made_at: float = field(default_factory=time.monotonic)


class Ledger:
    """All jobs and resources of the manager called `name`, and the violations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs: list[Job] = []
        self.resources: list[Resource] = []
        self.violations: list[str] = []
        self.most_workers = 0
        self.may_be_killed = False
        # Whether calls are supervised: one whose context has ended is not called.
        self.supervises = False
        # Once this is true, nothing may run any more.
        self.closed = False
        self.closed_at: float | None = None
        # Whether a running task may be lost with its process.
        self.loses = False
        # Whether create_timeout may end a creation.
        self.hasty_creation = False
        # The processes that the harness has killed.
        self.killed: set[int] = set()
        # The processes that the manager has ended because a call outlived its context.
        self.overdue: set[int] = set()
        # The observations of each process's end.
        self.fates: dict[int, list[str]] = {}
        # The jobs whose log records have arrived.
        self.heard: set[int] = set()
        self.chunks: list[TaskFuture[Any]] = []  # the tasks of map()
        # The workers that the crew has abandoned, by name. Those of the first set are
        # noted before it does, and taken back if it does not.
        self.giving_up: set[str] = set()
        self.abandoned: set[str] = set()
        # The worker, and its task: the call that it was abandoned in may begin late.
        self._abandoned_in: dict[str, tuple[Any, weakref.ref[Any] | None]] = {}
        # The workers that were in a call that outlives its context, and those that are
        # in one which waits to be released.
        self.deaf: set[str] = set()
        self.stuck: set[str] = set()
        # The threads that the report of the closed manager calls abandoned.
        self.left_behind: frozenset[str] = frozenset()
        # Whether something was found hung. Then the soak waits for nothing any more.
        self.hangs = False
        self.engine: Any = None
        self._locks: list[tuple[str, Any]] = []
        # The living resources by the indices of their slots.
        self._slots: dict[int, Resource] = {}
        self._living: set[Resource] = set()  # those that workers have now
        self._living_lock = threading.Lock()  # of worker threads only

    def broken(self, sentence: str) -> None:
        """Note a violation, told in a sentence."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(f"{self.name}: {sentence}")

    def saw(self, process: int, what: str) -> None:
        """Note an observation of a process's end."""
        self.fates.setdefault(process, []).append(f"at {time.perf_counter():.3f} {what}")

    def fate(self, process: int | None) -> str:
        """The observations of a process's end, as part of a sentence."""
        return ", ".join(self.fates.get(process or 0, ["nothing was seen of its end"]))

    def hung(self, sentence: str) -> None:
        """Note that something does not end, with all stacks."""
        self.hangs = True
        self.broken(sentence)
        faulthandler.dump_traceback(all_threads=True)

    def watch(self, engine: Any) -> None:
        """Know the engine from now on, and the locks of its parts.

        These are the locks that know their holder.
        """
        parts = {"engine": engine} | vars(engine)
        self._locks = [
            (f"{part}.{name}", value)
            for part, holder in parts.items()
            for name, value in getattr(holder, "__dict__", {}).items()
            if isinstance(value, type(threading.RLock()))
        ]
        self.engine = engine

    def noting_chunks(
        self, submit: Callable[..., TaskFuture[Any]]
    ) -> Callable[..., TaskFuture[Any]]:
        """Return a `submit` for `map()` whose futures are kept: no caller sees them."""

        def noting(*arguments: Any) -> TaskFuture[Any]:
            future = submit(*arguments)
            self.chunks.append(future)
            return future

        return noting

    def note_abandoned(self, crew: Any) -> None:
        """Note the workers that the crew abandons from now on."""
        abandon = crew.abandon

        def noting(worker: Any, call: Any) -> bool:
            # Another worker may take its place at once.
            self.giving_up.add(worker.name)
            if not abandon(worker, call):
                self.giving_up.discard(worker.name)
                return False

            task = call._task
            self._abandoned_in[worker.name] = worker, task and weakref.ref(task)
            self.abandoned.add(worker.name)
            if len(crew.abandoned) > self.most_workers:
                self.broken(
                    f"{len(crew.abandoned)} threads are abandoned, {self.most_workers} are the most"
                )
            return True

        crew.abandon = noting

    def close(self) -> None:
        """The manager has closed: only what its report calls abandoned may run."""
        self.left_behind = frozenset(self.engine.lifecycle.report().abandoned)
        self.closed_at = time.perf_counter()
        self.closed = True

    def moves(self) -> int:
        """How much has happened so far.

        Submissions do not count: a signal handler may go on with them for ever.
        """
        return sum(len(job.runs) + len(job.outcomes) for job in tuple(self.jobs)) + len(
            self.resources
        )

    def offered(self) -> list[Job]:
        """The jobs that were submitted one by one."""
        return [job for job in self.jobs if job.form != "mapped"]

    def accepted(self) -> list[Job]:
        """The jobs that the manager has taken on."""
        return [job for job in self.jobs if job.accepted_at is not None]

    # -- what the manager calls --------------------------------------------------------

    def entered(self, what: str) -> None:
        """Check that a function of the user's may be called here and now."""
        thread = threading.current_thread()
        ours = thread.name.startswith(f"{self.name}-")
        # A caller's own thread runs the callbacks of tasks that it cancels, logs those
        # that it forgets, and tells the collector of those that it has just submitted,
        # which may be done by then. A destructor may come late.
        if (
            self.closed
            and what != "a destructor"
            and (ours or what not in ("a callback", "the logger", "the collector"))
            and thread.name not in self.left_behind
        ):
            self.broken(f"{what} ran in {thread.name} after the manager had closed")
        if thread.name == "tasker-timer" or thread.name.endswith("-burst"):
            self.broken(f"{what} ran on the thread {thread.name}")
        # A signal handler may well have interrupted code that holds a lock.
        if thread is not threading.main_thread() and (held := self._locks_held()):
            self.broken(f"{what} ran under a lock of {', '.join(held)}")

    def _locks_held(self) -> list[str]:
        return [name for name, lock in self._locks if lock._is_owned()]

    def created(self) -> Resource:
        name = threading.current_thread().name
        resource = Resource(name if name.startswith(f"{self.name}-worker-") else None)
        self.resources.append(resource)
        resource.index = current_slot().index
        # One step (R2): a signal may have its handler make a resource here.
        if self._slots.setdefault(resource.index, resource) is not resource:
            self.broken(f"two living resources are in slot {resource.index}")
        if resource.owner is not None:
            with self._living_lock:
                self._living.add(resource)
                live = sum(each.owner not in self.giving_up for each in self._living)

            if live > self.most_workers:
                self.broken(f"{live} workers held a resource, {self.most_workers} are the most")
            if resource.owner in self.abandoned:
                self.broken(f"{resource.owner} made a resource after it was abandoned")

        return resource

    def destroyed(self, resource: Resource) -> None:
        name = threading.current_thread().name
        resource.ends.append(name)
        if len(resource.ends) > 1:
            self.broken(f"a resource was destroyed twice, in {' and '.join(resource.ends)}")
            return

        if resource.in_use.locked():
            self.broken("a resource was destroyed while it was used")
        if current_slot().index != resource.index:
            self.broken(f"slot {resource.index} was {current_slot()} when it was destroyed")
        self._slots.pop(resource.index, None)
        if resource.owner is not None:
            with self._living_lock:
                self._living.discard(resource)
            if resource.owner != name:
                self.broken(f"the resource of {resource.owner} was destroyed in {name}")

    def take(self, resource: Resource, job: Job) -> None:
        """Begin a run. `give_back` ends it."""
        job.runs.append(time.perf_counter())
        if job.withdrawn_at is not None:
            self.broken(f"{job} ran after cancel() had returned True")
        self.borrow(resource, str(job))

    def give_back(self, resource: Resource, job: Job) -> None:
        self.hand_back(resource, str(job))

    def borrow(self, resource: Resource, what: str) -> None:
        """A task, or a hook, begins to use a resource. `hand_back` ends it."""
        name = threading.current_thread().name
        self.entered(what)
        if resource.ends:
            self.broken(f"{what} got a resource that was destroyed")
        if resource.owner not in (None, name):
            self.broken(f"{what} used the resource of {resource.owner} in {name}")
        if name in self.abandoned and self._is_another_call(name):
            self.broken(f"{what} ran in {name} after that was abandoned")
        if not resource.in_use.acquire(blocking=False):
            self.broken(f"{what} got a resource that is in use")

    def _is_another_call(self, name: str) -> bool:
        """Whether an abandoned worker is in another call than it was."""
        worker, task = self._abandoned_in[name]
        return worker.task is not (task and task())

    def hand_back(self, resource: Resource, what: str) -> None:
        resource.in_use.release()

    def may_be_deaf(self) -> None:
        """This thread may not hear for a while of the end of its call."""
        self.deaf.add(threading.current_thread().name)

    def returned(self, job: Job) -> None:
        job.returned = True

    def met_end(self, job: Job) -> None:
        """Note that a job found its context ended."""
        if not (job.asked_to_end or job.limited or self.may_be_killed):
            self.broken(f"{job} found its context ended")

    def told(self, job: Job, result: Any, error: BaseException | None) -> None:
        """Note that a caller or a callback learnt the outcome of a job."""
        if error is None:
            outcome = "completed"
            # A laden task returns its load, which begins with its number.
            if isinstance(result, bytearray):
                result = int.from_bytes(result[:8], "big")
            if result != job.number:
                self.broken(f"{job} got the result {result!r} of another")
            if job.act == "logs" and job.number not in self.heard:
                self.broken(f"{job} ended before its log record arrived")
        elif isinstance(error, TaskManagerKilledError):
            outcome = "killed"
            if not self.may_be_killed:
                self.broken(f"{job} was killed by a manager that was not")
        elif isinstance(error, CancelledError):
            outcome = "cancelled"
            if not job.asked_to_end:
                self.broken(f"{job} was cancelled by nobody")
        else:
            outcome = "failed"
            mine = error.args[:1] in ((job.number,), ("on_create",)) or isinstance(
                error, RecursionError
            )
            late = isinstance(error, TaskTimeoutError) and job.limited
            # The job was asked to end and did not listen.
            late = late or (isinstance(error, ContextCancelledError) and job.asked_to_end)
            unsent = isinstance(error, RemoteTaskError) and job.act.split()[0] in (
                "returns",
                "raises",
            )
            if isinstance(error, WorkerLostError) and self.loses:
                pid = re.search(r"process (\d+) ", str(error))
                job.lost = Loss(int(pid[1]) if pid else None, error.began)
            elif (
                not mine
                and not late
                and not unsent
                and not isinstance(error, ResourceCreationError)
            ):
                self.broken(f"{job} got a {type(error).__name__} that is not its own")

            job.cut_short = not mine

        job.cut_short = job.cut_short or outcome in ("killed", "cancelled")
        job.outcomes.append(outcome)
