"""Which processes there are, and what this one has open."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def children() -> set[int]:
    """The processes that this one has started and that have not ended, or that nobody has reaped."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found.update(map(int, thread.read_text().split()))
    return found


def is_alive(process: int) -> bool:
    """Whether a process runs. One that has ended and that nobody has reaped does not."""
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[
            0
        ] not in "ZX"
    except OSError:
        return False


def processes_with(argument: str) -> set[int]:
    """All processes of this machine that were started with this argument."""
    found: set[int] = set()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            if argument.encode() in line.read_bytes().split(b"\0"):
                found.add(int(line.parent.name))
    return found


def descriptors() -> set[str]:
    """What this process has open, but for files."""
    found: set[str] = set()
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(entry)
        except OSError:  # the one that lists them
            continue
        if not target.startswith("/"):
            found.add(f"{entry.name} {target}")
    return found
