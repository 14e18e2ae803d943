"""The time that importing a library adds to the start of the interpreter."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.harness.environment import with_byte_code
from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, TASKER, installed
from benchmarks.harness.rounds import interleave, ratios, seconds, spread, spreads
from benchmarks.harness.targets import Target

__all__ = ["import_times"]

BARE = "the interpreter alone"
# tasker cannot do without these.
NEEDED = "concurrent.futures.thread, logging"


def import_times(quick: bool) -> list[Row]:
    """Measure the wall time of an import, without that of the bare interpreter.

    The byte code of all of them is in a cache of its own, filled by the round that is
    thrown away, even if the environment forbids to write byte code.
    """
    rounds = 2 if quick else 21
    statements = {BARE: "pass", NEEDED: f"import {NEEDED}"}
    statements |= {rival.name: rival.statement for rival in installed()}

    with tempfile.TemporaryDirectory() as cache:
        environment = with_byte_code(cache)
        samplers = {name: partial(_start, code, environment) for name, code in statements.items()}
        walls = interleave(samplers, rounds)

    bare = walls.pop(BARE)
    added = {name: _less(values, bare) for name, values in walls.items()}
    notes = (f"{rounds} rounds",)

    return [
        Row(
            name="import",
            title="import, above the interpreter's own start",
            unit="ms",
            figures=spreads(added | {BARE: bare}),
            ratio=spread(ratios(added[BASELINE], added[TASKER]) or [float("nan")]),
            meaning="times as fast",
            notes=notes,
        ),
        Row(
            name="import-above",
            title=f"import, above that of {NEEDED}",
            unit="ms",
            figures={TASKER: spread(_less(walls[TASKER], walls[NEEDED]))},
            target=Target("at most", 10, "ms", of="tasker"),
            notes=notes,
        ),
    ]


def _less(walls: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round."""
    return [wall - off for wall, off in zip(walls, other, strict=True)]


def _start(code: str, environment: Mapping[str, str]) -> float:
    command = [sys.executable, "-c", code]
    return seconds(lambda: subprocess.run(command, check=True, env=environment)) * 1e3
