"""`tasker map` on a part of the input, and again on what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# -- a part of the input -----------------------------------------------------------------------------------------------


def test_a_limit_takes_the_first_items_and_reads_no_more(app, run):
    app.fn = str.upper
    assert run("a\nb\nc\n", "app:fn", "--limit", "2").results == ["A", "B"]
    assert run("a\nb\nc\n", "app:fn", "--limit", "5").results == ["A", "B", "C"]
    assert (
        run("1\n\n\n2\n3\n", "app:fn", "--format", "jsonl", "--limit", "2").figure("lines") == 2
    )  # of items
    Path("results").write_text('{"line": 1, "input": "a", "result": "A"}\n')
    assert run("a\nb\nc\n", "app:fn", "--limit", "2", "--resume", "results").results == ["B"]


def test_a_dry_run_writes_the_calls_and_makes_none(app, run):
    def fn(*_):
        raise AssertionError

    app.fn, app.factory = lambda item: fn(item), fn
    app.two = lambda resource, item: fn(item)
    app.three = lambda context, resource, item: fn(item)
    for name in ("results", "failed"):
        Path(name).write_text("old\n")
    files = ["--output", "results", "--errors", "failed", "--dry-run"]
    ran = run('["a", "\\u00e9\\ud800"]\nnonsense\n1\n', "app:fn", "--format", "jsonl", *files)
    assert (ran.status, ran.out) == (1, "app:fn(['a', 'é\\ud800'])\napp:fn(1)\n")
    assert ran.said[0].startswith("line 2: not JSON: ")
    assert ran.said[1:] == ["dry run: 2 to do, 0 done already, 1 unreadable"]
    assert [Path(name).read_text() for name in ("results", "failed")] == ["old\n", "old\n"]
    resource = ["--resource", "app:factory", "--dry-run"]
    assert run("a\n", "app:two", *resource).out == "app:two(app:factory(), 'a')\n"
    assert run("a\n", "app:three", *resource).out == "app:three(context, app:factory(), 'a')\n"
    app.factory = lambda slot: fn(slot)
    assert run("a\n", "app:two", *resource).out == "app:two(app:factory(slot), 'a')\n"


def test_a_dry_run_of_one_that_resumes_shows_what_is_left(app, run):
    app.fn = str.upper
    resumes = ["app:fn", "--output", "results", "--resume", "results"]
    assert run("a\nb\n", *resumes, "--dry-run").out == "app:fn('a')\napp:fn('b')\n"
    assert not Path("results").exists()
    torn = '{"line": 1, "input": "a", "result": "A"}\n{"line": 2, "inp'
    Path("results").write_text(torn)
    ran = run("a\nb\n", *resumes, "--dry-run")
    assert (ran.status, ran.out, ran.said) == (
        0,
        "app:fn('b')\n",
        ["dry run: 1 to do, 1 done already, 0 unreadable"],
    )
    assert Path("results").read_text() == torn


# -- resuming ----------------------------------------------------------------------------------------------------------

RESUMES = ("app:fn", "--output", "results", "--resume", "results")


def written(name: str = "results") -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_a_run_that_resumes_does_what_is_left_and_keeps_what_there_is(app, run):
    down = ["b", "d"]

    def fn(item):
        if item in down:
            raise OSError(f"no {item}")
        return item.upper()

    app.fn = fn
    first = run("a\nb\nc\nd\n", *RESUMES, "--ordered")  # there is no such file yet
    assert (first.status, first.figure("done"), first.figure("skipped")) == (1, 2, 0)
    done = Path("results").read_bytes()
    down.clear()
    again = run("a\nb\nc\nd\n", *RESUMES, "--ordered")
    assert (again.status, again.figure("lines"), again.figure("done"), again.figure("skipped")) == (
        0,
        4,
        2,
        2,
    )
    assert Path("results").read_bytes().startswith(done)
    assert [record["result"] for record in written()] == ["A", "C", "B", "D"]
    assert run("a\nb\nc\nd\n", *RESUMES).figure("skipped") == 4
    assert len(written()) == 4


def test_an_item_is_known_by_what_was_read_wherever_it_stands(app, run):
    app.fn = lambda item: item
    earlier = '{"line": 7, "input": 1.10, "result": 0}\n{"result": {"line": 2}, "input":  "é" , "line": 1}\n'
    Path("results").write_text(earlier)
    lines = '"\\u00e9"\n1.1\n "é"\n1.10\n'  # to the letter, but for space
    ran = run(lines, "app:fn", "--format", "jsonl", "--resume", "results", "--ordered")
    assert [record["line"] for record in ran.records] == [1, 2]


def test_a_result_stands_for_one_of_two_items_that_are_the_same(app, run):
    app.fn = str.upper
    Path("results").write_text('{"line": 1, "input": "a", "result": "A"}\n')
    ran = run("b\na\na\n", "app:fn", "--resume", "results", "--ordered")
    assert [record["line"] for record in ran.records] == [1, 3]


def test_failed_lines_of_an_errors_file_are_resumed_as_well(app, run):
    app.fn = int
    assert run("x\n1\n2\n", "app:fn", "--output", "results", "--errors", "failed").status == 1
    Path("failed").write_text(
        Path("failed").read_text() + '{"line": 9, "input": "2", "error": "?"}\n'
    )
    ran = run(None, *RESUMES, "--input", "failed", "--format", "errors")
    assert (ran.figure("failed"), ran.figure("skipped"), len(written())) == (1, 1, 2)


@pytest.mark.slow
def test_wherever_a_run_was_killed_the_next_one_completes_the_file(app, run):
    """After each byte of the results."""
    app.fn = lambda item: [item]
    assert run("a\né\n", "app:fn", "--output", "results", "--ordered").status == 0
    whole = Path("results").read_bytes()
    for cut in range(len(whole) + 1):
        Path("results").write_bytes(whole[:cut])
        assert run("a\né\n", *RESUMES, "--ordered").status == 0
        assert Path("results").read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        "precious",
        "precious\n",
        "\0\0\0",
        '["line"]\n',
        '{"line": 1, "input": "a", "error": "no"}\n',
        '{"line": 1, "result": "A"}\n',
        '{"line": "1", "input": "a", "result": "A"}\n',
        '{"line": 1, "inp{"line": 1, "input": "a", "result": "A"}\n',
        '{"line": 1, "input": NaN, "result": NaN}\n',
        b"\xff\n",
    ],
)
@pytest.mark.parametrize("good", ["", '{"line": 1, "input": "a", "result": "A"}\n\n'])
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(content, good, app, run):
    app.fn = str
    before = good.encode() + (content if isinstance(content, bytes) else content.encode())
    Path("results").write_bytes(before)
    ran = run("a\nb\n", *RESUMES)
    line = 3 if good else 1
    assert (ran.status, ran.said) == (
        2,
        [f"--resume results: line {line} is no result that tasker map has written"],
    )
    assert Path("results").read_bytes() == before


def test_results_to_resume_are_kept_apart_from_the_errors(app, run):
    app.fn = str
    Path("results").write_text("")
    ran = run("a\n", "app:fn", "--errors", "results", "--resume", "results")
    assert (ran.status, ran.said) == (
        2,
        ["--errors results and --resume results are the same file: what is in it would be lost"],
    )
