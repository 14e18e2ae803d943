"""`python -m benchmarks`: measure, print a table, write a JSON file.

Each measurement runs in a process of its own, in which all rivals are measured in interleaved rounds. Targets that are
missed do not change the exit status (machines are noisy): 0 when all was measured, 1 when something failed, 2 for a
wrong option.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.imports import with_byte_code
from benchmarks.machine import describe, python_name
from benchmarks.measurements import MEASUREMENTS
from benchmarks.results import Row
from benchmarks.table import as_markdown, as_text

RESULTS = Path(__file__).parent / "results"
LIMIT = 1_800  # seconds for one measurement


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _options(arguments)
    if options.list:
        width = max(map(len, MEASUREMENTS))
        for name, measurement in MEASUREMENTS.items():
            print(f"{name:<{width}}  {measurement.title}")
        return 0
    report = describe() | {"date": datetime.now(UTC).isoformat(timespec="seconds"), "quick": options.quick}
    print(_heading(report), flush=True)
    rows, failed = _measure_all(options.only, options.quick)
    report |= {"measurements": [row.to_json() for row in rows], "failed": failed}
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    if rows:
        print(f"\n{as_text(rows)}")
    if rows and options.markdown:
        print(f"\n{as_markdown(rows)}")
    print(f"\nwritten to {options.output}")
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="few short rounds: a smoke test, bad figures")
    parser.add_argument("--only", type=_names, metavar="NAME[,NAME]", help="these, or all that begin with NAME-")
    parser.add_argument("--list", action="store_true", help="list the measurements and leave")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the JSON file (default: in benchmarks/results)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown too")
    options = parser.parse_args(arguments)
    options.only = options.only or list(MEASUREMENTS)
    if options.output is None:
        options.output = RESULTS / f"{python_name()}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        RESULTS.mkdir(exist_ok=True)
    elif not options.output.parent.is_dir() or options.output.is_dir():
        parser.error(f"argument --output: cannot write {options.output}: no such folder, or a folder itself")
    return options


def _names(text: str) -> list[str]:
    """Names, or the first words of names: `processes` is all that begin with `processes-`."""
    chosen: list[str] = []
    for name in [part.strip() for part in text.split(",")]:
        found = [name] if name in MEASUREMENTS else [each for each in MEASUREMENTS if each.startswith(f"{name}-")]
        if not found:
            raise argparse.ArgumentTypeError(f"no measurement {name!r}: choose from {', '.join(MEASUREMENTS)}")
        chosen += found
    return chosen


def _heading(report: dict[str, Any]) -> str:
    machine, python = report["machine"], report["python"]
    versions = ", ".join(f"{name} {version}" for name, version in report["rivals"].items() if version[0].isdigit())
    missing = f"; not installed, skipped: {', '.join(report['skipped'])}" if report["skipped"] else ""
    return (
        f"{python['implementation']} {python_name()} on {machine['cpu']}, {machine['usable_cores']} cores, "
        f"{machine['platform']}\n{versions}{missing}"
    )


def _measure_all(names: Sequence[str], quick: bool) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    failed: list[str] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += _measure(name, quick)
        except subprocess.CalledProcessError as error:  # it has printed why
            print(f"{name} failed with exit status {error.returncode}", file=sys.stderr)
            failed.append(name)
        except subprocess.TimeoutExpired:
            print(f"{name} failed: not done within {LIMIT} s", file=sys.stderr)
            failed.append(name)
    return rows, failed


def _measure(name: str, quick: bool) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.child", name, *["--quick"] * quick]
    with tempfile.TemporaryDirectory() as cache:
        environment = with_byte_code(cache) if MEASUREMENTS[name].keeps_byte_code else None
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=LIMIT, text=True, env=environment)
    return [Row.from_json(data) for data in json.loads(run.stdout)]


if __name__ == "__main__":
    sys.exit(main())
