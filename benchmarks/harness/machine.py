"""The machine and the Python of the figures, and the memory of this process.

`python -m benchmarks.harness.machine` prints the description as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import tasker
from benchmarks.harness.process_rivals import PROCESS_RIVALS
from benchmarks.harness.rivals import RIVALS, TASKER
from benchmarks.harness.targets import this_build

__all__ = ["describe", "pin", "resident_bytes"]


def describe() -> dict[str, Any]:
    """Describe tasker, Python, the machine, and the versions of the rivals."""
    rivals = {
        rival.name: rival for rival in (*RIVALS, *PROCESS_RIVALS) if rival.name != TASKER
    }.values()
    return {
        "tasker": {"version": tasker.__version__, "commit": _commit(Path(tasker.__file__).parent)},
        "python": {
            "name": _python_name(),
            "implementation": platform.python_implementation(),
            "build": sys.version,
            "gil": not this_build().free_threaded,
            "jit": _has_jit(),
        },
        "machine": {
            "architecture": platform.machine(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": _usable_cores(),
            "platform": f"{platform.system()} {platform.release()}",
        },
        "rivals": {rival.name: rival.version() for rival in rivals if rival.is_installed()},
        "skipped": [rival.name for rival in rivals if not rival.is_installed()],
    }


def _python_name() -> str:
    """Return the version; it ends in `t` without the GIL, in `-jit` with the JIT."""
    return platform.python_version() + "t" * this_build().free_threaded + "-jit" * _has_jit()


def _has_jit() -> bool:
    jit = getattr(sys, "_jit", None)  # from 3.14 on
    return jit is not None and bool(jit.is_enabled())


def _commit(folder: Path) -> str | None:
    """Return the last commit that changed the folder; `None` without git.

    It ends in `-changed` if files have been changed since.
    """
    commit = _git(folder, "log", "-1", "--abbrev=10", "--format=%h", "--", ".")
    if commit and _git(folder, "status", "--porcelain", "--", "."):
        commit += "-changed"
    return commit or None


def _git(folder: Path, *arguments: str) -> str:
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""

    return run.stdout.strip()


def pin() -> str | None:
    """Pin this process to one CPU, before any thread starts.

    Returns a note if that cannot be done.
    """
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned to one CPU: this platform cannot"

    try:
        # Interrupts often go to the first CPU, so this takes the last one.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    except OSError as error:
        return f"not pinned to one CPU: {error.strerror}"

    return None


def resident_bytes() -> int | None:
    """Return the resident set of this process.

    `None` on platforms that do not tell it as Linux does.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None

    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")),
        None,
    )


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []

    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")


if __name__ == "__main__":
    json.dump(describe(), sys.stdout)
