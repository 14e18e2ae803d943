"""The lines a second of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.environment import path_of_packages
from benchmarks.harness.results import Row
from benchmarks.harness.rivals import TASKER
from benchmarks.harness.rounds import interleave, seconds, spreads

__all__ = ["lines_a_second", "no_op"]


def no_op(line: str) -> None:
    """The function that is mapped over the lines."""


def lines_a_second(quick: bool) -> list[Row]:
    """From a file into a file, from the start of the process to its end."""
    count, rounds = (200, 1) if quick else (50_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.write_text("".join(f"line {number}\n" for number in range(count)))
        command = [
            sys.executable,
            "-m",
            "tasker",
            "map",
            f"{__name__}:{no_op.__name__}",
            "--workers",
            "4",
        ]
        command += ["--input", str(source), "--output", str(target)]
        environment = os.environ | {"PYTHONPATH": path_of_packages()}

        def run() -> None:
            subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)

        samples = interleave({TASKER: lambda: count / seconds(run)}, rounds)

    return [
        Row(
            name="lines",
            title=f"the command line: tasker map, {count:,} lines, 4 workers,"
            " start and end included",
            unit="lines a second",
            figures=spreads(samples),
            notes=(f"{rounds} rounds; from a file into a file",),
        )
    ]
