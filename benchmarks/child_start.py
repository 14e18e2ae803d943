"""The start of child processes, at first and after one was killed, and their memory.

Children run built-in functions, so they import nothing for them. The resource is the
number of the process. Byte code is kept (`Measurement.keeps_byte_code`): the round that
is thrown away writes it.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmarks.harness.process_rivals import PROCESS_BASELINE, open_processes
from benchmarks.harness.results import Row
from benchmarks.harness.rivals import TASKER
from benchmarks.harness.rounds import Sampler, interleave, seconds, spreads
from benchmarks.harness.targets import Target
from tasker import Config, Processes, TaskManager, WorkerLostError

__all__ = ["killed_children", "new_children", "private_bytes"]

# A task that is called with the number of the process.
NO_OP = abs


def killed_children(quick: bool) -> list[Row]:
    """Measure from the signal to the answer of the next task, on one worker.

    Its child is replaced meanwhile.
    """
    rounds = 3 if quick else 21
    with open_processes(1, on_create=os.getpid, on_destroy=NO_OP) as pool:
        samples = interleave(
            {"mid-task": _in_mid_task(pool.pool), "idle": _idle(pool.pool)}, rounds
        )
    return [
        Row(
            name=f"processes-killed-{name}",
            title=f"processes: a child killed {when}, until its worker takes tasks again",
            unit="ms",
            figures=spreads({TASKER: samples[name]}),
            target=Target("at most", 250, "ms", of="tasker"),
            notes=(f"{rounds} times",),
        )
        for name, when in (("mid-task", "by its task"), ("idle", "while idle"))
    ]


def _in_mid_task(manager: TaskManager[int]) -> Sampler:
    def die() -> None:
        with suppress(WorkerLostError):
            manager.submit(os.kill, signal.SIGKILL, once=True).result()
        manager.submit(NO_OP).result()

    return lambda: seconds(die) * 1e3


def _idle(manager: TaskManager[int]) -> Sampler:
    def sample() -> float:
        pid = manager.submit(NO_OP).result()

        def die() -> None:
            os.kill(pid, signal.SIGKILL)
            # The task is retried if the old child still gets it.
            after = manager.submit(NO_OP).result()
            assert after != pid

        return seconds(die) * 1e3

    return sample


def new_children(quick: bool) -> list[Row]:
    """Measure from nothing to the first child with a resource.

    The memory of the child is measured too, where the system tells it.
    """
    rounds = 2 if quick else 21
    memory: dict[str, list[float]] = {TASKER: [], PROCESS_BASELINE: []}
    samplers = {
        TASKER: lambda: _start(memory[TASKER]),
        PROCESS_BASELINE: lambda: _fork(memory[PROCESS_BASELINE]),
    }
    samples = interleave(samplers, rounds)
    notes = (f"{rounds} rounds; {PROCESS_BASELINE}: the platform's default, which may be a fork",)
    rows = [
        Row(
            name="processes-ready",
            title="processes: a manager with one child, until its resource is ready",
            unit="ms",
            figures=spreads(samples),
            target=Target("at most", 80, "ms", of="tasker"),
            notes=notes,
        )
    ]
    if memory[TASKER]:
        rows.append(
            Row(
                name="processes-memory",
                title="processes: memory of a child's own",
                unit="MB",
                figures=spreads(memory),
                target=Target("at most", 20, "MB", of="tasker"),
                notes=(*notes, "private pages, after a call"),
            )
        )

    return rows


def _start(memory: list[float]) -> float:
    config = Config(
        on_create=os.getpid,
        on_destroy=NO_OP,
        worker_count=1,
        max_worker_count=1,
        placement=Processes(),
    )
    managers: list[TaskManager[int]] = []

    def begin() -> None:
        managers.append(TaskManager(config))
        managers[0].wait_ready()

    passed = seconds(begin)
    with managers[0] as manager:
        _note(memory, manager.submit(NO_OP).result())

    return passed * 1e3


def _fork(memory: list[float]) -> float:
    executors: list[ProcessPoolExecutor] = []
    pids: list[int] = []

    def begin() -> None:
        executors.append(ProcessPoolExecutor(1))
        pids.append(executors[0].submit(os.getpid).result())

    passed = seconds(begin)
    with executors[0]:
        _note(memory, pids[0])

    return passed * 1e3


def _note(memory: list[float], pid: int) -> None:
    own = private_bytes(pid)
    if own is not None:
        memory.append(own / 1e6)


def private_bytes(pid: int) -> int | None:
    """The pages that a process shares with no other.

    `None` where the system does not tell it as Linux does.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None

    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
