"""How a child process is started: by which Python, with what, and how it is kept apart.

It is a Python of its own that imports nothing before it has its parent's `sys.path` (as with `multiprocessing`): what
lies beside tasker must not pass for a module of the standard library. It leads a session of its own, and so a group of
processes: neither Ctrl-C in a terminal, nor the end of the terminal, nor a signal for the parent's group reaches it.
It inherits nothing but standard output and error and the descriptors that it is told of.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from tasker._sync.locks import new_lock
from tasker._sync.threads import daemons_allowed
from tasker.placement.processes.beginning import FOLDER, folder
from tasker.placement.processes.multiprocess import tracker
from tasker.placement.processes.python import STARTING

__all__ = ["DETACHED", "above_standard", "is_standard", "launch", "lifeline", "pipe"]

# signals that ask a process to end, and that those send who mean the parent: a terminal, a supervisor, `kill`
DETACHED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

_PROGRAM = (
    "import sys; {} sys.argv[1:]; from tasker.placement.processes.child_main import main; main({})"
)


def launch(
    python: str, descriptors: dict[str, int], *, error: int | None, group: bool
) -> subprocess.Popen[bytes]:
    """Start the program of a child with its descriptors, as its `main` names them. `error`: what it gets as its
    standard error, if not this process's own. `group`: whether its whole group ends with this process.

    Raises `OSError` when there can be no more processes."""
    descriptors = {**descriptors, "lifeline": lifeline()}
    tracking = tracker(python)
    if tracking is not None:
        descriptors["tracker"] = tracking
    arguments = ", ".join(f"{name}={number}" for name, number in descriptors.items())
    # the standard library of a frozen program is in the program
    set_path = "sys.path +=" if getattr(sys, "frozen", False) else "sys.path[:] ="
    command = [
        python,
        *_flags(),
        "-c",
        _PROGRAM.format(set_path, f"{arguments}, group={group}"),
        *_path(),
    ]
    # a mask is inherited, so that none of these reaches the child before it has seen to them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DETACHED)
    try:
        return subprocess.Popen(
            command,
            env={**os.environ, STARTING: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=_standard(1),
            stderr=_standard(2) if error is None else error,
            pass_fds=tuple(descriptors.values()),
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flags() -> list[str]:
    """The flags of this Python. Before 3.15 the standard library knows few of the options of `-X`."""
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    known = {option.partition("=")[0] for option in flags}
    for name, value in getattr(sys, "_xoptions", {}).items():
        if name not in known:
            flags += ["-X", name if value is True else f"{name}={value}"]
    return flags


def _path() -> list[str]:
    """`sys.path`, and at its end where tasker lies, should it have been imported from elsewhere."""
    path = [
        place
        for entry in sys.path
        if isinstance(entry, str) and "\0" not in entry
        for place in _places(entry)
    ]
    own = str(Path(__file__).parents[3])
    return path if own in path else [*path, own]


def _places(entry: str) -> list[str]:
    """Where an entry of `sys.path` has led to. A child starts where the program is now, which may be elsewhere."""
    if Path(entry).is_absolute():
        return [entry]
    here = folder()
    if entry == "":
        return [entry] if FOLDER in ("", here) else [FOLDER, entry]
    found: object = getattr(sys.path_importer_cache.get(entry), "path", None)
    return [found] if isinstance(found, str) and found != os.path.join(here, entry) else [entry]


# -- descriptors ---------------------------------------------------------------------------------------------------


def pipe() -> tuple[int, int]:
    """A reading and a writing end."""
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
    """The same by a number that does not stand for standard input, output or error, should one of those be closed."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def is_standard(descriptor: int) -> bool:
    """Whether 0, 1 or 2 is what its name says: it may be closed, or a file that was opened after it was closed."""
    try:
        return os.get_inheritable(descriptor)  # as files that Python opens are not
    except OSError:
        return False


def _standard(descriptor: int) -> int | None:
    return None if is_standard(descriptor) else subprocess.DEVNULL


_lifeline_lock = new_lock()  # reentrant: a signal handler may start a child, too
_lifeline_ends: tuple[int, int] | None = None


def lifeline() -> int:
    """The reading end of a pipe whose writing end is this process's alone: the kernel closes it when the process ends,
    and nobody else does."""
    global _lifeline_ends
    with _lifeline_lock:
        if _lifeline_ends is None:
            _lifeline_ends = pipe()
            if not daemons_allowed():  # the process may outlive this interpreter by far
                atexit.register(_start_afresh)
        return _lifeline_ends[0]


def _start_afresh() -> None:
    """In a forked child: it must not keep the lifeline of its parent's children alive. At a subinterpreter's end, which
    its children have not outlived."""
    global _lifeline_ends, _lifeline_lock
    _lifeline_lock = new_lock()
    ends, _lifeline_ends = _lifeline_ends, None
    for descriptor in ends or ():
        os.close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
