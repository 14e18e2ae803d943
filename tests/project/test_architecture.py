"""`tasker/ARCHITECTURE.md`: what it numbers and names is there, and what code cites is on that page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tasker

PACKAGE = Path(tasker.__file__).parent
ROOT = PACKAGE.parent
PAGE = (PACKAGE / "ARCHITECTURE.md").read_text(encoding="utf-8")

DEFINED = {*re.findall(r"^- \*\*(I\d+)\*\*", PAGE, re.M), *re.findall(r"^### (R\d+) ", PAGE, re.M)}
CITED = re.compile(r"\((?:[IR]\d+(?:, )?)+\)")
SOURCES = [
    path
    for folder in ("tasker", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_the_invariants_are_numbered_without_a_gap() -> None:
    for letter, count in (("I", 12), ("R", 6)):
        assert {name for name in DEFINED if name[0] == letter} == {
            f"{letter}{number}" for number in range(1, count + 1)
        }


def test_each_number_that_is_cited_is_on_the_page() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    texts[PACKAGE / "ARCHITECTURE.md"] = PAGE
    unknown = {
        f"{path.relative_to(ROOT)}: {number}"
        for path, text in texts.items()
        for citation in CITED.findall(text)
        for number in re.findall(r"[IR]\d+", citation)
        if number not in DEFINED
    }
    assert unknown == set()


@pytest.mark.parametrize("number", [f"I{number}" for number in range(1, 13)])
def test_each_invariant_names_tests_that_exist(number: str) -> None:
    [told] = re.findall(rf"^- \*\*{number}\*\*(.*?)(?=^- |^#)", PAGE, re.M | re.S)
    names = re.findall(r"`(test_\w+)`", told)
    assert names
    assert missing(names) == set()


def test_each_test_and_file_that_the_page_names_exists() -> None:
    assert missing(re.findall(r"`(test_\w+)`", PAGE)) == set()
    modules = re.findall(r"`\**(_\w+/\w+)\**`", PAGE)
    files = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert [name for name in modules if not (PACKAGE / f"{name}.py").exists()] == []
    assert [name for name in files if not (ROOT / name).exists()] == []


def missing(names: list[str]) -> set[str]:
    defined = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(
            r"^ *(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.M
        )
    }
    return set(names) - defined
