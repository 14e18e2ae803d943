"""What the figures were measured on, and the memory of this process."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.process_rivals import PROCESS_RIVALS
from benchmarks.rivals import RIVALS
from benchmarks.targets import this_build

__all__ = ["describe", "pin", "python_name", "resident_bytes"]


def describe() -> dict[str, Any]:
    """Machine, Python, and the versions of what was measured."""
    rivals = {rival.name: rival for rival in (*RIVALS, *PROCESS_RIVALS)}.values()
    return {
        "machine": {
            "architecture": platform.machine(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": _usable_cores(),
            "platform": f"{platform.system()} {platform.release()}",
        },
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "build": sys.version,
            "gil": not this_build().free_threaded,
        },
        "rivals": {rival.name: rival.version() for rival in rivals if rival.is_installed()},
        "skipped": [rival.name for rival in rivals if not rival.is_installed()],
    }


def python_name() -> str:
    """The Python's version, with a `t` when it is free-threaded."""
    return platform.python_version() + "t" * this_build().free_threaded


def pin() -> str | None:
    """Pin this process to one CPU, before any thread starts; returns a note where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned to one CPU: this platform cannot"
    try:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # interrupts often go to the first one
    except OSError as error:
        return f"not pinned to one CPU: {error.strerror}"
    return None


def resident_bytes() -> int | None:
    """The resident set of this process; `None` on platforms that do not tell it as Linux does."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), None)


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")
