"""`python -m benchmarks.chart`: draw the newest results of each Python, and list them.

The results come from the history. This writes `chart-light.svg` and `chart-dark.svg`,
which the project's README shows, and the history's own README.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.history import HISTORY, Results, newest
from benchmarks.harness.page import as_page, python_in_words, where_in_words
from benchmarks.harness.results import Row
from benchmarks.harness.rounds import Spread
from benchmarks.harness.svg import DARK, LIGHT, Drawing, Palette, width_of

__all__ = ["FILES", "draw", "main"]

TITLE = "tasker: how many times as fast as ThreadPoolExecutor"
FILES = {"chart-light.svg": LIGHT, "chart-dark.svg": DARK}

# The name of the row without the context, and the panel's title.
PANELS = (
    ("submit-1", "Submit all, gather all: 1 worker"),
    ("submit-4", "Submit all, gather all: 4 workers"),
    ("round-trip-1", "Blocking round trip: 1 worker"),
    ("round-trip-4", "Blocking round trip: 4 workers"),
    ("callers-8", "8 blocking callers: 4 workers"),
)
ABOUT = (
    "Tasks that do nothing, so that the pools themselves are compared: "
    "medians of interleaved rounds, and quartiles. "
    "Round trips: of the time above two bare thread switches, which no pool can save. "
    "They and the blocking callers are kept on one CPU."
)
ABOUT_STARS = "* Of the whole time, because two bare switches take no less there."

# The layout, in pixels.
WIDTH, MARGIN, GAP = 840, 20, 44
PANEL = (WIDTH - 2 * MARGIN - GAP) / 2
HEADER = 78
# The height of a bar, and the step from one bar to the next of the same line.
BAR, PITCH = 10, 12
BETWEEN = 9  # lines
VALUES = 40  # right of the longest bar
SMALL = 11


@dataclass(frozen=True)
class Bar:
    """One figure; `color` is a field of `Palette`, `mark` follows the number."""

    value: Spread
    color: str
    mark: str = ""


@dataclass(frozen=True)
class Panel:
    """Bars in lines, each line with its label. Panels of one `kind` have one scale."""

    kind: str
    title: str
    lines: Sequence[tuple[str, Sequence[Bar]]]

    def highest(self) -> float:
        """The value at which the longest bar or whisker ends."""
        return max(
            (max(bar.value.median, bar.value.high) for _, bars in self.lines for bar in bars),
            default=1.0,
        )


def main() -> None:
    """Write the files."""
    results = newest(HISTORY)
    for name, palette in FILES.items():
        (HISTORY / name).write_text(draw(results, palette), encoding="utf-8")
    (HISTORY / "README.md").write_text(as_page(results), encoding="utf-8")


def draw(results: Sequence[Results], palette: Palette) -> str:
    """The chart as the text of an SVG file."""
    panels = [_panel(name, title, results) for name, title in PANELS]
    panels += [_cores(each) for each in results if each.row("cores-submit-30")]
    drawing = Drawing(palette)
    _draw_header(drawing)
    bottom = float(HEADER)

    for pair in (panels[begin : begin + 2] for begin in range(0, len(panels), 2)):
        ends = [
            _draw_panel(
                drawing, panel, MARGIN + column * (PANEL + GAP), bottom, _ticks(panel.kind, panels)
            )
            for column, panel in enumerate(pair)
        ]
        bottom = max(ends) + 24

    notes = _notes(results, panels)
    for number, note in enumerate(notes):
        drawing.text(MARGIN, bottom + 8 + number * 16, note, palette.muted, size=SMALL)

    return drawing.as_text(WIDTH, bottom + len(notes) * 16 + 8, TITLE, _description(panels))


# -- the panels ------------------------------------------------------------------------


def _panel(name: str, title: str, results: Sequence[Results]) -> Panel:
    """A line for each Python, with a bar for each form of task."""
    lines = []
    for each in results:
        forms = ((each.row(name), "plain"), (each.row(f"{name}-context"), "context"))
        bars = [_bar(row, color) for row, color in forms if row is not None]
        if bars:
            lines.append((python_in_words(each), bars))

    return Panel(name.rpartition("-")[0], title, lines)


def _cores(results: Results) -> Panel:
    """A line for each kind of task: a bar for tasker, one for ThreadPoolExecutor."""
    lines = []
    for size in (30, 300):
        for way, words in (("submit", "one by one"), ("map", "map")):
            pools = ((f"cores-{way}-{size}", "plain"), (f"cores-{way}-{size}-baseline", "baseline"))
            bars = [
                _bar(row, color) for name, color in pools if (row := results.row(name)) is not None
            ]
            lines.append((f"{size} µs, {words}", bars))

    return Panel("cores", f"{python_in_words(results)}: pure Python, 2 workers against 1", lines)


def _bar(row: Row, color: str) -> Bar:
    assert row.ratio is not None
    return Bar(row.ratio, color, "*" if row.meaning.endswith("hand-overs included") else "")


def _notes(results: Sequence[Results], panels: Sequence[Panel]) -> list[str]:
    """The lines of the notes below the panels."""
    marked = any(bar.mark for panel in panels for _, bars in panel.lines for bar in bars)
    pythons: dict[str, list[str]] = {}
    for each in results:
        pythons.setdefault(where_in_words(each), []).append(each.on["python"]["name"])
    notes = [
        ABOUT,
        *([ABOUT_STARS] if marked else []),
        *(f"CPython {', '.join(names)}; {where}." for where, names in pythons.items()),
    ]
    letters = int((WIDTH - 2 * MARGIN) / width_of("m", SMALL))

    return [line for note in notes for line in textwrap.wrap(note, letters)]


def _description(panels: Sequence[Panel]) -> list[str]:
    """The figures in words."""
    described = []
    names = {"plain": "tasker", "context": "with the context", "baseline": "ThreadPoolExecutor"}

    for panel in panels:
        lines = (
            f"{label}: " + ", ".join(f"{names[bar.color]} {bar.value.median:.1f}" for bar in bars)
            for label, bars in panel.lines
        )
        described.append(f"{panel.title}. {'; '.join(lines)}.")

    return described


# -- the drawing -----------------------------------------------------------------------


def _draw_header(drawing: Drawing) -> None:
    palette = drawing.palette
    drawing.text(MARGIN, 34, TITLE, palette.text, size=17, bold=True)
    x = float(MARGIN)

    for color, words in (
        (palette.plain, "def task(resource)"),
        (palette.context, "with its context: def task(ctx, resource)"),
        (palette.baseline, "ThreadPoolExecutor, or the line at 1"),
    ):
        drawing.rectangle(x, 48, 12, BAR, color)
        drawing.text(x + 18, 57, words, palette.text)
        x += 18 + width_of(words, 12) + 12


def _draw_panel(
    drawing: Drawing, panel: Panel, left: float, top: float, ticks: Sequence[float]
) -> float:
    """Draw one panel, and return where it ends."""
    palette = drawing.palette
    labels = max((width_of(label, 12) for label, _ in panel.lines), default=0) + 8
    origin, scale = left + labels, (PANEL - labels - VALUES) / ticks[-1]
    first = top + 26
    last = first + sum(len(bars) * PITCH + BETWEEN for _, bars in panel.lines)

    drawing.text(left, top + 10, panel.title, palette.text, size=13, bold=True)
    for tick in ticks:
        x = origin + tick * scale
        drawing.line((x, first - 6), (x, last), palette.grid)
        drawing.text(x, last + 14, f"{tick:g}", palette.muted, size=SMALL, anchor="middle")

    y = first
    for label, bars in panel.lines:
        drawing.text(origin - 8, y + len(bars) * PITCH / 2 + 3, label, palette.text, anchor="end")
        for bar in bars:
            _draw_bar(drawing, bar, origin, y, scale)
            y += PITCH

        y += BETWEEN

    if all(bar.color != "baseline" for _, bars in panel.lines for bar in bars):
        x = origin + scale  # as fast as ThreadPoolExecutor
        drawing.line((x, first - 6), (x, last), palette.baseline, dashes="4 2")

    return last + 18


def _draw_bar(drawing: Drawing, bar: Bar, x: float, y: float, scale: float) -> None:
    palette, value = drawing.palette, bar.value
    end = x + max(value.median, value.high) * scale
    drawing.rectangle(x, y, value.median * scale, BAR, getattr(palette, bar.color))
    middle = y + BAR / 2
    drawing.line(
        (x + max(value.low, 0) * scale, middle), (x + value.high * scale, middle), palette.text
    )
    drawing.text(end + 4, y + BAR - 1, f"{value.median:.1f}{bar.mark}", palette.text, size=SMALL)


def _ticks(kind: str, panels: Sequence[Panel]) -> list[float]:
    """Return ticks from 0 to the first one that no value of that kind exceeds."""
    highest = max(panel.highest() for panel in panels if panel.kind == kind)
    step = 0.5
    while highest > 7 * step:
        step *= 2

    return [number * step for number in range(math.ceil(highest / step) + 1)]


if __name__ == "__main__":
    main()
