"""The history of results: files that name the machine and the Python.

There is one file for each Python and each commit of tasker's. A row that is measured
anew replaces the one in the file, so a long run may be made in pieces (`--only`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.harness.results import Row

__all__ = ["HISTORY", "Results", "load", "newest", "save"]

HISTORY = Path(__file__).parents[1] / "history"


@dataclass(frozen=True)
class Results:
    """Rows that were measured at one time.

    `on` is the description of `machine.describe`, `date` is in UTC, and `quick` marks a
    smoke test.
    """

    on: Mapping[str, Any]
    date: str
    quick: bool
    rows: list[Row]

    def row(self, name: str) -> Row | None:
        """The row of that name, if it was measured."""
        return next((row for row in self.rows if row.name == name), None)


def save(results: Results, folder: Path) -> Path:
    """Write results to their file in that folder, and keep its other rows."""
    path = _path_of(results, folder)
    if path.exists():
        rows = {row.name: row for row in [*load(path).rows, *results.rows]}
        results = Results(results.on, results.date, results.quick, list(rows.values()))

    path.write_text(_as_text(results), encoding="utf-8")
    return path


def load(path: Path) -> Results:
    """Read a file that `save` has written."""
    on = json.loads(path.read_text(encoding="utf-8"))
    date, quick, rows = on.pop("date"), on.pop("quick"), on.pop("rows")
    return Results(on, date, quick, [Row.from_json(row) for row in rows])


def newest(folder: Path) -> list[Results]:
    """Return the newest of each Python (GIL, JIT, version); those without GIL are last.

    Results of smoke tests are left out.
    """
    found: dict[tuple[bool, bool, int, int], Results] = {}
    for results in sorted(map(load, folder.glob("*.json")), key=lambda results: results.date):
        if not results.quick:
            found[_python_of(results)] = results

    return [results for _, results in sorted(found.items())]


def _python_of(results: Results) -> tuple[bool, bool, int, int]:
    python = results.on["python"]
    major, minor = python["name"].split(".")[:2]
    return not python["gil"], python["jit"], int(major), int(minor)


def _path_of(results: Results, folder: Path) -> Path:
    """Return the file with results of the same description, or a new path."""
    tasker = results.on["tasker"]
    stem = f"{results.on['python']['name']}-{tasker['commit'] or tasker['version']}"
    names = (f"{stem}.json" if number == 1 else f"{stem}-{number}.json" for number in count(1))

    return next(
        path
        for path in map(folder.joinpath, names)
        if not path.exists() or _are_alike(load(path), results)
    )


def _are_alike(one: Results, other: Results) -> bool:
    return one.on == other.on and one.quick == other.quick


def _as_text(results: Results) -> str:
    """Return JSON with a line for each row."""
    head = {"date": results.date, "quick": results.quick, **results.on}
    lines = [f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(row.to_json(), ensure_ascii=False)}" for row in results.rows)

    return "{\n" + "".join(f" {line},\n" for line in lines) + f' "rows": [\n{rows}\n ]\n}}\n'
