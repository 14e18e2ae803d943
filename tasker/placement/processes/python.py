"""`python`: the Python that child processes run.

As a rule `sys.executable` is a Python. In a frozen program it is the program itself, in
an embedding one (uWSGI) the host. Such a program, started as a child, would do its own
work once more, and start children in turn. So a file that is no Python is refused. If
it may be the program itself, it is not even tried. Each process that is started as a
child has a mark in its environment until it serves (`STARTING`), and a process with the
mark starts no children.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasker._sync.threads import new_thread
from tasker.errors import ConfigError, shown

__all__ = ["STARTING", "python"]

# Set in the environment of a process that is started as a child, until it serves.
STARTING = "TASKER_STARTING"
# How long a Python may take to say which one it is. A guess: it takes 20 ms, on a cold
# network drive seconds.
_ANSWER_S = 10.0
# How long the thread that listens may take to end after the kill. A guess.
_KILL_WAIT_S = 1.0
_INSTEAD = (
    "say which Python children are to run, by Processes(executable=...) or "
    "multiprocessing.set_executable()"
)

# Those that have answered well.
_known: set[str] = set()


def python(given: str | None, at_first: str) -> str:
    """The Python for children: `given`, `multiprocessing`'s, or `sys.executable`.

    `at_first` is what `sys.executable` was when tasker was imported. Raises
    `ConfigError` if the choice is no Python like this one. One that is not
    `sys.executable` is run once and asked. This blocks until it has answered."""
    if STARTING in os.environ:
        raise ConfigError(
            "placement=Processes(): this program was started as a child process, as if it were "
            f"a Python, and runs its own code instead: {_INSTEAD}"
        )

    chosen = given or _set_for_multiprocessing(at_first)
    if chosen is not None:
        _check(chosen)
        return chosen

    if getattr(sys, "frozen", False):
        raise ConfigError(
            f"placement=Processes() has no Python to run in a frozen program: {_INSTEAD}"
        )
    if not sys.executable or not _is_named_so(sys.executable):
        raise ConfigError(
            "placement=Processes(): sys.executable is no Python: "
            f"{shown(sys.executable)}: {_INSTEAD}"
        )
    return sys.executable


def _set_for_multiprocessing(at_first: str) -> str | None:
    spawn: Any = sys.modules.get("multiprocessing.spawn")
    if spawn is None or spawn.get_executable() is None:
        return None

    chosen = os.fsdecode(spawn.get_executable())
    # Those two are the default of `multiprocessing`.
    return None if chosen in (sys.executable, at_first) else chosen


def _is_named_so(path: str) -> bool:
    found = Path(path)
    return found.exists() and any(
        "py" in name.lower() for name in (found.name, found.resolve().name)
    )


def _check(path: str) -> None:
    found = shutil.which(path)
    if found is None:
        raise ConfigError(
            f"executable must be the path of a Python, not {shown(path)}: there is no such program"
        )
    if found in _known:
        return

    said = _ask(found)
    if said != sys.implementation.cache_tag:
        raise ConfigError(
            f"executable must be a Python like this one ({sys.implementation.cache_tag}), not "
            f"{shown(path)}: asked which it is, it said {shown(said)}"
        )

    _known.add(found)


def _ask(path: str) -> str:
    command = [path, "-S", "-c", "import sys; print(sys.implementation.cache_tag)"]
    environment = {**os.environ, STARTING: str(os.getpid())}
    try:
        asked = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return str(error)

    said: list[bytes] = []
    listener = new_thread(lambda: said.extend(asked.communicate()), "tasker-listener")
    try:
        listener.start()
        # A timeout of `subprocess` would stand still with a test's stopped clock.
        listener.join(_ANSWER_S)
    finally:
        # It has ended, or it does not answer.
        asked.kill()
        listener.join(_KILL_WAIT_S)

    if not said:
        return "nothing"
    lines = said[0 if asked.returncode == 0 else 1].decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line), "nothing")
