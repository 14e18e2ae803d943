"""`python -m benchmarks`: measure, print a table, add the results to a history.

Each measurement runs in a process of its own, in which all rivals are measured in
interleaved rounds.

The exit status is 0 if all was measured, 1 if a measurement failed, and 2 for a wrong
option. A missed target does not change it, because machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import path_of_packages, with_byte_code
from benchmarks.harness.history import Results, save
from benchmarks.harness.options import Parser
from benchmarks.harness.results import Row
from benchmarks.harness.table import as_text
from benchmarks.measurements import MEASUREMENTS

# Longer than any measurement takes. One that takes longer hangs.
LIMIT_S = 1_800


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    options = _options(arguments)
    if options.list:
        width = max(map(len, MEASUREMENTS))
        for name, measurement in MEASUREMENTS.items():
            print(f"{name:<{width}}  {measurement.title}")
        return 0

    failed = [
        name for python, on in options.python.items() for name in _measure_all(python, on, options)
    ]
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--quick", action="store_true", help="few short rounds: a smoke test, bad figures"
    )
    parser.add_argument(
        "--only", type=_names, metavar="NAME[,NAME]", help="these, or all that begin with NAME-"
    )
    parser.add_argument("--list", action="store_true", help="list the measurements and leave")
    parser.add_argument(
        "--python",
        action="append",
        metavar="PATH",
        help="measure on that interpreter (may be given more than once)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="add the results to the files there: benchmarks/history",
    )
    options = parser.parse_args(arguments)
    options.only = options.only or list(MEASUREMENTS)
    if options.output is not None and not options.output.is_dir():
        parser.error(f"argument --output: {options.output} is no folder")

    try:
        options.python = {
            python: _described(python) for python in options.python or [sys.executable]
        }
    except ValueError as error:
        parser.error(f"argument --python: {error}")

    return options


def _described(python: str) -> dict[str, Any]:
    """Return the description of an interpreter and its machine.

    Raises `ValueError` if tasker cannot be imported there.
    """
    command = [python, "-m", "benchmarks.harness.machine"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=_environment())
    except OSError as error:
        raise ValueError(f"{python} cannot be run: {error.strerror}") from None

    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if "rror" in line]
        raise ValueError(f"{python} cannot run this: {(errors or ['it does not say why'])[-1]}")

    described: dict[str, Any] = json.loads(run.stdout)
    return described


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": path_of_packages()}


def _names(text: str) -> list[str]:
    """Return the named measurements.

    A first word names several: `processes` names all that begin with `processes-`.
    """
    chosen: list[str] = []
    for name in [part.strip() for part in text.split(",")]:
        found = (
            [name]
            if name in MEASUREMENTS
            else [each for each in MEASUREMENTS if each.startswith(f"{name}-")]
        )
        if not found:
            raise argparse.ArgumentTypeError(
                f"no measurement {name!r}: choose from {', '.join(MEASUREMENTS)}"
            )
        chosen += found

    return chosen


def _heading(on: Mapping[str, Any]) -> str:
    python, machine, tasker = on["python"], on["machine"], on["tasker"]
    versions = {"tasker": tasker["version"], **on["rivals"]}
    shown = ", ".join(
        f"{name} {version}" for name, version in versions.items() if version[0].isdigit()
    )
    missing = f"; not installed, skipped: {', '.join(on['skipped'])}" if on["skipped"] else ""

    return (
        f"{python['implementation']} {python['name']} on {machine['cpu']},"
        f" {machine['usable_cores']} cores, {machine['platform']}\n{shown}{missing}"
    )


def _measure_all(python: str, on: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    """Measure and print, and return the names that failed.

    Each result is saved at once, so an end of the run loses no earlier one.
    """
    print(_heading(on), flush=True)
    rows: list[Row] = []
    failed: list[str] = []

    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            measured = _measure(python, name, options.quick)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed.append(name)
            continue

        if not measured:
            print(f"{name}: nothing to measure on this Python", file=sys.stderr)
        elif options.output is not None:
            date = datetime.now(UTC).isoformat(timespec="seconds")
            save(Results(on, date, options.quick, measured), options.output)

        rows += measured

    print(f"\n{as_text(rows)}\n" if rows else "", flush=True)
    return failed


def _measure(python: str, name: str, quick: bool) -> list[Row]:
    command = [python, "-m", "benchmarks.run_one", name, *["--quick"] * quick]
    with tempfile.TemporaryDirectory() as cache:
        environment = (
            with_byte_code(cache) if MEASUREMENTS[name].keeps_byte_code else _environment()
        )
        run = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, timeout=LIMIT_S, text=True, env=environment
        )

    return [Row.from_json(data) for data in json.loads(run.stdout)]


if __name__ == "__main__":
    sys.exit(main())
