"""`python`: the Python that child processes run.

`sys.executable` is one, as a rule. In a frozen program it is the program, in an embedding one (uWSGI) the host: started
as a child that would do again what it does, and start children itself. So what is no Python is refused, without a try
of what may be the program itself; and whatever is started as a child says so in its environment until it serves, and
starts no children.
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

STARTING = "TASKER_STARTING"  # in the environment of what is started as a child, until it serves
_PATIENCE = 10.0  # seconds for a Python to say which it is
_ENDING = 1.0  # seconds for one that was killed to be gone
_INSTEAD = "say which Python children are to run, by Processes(executable=...) or multiprocessing.set_executable()"

_known: set[str] = set()  # those that were asked


def python(given: str | None, at_first: str) -> str:
    """`given`, what `multiprocessing.set_executable` was given, or `sys.executable`, which was `at_first` something
    else, perhaps.

    Raises `ConfigError` if that is no Python like this one. Blocks until one that is not `sys.executable` has said so,
    once."""
    if STARTING in os.environ:
        raise ConfigError(
            "placement=Processes(): this program was started as a child process, as if it were a Python, and runs its "
            f"own code instead: {_INSTEAD}"
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
            f"placement=Processes(): sys.executable is no Python: {shown(sys.executable)}: {_INSTEAD}"
        )
    return sys.executable


def _set_for_multiprocessing(at_first: str) -> str | None:
    spawn: Any = sys.modules.get("multiprocessing.spawn")
    if spawn is None or spawn.get_executable() is None:
        return None
    chosen = os.fsdecode(spawn.get_executable())
    return None if chosen in (sys.executable, at_first) else chosen  # its default


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
            f"executable must be a Python like this one ({sys.implementation.cache_tag}), not {shown(path)}: asked "
            f"which it is, it said {shown(said)}"
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
        listener.join(
            _PATIENCE
        )  # a limit of `subprocess` would stand still with a clock that a test has stopped
    finally:
        asked.kill()  # it has ended, or says nothing
        listener.join(_ENDING)
    if not said:
        return "nothing"
    lines = said[0 if asked.returncode == 0 else 1].decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line), "nothing")
