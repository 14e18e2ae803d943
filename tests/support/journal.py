"""What processes tell each other through files: a `Journal` of lines, each written at once, and a `Gate` to wait at."""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually


@dataclass(frozen=True)
class Journal:
    """A file to which any process adds lines."""

    path: Path

    def note(self, *words: object) -> None:
        with self.path.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def of(self, verb: str) -> list[str]:
        """What is noted under a word."""
        return [
            line.removeprefix(f"{verb} ") for line in self.lines() if line.startswith(f"{verb} ")
        ]

    # -- hooks -----------------------------------------------------------------------------------------------------

    def create(self) -> Resource:
        resource = Resource(self)
        self.note("created", resource.key)
        return resource

    def destroy(self, resource: Resource) -> None:
        assert resource.pid == os.getpid(), "destroyed somewhere else"
        self.note("destroyed", resource.key)

    def destroy_badly(self, resource: Resource) -> None:
        self.destroy(resource)
        raise OSError("will not close")

    def create_at_second(self) -> Resource:
        self.note("tried", os.getpid())
        if len(self.of("tried")) == 1:
            raise OSError("down")
        return self.create()

    def create_bad_at_first(self) -> Resource:
        resource = self.create()
        resource.broken = self.of("created")[0] == resource.key
        return resource

    def create_when_open(self, gate: Gate) -> Resource:
        if not gate.is_open():
            raise OSError("down")
        return self.create()


@dataclass(frozen=True)
class Gate:
    """Closed until `open()`, for any process; `reach()` says that somebody stands before it."""

    path: Path

    @property
    def _reached(self) -> Path:
        return self.path.with_suffix(".reached")

    def open(self) -> None:
        self.path.touch()

    def is_open(self) -> bool:
        return self.path.exists()

    def reach(self) -> None:
        self._reached.write_text(str(os.getpid()))

    def is_reached(self) -> bool:
        return self._reached.exists()

    def await_reached(self) -> int:
        """Wait until somebody stands before it; his process."""
        eventually(
            lambda: self.is_reached() and self._reached.read_text(),
            f"somebody before {self.path.name}",
        )
        return int(self._reached.read_text())

    def pass_through(self) -> None:
        """Wait until it is open, for ever if need be, whatever else happens: deaf."""
        self.reach()
        while not self.is_open():
            time.sleep(0.002)

    # -- hooks -----------------------------------------------------------------------------------------------------

    def create(self) -> Gate:
        self.pass_through()
        return self

    def destroy(self, resource: object) -> None:
        self.pass_through()

    def judge(self, error: Exception, resource: object) -> bool:
        self.pass_through()
        return True


@dataclass(frozen=True)
class Session:
    """A context manager that notes what its `__exit__` is given, and raises that again."""

    journal: Journal

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        self.journal.note("exited", kind and kind.__name__, error)
        if error is not None:
            raise error


class Resource:
    """Knows where it was made."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.key = uuid.uuid4().hex
        self.pid = os.getpid()
        self.thread = threading.get_ident()
        self.uses = 0
        self.broken = False


def assert_adds_up(manager, **expected):
    """At rest every task is counted once; `expected` are totals by the end of their names."""
    metrics = manager.metrics()
    ended = (
        metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    )
    assert metrics.total_tasks_arrived == ended
    assert {name: getattr(metrics, f"total_tasks_{name}") for name in expected} == expected


def assert_destroyed_once(journal, number):
    created, destroyed = journal.of("created"), journal.of("destroyed")
    assert len(set(created)) == len(created) == number
    assert sorted(destroyed) == sorted(created)
