"""Runs programs that use `Processes()`, with a `__main__`, an exit and a process group of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import tasker
from tests.support.waiting import PATIENCE

PRELUDE = r"""
import os, signal, sys, threading, time
import tasker
from tasker import *

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background

def eventually(condition):
    while not condition():
        time.sleep(0.002)

def say(*words):  # a line at once: two threads may speak
    os.write(1, (" ".join(map(str, words)) + "\n").encode())

def create():
    return [os.getpid()]

def destroy(resource):
    os.write(1, b"destroyed\n")  # at once, or it would mix with that of another process

def process_of(resource):
    return os.getpid()

def stand(resource, path):
    open(path, "w").write(str(os.getpid()))
    eventually(lambda: os.path.exists(path + ".open"))
    return "passed"

def manager(**options):
    options = {"on_create": create, "on_destroy": destroy, "worker_count": 1, "max_worker_count": 1,
        "placement": Processes(grace=0.1), **options}
    return TaskManager(Config(**options))
"""


def environment() -> dict[str, str]:
    path = [str(Path(tasker.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**inherited, "PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": "ignore"}


def command(how: str, code: str, directory: Path) -> tuple[list[str], str | None]:
    """How a program is run: as a `script`, from a `string`, or from `stdin`; and what it reads there.

    It prints without a buffer (which its children do not inherit), so that lines come in the order of events."""
    if how == "script":
        script = directory / "program.py"
        script.write_text(code)
        return [sys.executable, "-u", str(script)], None
    if how == "string":
        return [sys.executable, "-u", "-c", code], None
    return [sys.executable, "-u", "-"], code


def run(
    code: str, directory: Path, how: str = "script", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; a script lies in the directory, and so it runs there if nothing else is said."""
    arguments, given = command(how, PRELUDE + textwrap.dedent(code), directory)
    with (directory / "empty").open("w+") as empty:
        standard = {"input": given} if given is not None else {"stdin": empty}
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            arguments,
            cwd=cwd or directory,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=50,
            **standard,
        )


@contextmanager
def running(code: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that runs, in a session of its own; ended at the end, with what it has left."""
    arguments, _ = command("script", PRELUDE + textwrap.dedent(code), directory)
    process = subprocess.Popen(
        arguments,
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


def interrupt_group(process: subprocess.Popen[str]) -> None:
    """What Ctrl-C in a terminal does."""
    os.killpg(process.pid, signal.SIGINT)
