"""The history of results, and what is drawn from it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.chart import FILES, draw
from benchmarks.harness.history import HISTORY, Results, load, newest, save
from benchmarks.harness.machine import _commit, describe
from benchmarks.harness.page import as_page
from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, TASKER
from benchmarks.harness.rounds import Spread
from benchmarks.harness.svg import DARK, LIGHT, Palette, width_of
from benchmarks.harness.targets import Target

SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {
    "architecture": "x86_64",
    "cpu": "a <fast> CPU & more",
    "cores": 4,
    "usable_cores": 2,
    "platform": "Linux 6",
}


def on(
    name: str, *, commit: str | None = "abc", gil: bool = True, jit: bool = False
) -> dict[str, Any]:
    return {
        "tasker": {"version": "1.2", "commit": commit},
        "python": {
            "name": name,
            "implementation": "CPython",
            "build": f"{name} (main)",
            "gil": gil,
            "jit": jit,
        },
        "machine": MACHINE,
        "rivals": {BASELINE: "standard library"},
        "skipped": [],
    }


def row(name: str, ratio: float, meaning: str = "times as fast") -> Row:
    figures = {TASKER: Spread(2.0, 1.9, 2.2), BASELINE: Spread(2 * ratio, 2 * ratio, 2 * ratio)}
    return Row(
        name, f"the row {name}", "µs", figures, Spread(ratio, ratio - 0.1, ratio + 0.1), meaning
    )


def results(
    name: str = "3.11.7",
    *rows: Row,
    date: str = "2026-01-02T03:04:05+00:00",
    quick: bool = False,
    **which: Any,
) -> Results:
    return Results(on(name, **which), date, quick, list(rows) or [row("submit-1", 5.0)])


def a_whole_history() -> list[Results]:
    """As wide and as high as it gets, with ratios of every size."""
    names = [f"{kind}-{workers}" for kind in ("submit", "round-trip") for workers in (1, 4)] + [
        "callers-8"
    ]
    forms = [f"{name}{form}" for name in names for form in ("", "-context")]
    cores = [
        f"cores-{way}-{size}{pool}"
        for way, size, pool in product(("submit", "map"), (30, 300), ("", "-baseline"))
    ]
    rows = [
        row(name, 0.5 + number * 1.5, "hand-overs included") for number, name in enumerate(forms)
    ]
    return [
        *(results(f"3.{minor}.10", *rows) for minor in range(11, 16)),
        results("3.15.2-jit", *rows, jit=True),
        results("3.13.5t", *rows, *(row(name, 1.9) for name in cores), gil=False),
    ]


# -- files -------------------------------------------------------------------------------------------------------------


def test_results_survive_their_file(tmp_path: Path) -> None:
    before = results(
        "3.11.7",
        row("submit-1", 5.0),
        replace(row("submit-4", 5.0), target=Target("at least", 5, goal=7)),
    )
    assert load(save(before, tmp_path)) == before


def test_a_file_is_named_after_the_python_and_the_commit_and_has_a_line_a_row(
    tmp_path: Path,
) -> None:
    path = save(results("3.13.5t", row("a", 1.0), row("b", 2.0), gil=False), tmp_path)
    assert path.name == "3.13.5t-abc.json"
    assert [line.count('"name": "a"') for line in path.read_text("utf-8").splitlines()].count(
        1
    ) == 1
    assert save(results(commit=None), tmp_path).name == "3.11.7-1.2.json"


def test_a_run_in_pieces_makes_one_file(tmp_path: Path) -> None:
    save(results("3.11.7", row("a", 1.0), row("b", 2.0)), tmp_path)
    later = "2026-01-03T00:00:00+00:00"
    path = save(results("3.11.7", row("b", 3.0), row("c", 4.0), date=later), tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    whole = load(path)
    assert [(each.name, each.ratio and each.ratio.median) for each in whole.rows] == [
        ("a", 1.0),
        ("b", 3.0),
        ("c", 4.0),
    ]
    assert whole.date == later


def test_what_was_measured_elsewhere_has_a_file_of_its_own(tmp_path: Path) -> None:
    here = results()
    there = replace(here, on={**here.on, "machine": {**MACHINE, "cpu": "another"}})
    paths = [
        save(each, tmp_path).name for each in (here, there, replace(here, quick=True), here, there)
    ]
    assert paths == [f"3.11.7-abc{number}.json" for number in ("", "-2", "-3", "", "-2")]


def test_the_newest_of_each_python_is_shown_and_smoke_tests_are_not(tmp_path: Path) -> None:
    for each in (
        results("3.15.1", commit="old", date="2026-01-01"),
        results("3.15.0", commit="new", date="2026-02-01"),
        results("3.15.1", commit="quick", date="2026-03-01", quick=True),
        results("3.15.1-jit", jit=True),
        results("3.13.5t", gil=False),
        results("3.9.1"),
    ):
        save(each, tmp_path)
    assert [each.on["python"]["name"] for each in newest(tmp_path)] == [
        "3.9.1",
        "3.15.0",
        "3.15.1-jit",
        "3.13.5t",
    ]


@pytest.mark.slow
def test_a_commit_is_told_where_git_knows_the_folder(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = [
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            "-c",
            "init.defaultBranch=main",
        ]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    assert _commit(package) is None
    (package / "module.py").write_text("")
    try:
        git("init")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    git("add", ".")
    git("commit", "-m", "first")
    first = _commit(package)
    assert first is not None
    assert re.fullmatch("[0-9a-f]{10}", first)
    (tmp_path / "beside").write_text("")
    git("add", ".")
    git("commit", "-m", "elsewhere")
    assert _commit(package) == first
    (package / "module.py").write_text("changed = True\n")
    assert _commit(package) == f"{first}-changed"


def test_what_is_measured_on_is_described() -> None:
    described = describe()
    assert (
        described["python"]["name"].endswith("t") is not described["python"]["gil"]
        or described["python"]["jit"]
    )
    assert TASKER not in described["rivals"]
    assert BASELINE in described["rivals"]


# -- pictures ----------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]  # left, top, right, bottom


def texts(tree: ElementTree.Element) -> Iterator[tuple[str, Box]]:
    """Each text and the place it takes, at most."""
    for element in tree.iter(f"{SVG}text"):
        words = element.text or ""
        x, y, size = (float(element.attrib[name]) for name in ("x", "y", "font-size"))
        width = width_of(words, size)
        left = (
            x
            - {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")] * width
        )
        yield words, (left, y - size * 0.8, left + width, y + size * 0.2)


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.fixture(params=["whole", "one", "none", "committed"])
def history(request: pytest.FixtureRequest) -> list[Results]:
    histories = {
        "whole": a_whole_history(),
        "one": [results()],
        "none": [],
        "committed": newest(HISTORY),
    }
    return histories[request.param]


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_everything_in_the_chart_is_inside_of_it_and_no_two_texts_overlap(
    history: list[Results], palette: Palette
) -> None:
    tree = ElementTree.fromstring(draw(history, palette))
    _, _, width, height = map(float, tree.attrib["viewBox"].split())
    boxes = list(texts(tree))
    for words, (left, top, right, bottom) in boxes:
        assert left >= 0, words
        assert top >= 0, words
        assert right <= width, words
        assert bottom <= height, words
    for (words, box), (others, other) in combinations(boxes, 2):
        assert not overlap(box, other), (words, others)
    for shape in tree.iter(f"{SVG}rect"):
        x, y, wide, high = (float(shape.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height


def test_the_chart_says_in_words_what_it_shows() -> None:
    tree = ElementTree.fromstring(draw(a_whole_history(), LIGHT))
    title, description = tree.find(f"{SVG}title"), tree.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert tree.attrib["role"] == "img"
    assert tree.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert "ThreadPoolExecutor" in (title.text or "")
    assert "Submit all, gather all: 4 workers. 3.11: tasker 3.5, with the context 5.0;" in (
        description.text or ""
    )
    assert (
        "3.13, no GIL: pure Python, 2 workers against 1. 30 µs, one by one: tasker 1.9, ThreadPoolExecutor 1.9;"
        in (description.text or "")
    )


def test_a_ratio_of_the_whole_time_is_marked() -> None:
    whole = results("3.11.7", row("round-trip-1", 1.5, "times as fast, hand-overs included"))
    above = results("3.11.7", row("round-trip-1", 1.5, "times as fast, above two lock hand-overs"))
    assert ">1.5*<" in draw([whole], LIGHT)
    assert "*" not in draw([above], LIGHT)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_the_colours_can_be_told_from_the_background(palette: Palette) -> None:
    for name, least in (
        ("text", 7.0),
        ("muted", 4.5),
        ("plain", 3.0),
        ("context", 3.0),
        ("baseline", 3.0),
    ):
        assert contrast(getattr(palette, name), palette.background) >= least, name


def contrast(one: str, other: str) -> float:
    """By the Web Content Accessibility Guidelines."""

    def luminance(color: str) -> float:
        parts = [int(color[begin : begin + 2], 16) / 255 for begin in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return sum(
            share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_has_a_table_for_each_python() -> None:
    page = as_page(a_whole_history())
    assert page.count("| measurement | tasker to ThreadPoolExecutor |") == 7
    assert "## 3.13, no GIL\n\nCPython 3.13.5t (main); tasker 1.2 (abc) on a <fast> CPU" in page


# -- what is committed -------------------------------------------------------------------------------------------------


def test_chart_and_page_are_those_of_the_history() -> None:
    shown = newest(HISTORY)
    assert shown
    for name, palette in FILES.items():
        assert (HISTORY / name).read_text("utf-8") == draw(shown, palette), (
            "stale: python -m benchmarks.chart"
        )
    assert (HISTORY / "README.md").read_text("utf-8") == as_page(shown), (
        "stale: python -m benchmarks.chart"
    )


def test_the_history_has_real_results_of_known_commits_alone() -> None:
    for path in HISTORY.glob("*.json"):
        assert not load(path).quick
        assert re.fullmatch("[0-9a-f]{10}", load(path).on["tasker"]["commit"])
