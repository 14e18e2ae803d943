"""The project's pages, all its `*.md`: their programs run, and what they name exists.

A fenced `python` block after the comment `<!-- runs -->` is a program. It runs as a
reader would run it, in a file of its own. If the next thing after it is a fenced `text`
block, that is its output, line by line, where `...` stands for any characters, and
alone on a line for any lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import tasker
from tests.support.output import output_matches

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDERS = (".github", "benchmarks", "examples", "tasker", "tests")
PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")),
]

PROGRAM = re.compile(
    r"^<!-- runs -->\n+```python\n(?P<code>.*?)^```$(?:\n+```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
CODE = re.compile(r"^```.*?^```$|`[^`]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=_name)


# -- programs ------------------------------------------------------------------------------------------------------


class Program(NamedTuple):
    page: str
    line: int
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def _programs() -> Iterator[Program]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in PROGRAM.finditer(text):
            line = text.count("\n", 0, found.start("code")) + 1
            yield Program(_name(page), line, found["code"], found["output"])


def test_the_readme_stays_a_door() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 170, "what is told at length has its place in a folder's README.md"


def test_the_readme_has_programs() -> None:
    assert any(program.page == "README.md" for program in _programs())


@each_page
def test_each_comment_that_says_so_stands_before_a_program(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(PROGRAM.findall(text)) == text.count("<!-- runs -->")


@pytest.mark.parametrize("program", [*_programs()], ids=str)
def test_a_program_runs_and_prints_what_its_page_says(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program.code, encoding="utf-8")
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(tasker.__file__).parents[1]),
        "PYTHONIOENCODING": "utf-8",
    }
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, f"{program}: exit status {done.returncode}\n{done.stderr}"
    assert done.stderr == "", f"{program}: written to stderr\n{done.stderr}"
    if program.output is not None:
        assert output_matches(done.stdout, program.output), (
            f"{program}: printed\n{done.stdout}\nand not what the text block says:\n{program.output}"
        )


@pytest.mark.parametrize(
    ("printed", "expected", "matches"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\n", False),
        ("a\n", "a\nb\n", False),
        ("took 3 ms\n", "took ... ms\n", True),
        ("took 3 s\n", "took ... ms\n", False),
        ("a\nb\nc\nd\n", "a\n...\nd\n", True),
        ("a\nd\n", "a\n...\nd\n", True),
        ("a\nb\n", "a\n...\nd\n", False),
        ("a*b\n", "a.b\n", False),
        ("", "", True),
        ("a\n", "", False),
    ],
)
def test_outputs_are_compared_line_by_line(printed: str, expected: str, matches: bool) -> None:
    assert output_matches(printed, expected) is matches


# -- what is named -------------------------------------------------------------------------------------------------


def test_the_tests_that_pages_name_exist() -> None:
    named = {
        (_name(page), test)
        for page in PAGES
        for test in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))
    }
    files = (ROOT / "tests").rglob("test_*.py")
    written = {
        test for file in files for test in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
    }
    assert named
    assert not [name for name in named if name[1] not in written]


@each_page
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:tests|benchmarks|examples)/[\w/.]+)`", page.read_text("utf-8")))
    assert not [name for name in named if not (ROOT / name).exists()]


@each_page
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = CODE.sub("", page.read_text("utf-8"))
    links = [link or picture for link, picture in LINK.findall(text)]
    assert not [link for link in links if "://" not in link and not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """What links call the headings of a page."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
