"""The README's programs, run as a reader would: each in a file of its own, its output compared with the one printed.

A fenced `python` block after the comment `<!-- runs -->` is a program. If the next thing after it is a fenced `text`
block, that is its output, line by line, where `...` stands for any characters, and alone on a line for any lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import tasker

README = Path(__file__).parents[1] / "README.md"
PROGRAM = re.compile(
    r"^<!-- runs -->\n+```python\n(?P<code>.*?)^```$(?:\n+```text\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL
)


class Program(NamedTuple):
    line: int
    code: str
    output: str | None


def _programs() -> list[Program]:
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    return [Program(text.count("\n", 0, m.start("code")) + 1, m["code"], m["output"]) for m in PROGRAM.finditer(text)]


def test_readme_has_programs() -> None:
    assert README.exists(), "there is no README.md"
    text = README.read_text(encoding="utf-8")
    assert _programs(), "README.md has no python block after a <!-- runs --> comment"
    assert len(_programs()) == text.count("<!-- runs -->"), "a <!-- runs --> comment is not followed by a python block"


@pytest.mark.parametrize("program", _programs(), ids=lambda program: f"line {program.line}")
def test_readme_program_runs_and_prints_what_it_says(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program.code, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(Path(tasker.__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    where = f"README.md, line {program.line}"
    assert done.returncode == 0, f"{where}: exit status {done.returncode}\n{done.stderr}"
    assert done.stderr == "", f"{where}: written to stderr\n{done.stderr}"
    if program.output is not None:
        assert _matches(done.stdout, program.output), (
            f"{where}: printed\n{done.stdout}\nand not what the text block says:\n{program.output}"
        )


def _matches(printed: str, expected: str) -> bool:
    pattern = "".join(
        "(?:.*\n)*?" if line.strip() == "..." else ".*".join(map(re.escape, line.split("..."))) + "\n"
        for line in expected.splitlines()
    )
    return re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in printed.splitlines())) is not None


def test_the_tests_that_the_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    tests = Path(__file__).parent
    written = {m for file in tests.rglob("test_*.py") for m in re.findall(r"def (test_\w+)", file.read_text("utf-8"))}
    assert named
    assert named <= written
    files = set(re.findall(r"`((?:tests|benchmarks)/[\w/.]+)`", text))
    assert not [name for name in files if not (README.parent / name).exists()]


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
    assert _matches(printed, expected) is matches
