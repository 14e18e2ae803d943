"""One measurement in this process: `python -m benchmarks.run_one NAME [--quick]` prints
its rows as JSON.

Nothing is imported at the top that could start a thread, because pinning comes first.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from benchmarks.harness.machine import pin
from benchmarks.measurements import MEASUREMENTS

__all__ = ["main"]


def main(name: str, *options: str) -> None:
    """Measure and print."""
    measurement = MEASUREMENTS[name]
    note = pin() if measurement.pinned else None
    rows = measurement.run("--quick" in options)
    if note is not None:
        rows = [replace(row, notes=(*row.notes, note)) for row in rows]
    json.dump([row.to_json() for row in rows], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
