"""The notes that children take of their acts, and the reading of them into the ledger.

They are read when the round is over. Each child has a file of its own in the folder of
the round. A line is written at once and whole, so it is there even if the child is
killed right after it. It holds the time, the event, and its details:

    enters HOOK
    created OWNER
    called              a call has come, and is unpacked
    begins JOB THREAD
    ends JOB
    returns JOB
    borrows HOOK THREAD
    hands_back HOOK
    aborts              on_abort begins
    aborted             it returns
    destroyed THREAD
    ended JOB           a task found its context ended
    faults NAME
    dies HOW            the child is about to end itself
    leaves              the child ends as it should
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.ledger import Job, Ledger, Resource

__all__ = ["Journal", "Replay"]


@dataclass(frozen=True)
class Journal:
    """The ledger of the hooks and tasks in a child. It only takes notes."""

    folder: str

    def write(self, what: str, detail: object = "") -> None:
        os.write(_file(self.folder), f"{time.perf_counter()!r} {what} {detail}\n".encode())

    def entered(self, what: str) -> None:
        self.write("enters", what)

    def created(self) -> Resource:
        self.write("created", threading.current_thread().name)
        return Resource(threading.current_thread().name)

    def destroyed(self, resource: Resource) -> None:
        self.write("destroyed", threading.current_thread().name)

    def take(self, resource: Resource, job: Job) -> None:
        self.write("begins", f"{job.number} {threading.current_thread().name}")

    def give_back(self, resource: Resource, job: Job) -> None:
        self.write("ends", job.number)

    def borrow(self, resource: Resource, what: str) -> None:
        self.write("borrows", f"{what} {threading.current_thread().name}")

    def hand_back(self, resource: Resource, what: str) -> None:
        self.write("hands_back", what)

    def may_be_deaf(self) -> None:
        """A child that is deaf is killed."""

    def returned(self, job: Job) -> None:
        self.write("returns", job.number)

    def met_end(self, job: Job) -> None:
        self.write("ended", job.number)


@functools.cache
def _file(folder: str) -> int:
    path = Path(folder, f"{os.getpid()}-{time.time_ns()}.journal")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    atexit.register(Journal(folder).write, "leaves")

    return descriptor


class Replay:
    """Reads all journals into the ledger."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self._ledger = ledger
        self._jobs = {job.number: job for job in ledger.jobs}
        self.faults: Counter[str] = Counter()
        self.children = [_Life(path) for path in sorted(folder.glob("*.journal"))]
        for life in self.children:
            self._read(life)
        for job in ledger.jobs:
            job.runs.sort()
        self.deaths = {life.pid for life in self.children if life.dies}
        for life in self.children:
            self._judge(life)
        self._judge_lost_jobs()

    def _read(self, life: _Life) -> None:
        *lines, rest = life.path.read_text().split("\n")
        if rest:
            self._broken(life, f"wrote half a line, {rest!r}")

        for line in lines:
            when, what, detail = line.split(" ", 2)
            subject, _, more = detail.partition(" ")
            if self._ledger.closed_at is not None and float(when) > self._ledger.closed_at:
                self._broken(life, f"went on after the manager had closed: {what} {detail}")
            if what == "faults":
                self.faults[detail] += 1
            elif what == "dies":
                life.dies = True
            elif what == "leaves":
                life.leaves = True
            elif what == "created":
                self._create(life, detail)
            elif what == "destroyed":
                self._destroy(life, detail)
            elif what in ("called", "borrows", "hands_back"):
                self._note_use(life, what, subject, more)
            elif what in ("aborts", "aborted"):
                self._note_abort(life, what)
            elif what != "enters":
                self._note_run(life, what, float(when), self._jobs[int(subject)], more)

    def _create(self, life: _Life, owner: str) -> None:
        if life.resource is not None:
            self._broken(life, "made a second resource")
        life.resource = Resource(owner if "-worker-" in owner else None)
        life.owner = owner
        self._ledger.resources.append(life.resource)

    def _destroy(self, life: _Life, thread: str) -> None:
        if life.resource is None:
            self._broken(life, "destroyed a resource that it had not made")
            return

        life.resource.ends.append(thread)
        if len(life.resource.ends) > 1:
            self._broken(life, "destroyed its resource twice")
        if (user := life.user()) is not None:
            self._broken(life, f"destroyed its resource while {user} used it")
        if thread != life.owner:
            self._broken(life, f"destroyed the resource of {life.owner} in {thread}")

    def _note_run(self, life: _Life, what: str, when: float, job: Job, thread: str) -> None:
        if what == "begins":
            job.runs.append(when)
            if life.resource is None or life.resource.ends:
                self._broken(life, f"ran {job} without a resource")
            if (user := life.running or life.hook) is not None:
                self._broken(life, f"ran {job} while {user} used its resource")
            if thread != life.owner:
                self._broken(life, f"ran {job} in {thread}, the resource is that of {life.owner}")
            if not life.is_called:
                self._broken(life, f"ran {job} without a call")
            life.running = life.last = job
            life.began = when
        elif what == "ends":
            life.running = None
        elif what == "returns":
            job.returned = True
        else:
            self._ledger.met_end(job)

    def _note_use(self, life: _Life, what: str, hook: str, thread: str) -> None:
        """A call has come, or a hook begins or ends to use the resource."""
        if what == "hands_back":
            life.hook = None
            return

        hook = hook or "a call"
        if life.resource is None or life.resource.ends:
            self._broken(life, f"{hook} came without a resource")
        if (user := life.user()) is not None:
            self._broken(life, f"{hook} came while {user} used its resource")
        life.is_called, life.aborts = what == "called", 0
        if what == "borrows":
            life.hook = hook
            if thread != life.owner:
                self._broken(life, f"{hook} ran in {thread}, the resource is that of {life.owner}")

    def _note_abort(self, life: _Life, what: str) -> None:
        life.aborting = what == "aborts"
        if not life.aborting:
            return

        # It may come before the call has begun what it was sent for, or just after.
        life.aborts += 1
        if not life.is_called:
            self._broken(life, "aborted a call, and there was none")
        if life.aborts > 1:
            self._broken(life, "aborted the same call twice")

    def _judge(self, life: _Life) -> None:
        """Check that a child destroyed its resource, or was killed for a reason."""
        ledger, resource, last = self._ledger, life.resource, life.last
        if resource is None or resource.ends:
            return
        resource.lost = not life.leaves

        # The last task sent to it may not have begun. So `last` cannot tell whether
        # there was a reason.
        hasty = last is None and ledger.hasty_creation
        reason = ledger.may_be_killed or life.pid in ledger.overdue or hasty
        if resource.lost and not (life.pid in ledger.killed or life.dies or reason):
            self._broken(
                life,
                f"was ended for nothing; it ran {last} last, from {life.began:.3f} on; "
                f"{ledger.fate(life.pid)}",
            )

    def _judge_lost_jobs(self) -> None:
        for job in self._ledger.jobs:
            if job.lost is None or self._ledger.may_be_killed:
                continue
            if job.lost.pid not in self._ledger.killed | self.deaths:
                self._ledger.broken(
                    f"{job} lost its worker with process {job.lost.pid}, which nobody had killed; "
                    f"{self._ledger.fate(job.lost.pid)}"
                )
            if job.lost.began is False and job.once and job.runs:
                self._ledger.broken(f"{job} is said not to have begun, and ran")

    def _broken(self, life: _Life, sentence: str) -> None:
        self._ledger.broken(f"child {life.pid} of {life.owner}: {sentence}")


@dataclass
class _Life:
    """One child."""

    path: Path
    owner: str = "?"
    resource: Resource | None = None
    running: Job | None = None
    hook: str | None = None  # that uses the resource
    is_called: bool = False  # since another hook was called
    aborting: bool = False  # whether `on_abort` runs
    aborts: int = 0  # of the last call
    last: Job | None = None
    began: float = 0.0  # the time when `last` began
    dies: bool = False  # by its own hand
    leaves: bool = False
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        self.pid = int(self.path.name.split("-")[0])

    def user(self) -> object:
        """What uses the resource; `None` if nothing does."""
        return self.running or self.hook or ("on_abort" if self.aborting else None)
