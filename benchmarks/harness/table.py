"""The results as a table, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import RIVALS
from benchmarks.harness.rounds import Spread

__all__ = ["as_markdown", "as_text", "figure"]

NAMES = [rival.name for rival in RIVALS]
MET = {True: "yes", False: "no", None: ""}


def as_text(rows: Sequence[Row]) -> str:
    """Return columns that are padded with spaces, with notes below."""
    lines = _lines(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )

    return "\n".join("  ".join(line).rstrip() for line in padded)


def as_markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    head, *body = _lines(rows)
    rule = ["---"] * 4 + ["---:"] * (len(head) - 4)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body])


def figure(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    shown = [name for name in NAMES if any(name in row.figures for row in rows)]
    lines = [["measurement", "tasker to ThreadPoolExecutor", "target", "met", *shown]]

    for row in rows:
        medians = {name: figure(value.median) for name, value in row.figures.items()}
        beside = ", ".join(
            f"{name}: {value}" for name, value in medians.items() if name not in NAMES
        )
        cells = [medians.get(name, "") for name in shown]
        title = f"{row.title} ({row.unit}{'; ' if beside else ''}{beside})"
        target = "" if row.target is None else str(row.target)
        lines.append([title, _ratio(row.ratio, row.meaning), target, MET[row.met()], *cells])

    return lines


def _ratio(ratio: Spread | None, meaning: str) -> str:
    if ratio is None:
        return ""
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) {meaning}"
