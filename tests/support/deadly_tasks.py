"""Tasks and hooks that end their process, or do not let it end, or do what only a process can."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasker import Config, Processes, TaskManager
from tests.support.journal import Gate, Journal, Resource
from tests.support.remote_tasks import forget, nothing, process_of, square
from tests.support.waiting import PATIENCE, eventually


def stand_once(resource: object, number: int, gate: Gate | None) -> int:
    """Stands before its gate for ever, the first time that it comes there."""
    if gate is not None and not gate.is_reached():
        gate.pass_through()
    return number


@dataclass
class StandAt:
    """Stands for ever before a gate at one item, the first time that it comes there."""

    item: int
    gate: Gate
    journal: Journal

    def __call__(self, resource: object, item: int) -> int:
        self.journal.note("item", item)
        return stand_once(resource, item, self.gate if item == self.item else None)


@dataclass
class BlockFirst:
    """A hook that does not return the first time."""

    gate: Gate
    journal: Journal

    def __call__(self) -> Resource:
        stand_once(None, 0, self.gate)
        return self.journal.create()


def note_and_stand(resource: Resource, gate: Gate) -> None:
    resource.journal.note("ran", os.getpid())
    gate.pass_through()


def die(resource: object, number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE)


def leave(resource: object, exit_code: int) -> None:
    os._exit(exit_code)


def read_address(resource: object, address: int) -> None:
    import faulthandler

    faulthandler.disable()
    ctypes.string_at(address)


def limit_memory() -> str:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (256 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return "limited"


def allocate(resource: object, size: int) -> int:
    return len(bytearray(size))


def _data_descriptor() -> int:
    frame: Any = sys._getframe()
    while "wire" not in frame.f_locals:
        frame = frame.f_back
    descriptor: int = frame.f_locals["wire"]._writer
    return descriptor


def start_heir(resource: object) -> tuple[int, int]:
    """A process that has left the group and holds this one's end of the connection; it and this one."""
    heir = subprocess.Popen(
        ["sleep", "1000"], pass_fds=[_data_descriptor()], start_new_session=True
    )
    heir.returncode = 0  # nobody waits for it
    return heir.pid, os.getpid()


class Last:
    """A task whose process dies as soon as its result is sent."""

    def __call__(self, resource: object) -> LastWord:
        return LastWord()


class LastWord:
    """Pickled, it is `said`; and it has a thread end the process once the main thread waits for the next call."""

    def __reduce__(self) -> tuple[Any, ...]:
        main = threading.main_thread().ident
        assert main is not None

        def end() -> None:
            eventually(
                lambda: sys._current_frames()[main].f_code.co_name == "receive",
                "the main thread to wait",
            )
            os._exit(9)

        threading.Thread(target=end, daemon=True).start()
        return str, ("said",)


def fork_and_exit(resource: object) -> int:
    child = os.fork()
    if child == 0:
        os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_return(resource: object) -> str:
    child = os.fork()
    if child == 0:
        return "the grandchild's"
    os.waitpid(child, 0)
    return "the child's own"


def fork_and_leave(resource: object, error: BaseException | None) -> int:
    """The exit status of a forked process in which the task ends like this."""
    child = os.fork()
    if child == 0:
        if error is not None:
            raise error
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def hold_the_gil(resource: object, gate: Gate) -> int:
    gate.reach()
    return sum(range(10**12))


def start_thread_that_stays(resource: object) -> int:
    threading.Thread(target=time.sleep, args=(PATIENCE,)).start()
    return os.getpid()


def start_thread_at(resource: object, gate: Gate, journal: Journal) -> None:
    """A thread that is no daemon, and makes a note when the gate is open."""

    def run() -> None:
        gate.pass_through()
        journal.note("passed", "the gate")

    threading.Thread(target=run).start()


def descriptors(resource: object) -> dict[str, str]:
    found = {}
    with os.scandir("/proc/self/fd") as entries:
        for entry in entries:
            found[entry.name] = os.readlink(entry.path)
    return {name: target for name, target in found.items() if not target.startswith("/proc/")}


def square_in_a_child_of_its_own(resource: object, number: int) -> tuple[int, int, int]:
    config = Config(on_create=nothing, on_destroy=forget, worker_count=1, placement=Processes())
    with TaskManager(config) as manager:
        return manager.queue_task(square, number), os.getpid(), manager.queue_task(process_of)


def note_thread(journal: Journal) -> Journal:
    """A hook, and a task's function: notes whether this is the main thread, and its name."""
    thread = threading.current_thread()
    journal.note("thread", thread is threading.main_thread(), thread.name)
    return journal


def threads_of(resource: Resource) -> tuple[int, int]:
    """Of the thread that made the resource, and of this one."""
    return resource.thread, threading.get_ident()


def note_where_destroyed(resource: Resource) -> None:
    resource.journal.note("thread", threading.get_ident())


def group(resource: object) -> tuple[int, int]:
    return os.getpid(), os.getpgrp()


def start_program(resource: object) -> tuple[int, int]:
    """A program, and this process."""
    program = subprocess.Popen(["sleep", "1000"])
    program.returncode = 0  # nobody waits for it
    return program.pid, os.getpid()


def end_program(resource: object, number: int) -> int:
    """Ask a program to end; how it did."""
    program = subprocess.Popen(["sleep", "1000"])
    program.send_signal(number)
    return program.wait(PATIENCE)


def end_fork(resource: object, number: int) -> int:
    """Ask a forked process to end; how it did."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(KeyboardInterrupt):
            os.write(writer, b"ready")
            time.sleep(PATIENCE)
            os._exit(0)
        os._exit(130)
    os.read(reader, 5)
    os.kill(child, number)
    os.close(reader)
    os.close(writer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def close_descriptors(resource: object, lowest: int, end: int) -> None:
    """As code does that detaches from a terminal."""
    os.closerange(lowest, end)


def register_at_exit(resource: object, journal: Journal | None) -> int:
    """Has a note made at the end of the process, or has that blocked."""
    if journal is None:
        atexit.register(time.sleep, PATIENCE)
    else:
        atexit.register(journal.note, "exits", os.getpid())
    return os.getpid()


def print_to(resource: object, path: Path) -> None:
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
    ctypes.CDLL(None).puts(b"by a library")
    sys.stdout.write("by Python\n")


def say(resource: object, text: str) -> None:
    with open(2, "wb", closefd=False) as error:
        error.write(text.encode())


def say_and_leave(resource: object, text: str) -> None:
    say(resource, text)
    os._exit(3)


def die_creating() -> None:
    say(None, "no such library\n")
    os._exit(4)


@dataclass
class SayAndWait:
    """A hook, and a task: says something, then waits at a gate."""

    gate: Gate

    def __call__(self, resource: object = None) -> None:
        say(None, "waiting for the licence server\n")
        self.gate.pass_through()


def leave_a_speaker(resource: object, gate: Gate) -> None:
    """A program that goes on and says something once the gate is open."""
    script = 'until [ -e "$0" ]; do sleep 0.01; done; echo still here >&2'
    program = subprocess.Popen(["sh", "-c", script, str(gate.path)])
    program.returncode = 0  # nobody waits for it


def read_and_die_once(resource: object, numbers: Iterator[int], path: Path) -> list[int]:
    """Takes a number, then dies if it is the first to run; else takes the rest."""
    first = next(numbers)
    if not path.exists():
        path.touch()
        os._exit(1)
    return [first, *numbers]
