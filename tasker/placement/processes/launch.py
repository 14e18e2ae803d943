"""How a child process is started: by which Python, with what, and how it is kept apart.

The Python that is started imports nothing before it has its parent's `sys.path` (as
with `multiprocessing`). So a file that lies beside tasker cannot pass for a module of
the standard library. The child leads a session of its own, and so a group of processes
of its own. Neither Ctrl-C in a terminal, nor the end of the terminal, nor a signal for
the parent's group reaches it. It inherits only its standard streams and the descriptors
that are named on its command line.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tasker._sync.locks import new_lock
from tasker._sync.threads import daemons_allowed
from tasker.placement.processes.beginning import FOLDER, folder
from tasker.placement.processes.multiprocess import tracker
from tasker.placement.processes.python import STARTING

__all__ = ["DETACHED", "above_standard", "is_standard", "launch", "lifeline", "pipe"]

# Signals that ask a process to end. A terminal, a supervisor and `kill` send them, and
# mean the parent.
DETACHED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

_PROGRAM = (
    "import sys; {} sys.argv[1:]; from tasker.placement.processes.child_main import main; main({})"
)


def launch(
    python: str,
    descriptors: dict[str, int],
    environment: Mapping[str, str],
    *,
    error: int | None,
    group: bool,
) -> subprocess.Popen[bytes]:
    """Start the program of a child.

    `descriptors` has the names that the child's `main` gives to them. `error` becomes
    the child's standard error; `None` gives it this process's own. `group`: whether its
    whole group ends with this process. Raises `OSError` when the system has no more
    processes."""
    descriptors = {**descriptors, "lifeline": lifeline()}
    tracking = tracker(python)
    if tracking is not None:
        descriptors["tracker"] = tracking

    arguments = ", ".join(f"{name}={number}" for name, number in descriptors.items())
    # The standard library of a frozen program is in the program.
    set_path = "sys.path +=" if getattr(sys, "frozen", False) else "sys.path[:] ="
    command = [
        python,
        *_flags(),
        "-c",
        _PROGRAM.format(set_path, f"{arguments}, group={group}"),
        *_path(),
    ]
    # The child inherits the mask, so none comes before it has its handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DETACHED)
    try:
        return subprocess.Popen(
            command,
            env={**environment, STARTING: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=_standard(1),
            stderr=_standard(2) if error is None else error,
            pass_fds=tuple(descriptors.values()),
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flags() -> list[str]:
    """The flags of this Python.

    Before 3.15 the standard library knows only some of the options of `-X`."""
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    known = {option.partition("=")[0] for option in flags}
    for name, value in getattr(sys, "_xoptions", {}).items():
        if name not in known:
            flags += ["-X", name if value is True else f"{name}={value}"]
    return flags


def _path() -> list[str]:
    """`sys.path`, followed by tasker's own folder if that is not in it."""
    path = [
        place
        for entry in sys.path
        if isinstance(entry, str) and "\0" not in entry
        for place in _places(entry)
    ]
    own = str(Path(__file__).parents[3])

    return path if own in path else [*path, own]


def _places(entry: str) -> list[str]:
    """The folders that an entry of `sys.path` has meant.

    A relative one was meant from another working directory, if the program has changed
    that since. The child starts in the present one."""
    if Path(entry).is_absolute():
        return [entry]

    here = folder()
    if entry == "":
        return [entry] if FOLDER in ("", here) else [FOLDER, entry]

    found: object = getattr(sys.path_importer_cache.get(entry), "path", None)
    return [found] if isinstance(found, str) and found != os.path.join(here, entry) else [entry]


# -- descriptors -----------------------------------------------------------------------


def pipe() -> tuple[int, int]:
    """A new pipe: its reading end and its writing end."""
    reader, writer = os.pipe()
    try:
        reader = above_standard(reader)
        return reader, above_standard(writer)
    except BaseException:
        for end in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(end)
        raise


def above_standard(descriptor: int) -> int:
    """The same file by a number above 2.

    A new file gets 0, 1 or 2 when that standard stream was closed."""
    if descriptor > 2:
        return descriptor

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def is_standard(descriptor: int) -> bool:
    """Whether descriptor 0, 1 or 2 is the standard stream.

    The stream may be closed, and another file may have got its number since."""
    try:
        # Files that Python opens are not inheritable.
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def _standard(descriptor: int) -> int | None:
    return None if is_standard(descriptor) else subprocess.DEVNULL


# Guards the two ends. Reentrant: a signal handler may start a child, too.
_lifeline_lock = new_lock()
_lifeline_ends: tuple[int, int] | None = None


def lifeline() -> int:
    """The reading end of a pipe whose writing end this process alone has.

    Nothing closes the writing end but the kernel, when this process ends."""
    global _lifeline_ends
    with _lifeline_lock:
        if _lifeline_ends is None:
            _lifeline_ends = pipe()
            # In a subinterpreter. The process may outlive it by far.
            if not daemons_allowed():
                atexit.register(_start_afresh)
        return _lifeline_ends[0]


def _start_afresh() -> None:
    """Give up the lifeline.

    In a forked child (R5): it must not keep the children of its parent alive. Also at
    the end of a subinterpreter, whose children have ended before."""
    global _lifeline_ends, _lifeline_lock
    _lifeline_lock = new_lock()
    ends, _lifeline_ends = _lifeline_ends, None
    for descriptor in ends or ():
        os.close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
