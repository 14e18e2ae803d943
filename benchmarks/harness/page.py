"""The history's README: the last results of each Python, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.history import Results
from benchmarks.harness.table import as_markdown

__all__ = ["as_page", "python_in_words", "where_in_words"]

HEAD = """# What was measured

The newest results of each Python, made by `python -m benchmarks.chart` from the files
beside this one. `python -m benchmarks --output benchmarks/history` adds to them; with
`--python PATH`, what another interpreter does. Figures are medians, in brackets the
quartiles of the ratio.
"""


def as_page(results: Sequence[Results]) -> str:
    """Return the page in Markdown."""
    return "\n".join([HEAD, *map(_section, results)])


def _section(results: Results) -> str:
    python = results.on["python"]
    where = f"{python['implementation']} {python['build']}; {where_in_words(results)}."
    return f"## {python_in_words(results)}\n\n{where}\n\n{as_markdown(results.rows)}\n"


def python_in_words(results: Results) -> str:
    """Return a label: the version without its last number."""
    python = results.on["python"]
    version = ".".join(python["name"].split(".")[:2])
    return version + ("" if python["gil"] else ", no GIL") + (", JIT" if python["jit"] else "")


def where_in_words(results: Results) -> str:
    """Return tasker, the machine and the date of the figures."""
    tasker, machine = results.on["tasker"], results.on["machine"]
    commit = f" ({tasker['commit']})" if tasker["commit"] else ""
    return (
        f"tasker {tasker['version']}{commit} on {machine['cpu']}, {machine['usable_cores']} cores, "
        f"{machine['platform']}, {results.date[:10]}"
    )
