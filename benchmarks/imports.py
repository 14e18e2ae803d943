"""What importing a library adds to the start of the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import tasker
from benchmarks.results import Row
from benchmarks.rivals import BASELINE, TASKER, installed
from benchmarks.rounds import interleave, ratios, seconds, spread
from benchmarks.targets import Target

__all__ = ["import_times", "path_of_packages", "with_byte_code"]

BARE = "the interpreter alone"


def import_times(quick: bool) -> list[Row]:
    """Wall time of an interpreter that imports it, less that of one that does nothing.

    The byte code of all of them is in a cache of its own, filled by the round that is thrown away, whatever the
    environment says about writing byte code."""
    rounds = 2 if quick else 21
    statements = {BARE: "pass"} | {rival.name: rival.statement for rival in installed()}
    with tempfile.TemporaryDirectory() as cache:
        environment = with_byte_code(cache)
        samplers = {name: partial(_start, code, environment) for name, code in statements.items()}
        walls = interleave(samplers, rounds)
    bare = walls.pop(BARE)
    added = {name: [wall - start for wall, start in zip(values, bare, strict=True)] for name, values in walls.items()}
    return [
        Row(
            name="import",
            title="import, above the interpreter's own start",
            unit="ms",
            samples=added | {BARE: bare},
            ratio=spread(ratios(added[TASKER], added[BASELINE]) or [float("nan")]),
            meaning="times its time",
            target=Target("at most", 25, "ms", of="tasker"),
            notes=(f"{rounds} rounds",),
        )
    ]


def path_of_packages() -> str:
    """`PYTHONPATH` for a child that is to find the tasker and the benchmarks that run here."""
    folders = (str(Path(file).parents[1]) for file in (tasker.__file__, __file__))
    return os.pathsep.join([*dict.fromkeys(folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def with_byte_code(cache: str) -> dict[str, str]:
    """An environment in which interpreters keep their byte code in that folder, whatever this one says about it."""
    environment = os.environ | {"PYTHONPATH": path_of_packages(), "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _start(code: str, environment: Mapping[str, str]) -> float:
    command = [sys.executable, "-c", code]
    return seconds(lambda: subprocess.run(command, check=True, env=environment)) * 1e3
