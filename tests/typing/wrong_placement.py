# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: F841
"""Programs with placements that both type checkers must reject; see `wrong.py`."""

from __future__ import annotations

from tasker import Config, Processes, Ray, TaskManager, Threads, WorkerLostError


class Connection:
    def ping(self) -> int:
        return 1

    def close(self) -> None:
        pass


def ping(db: Connection) -> int:
    return db.ping()


def placements(m: TaskManager[Connection]) -> None:
    Config(on_create=Connection, on_destroy=print, worker_count=1, placement="processes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=Connection, on_destroy=print, worker_count=1, placement=Processes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=Connection, on_destroy=print, worker_count=1, placement=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Processes("soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Processes(grace=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Processes(environment={"PORT": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    Processes(environment=lambda slot: slot.index)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    Processes(environment=lambda: {})  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    Processes(workers=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Config(on_create=Connection, on_destroy=print, worker_count=1, placement=Ray)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Ray("auto")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Ray(num_gpus="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Ray(resources={"disk": "1"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    Ray(gpus=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Threads(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    code: str = WorkerLostError("gone").exit_code  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
