"""`tasker map` in this process: options, formats, failures, files. What needs pipes and signals: test_process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasker.cli import job, main, mapping
from tests.support.waiting import PATIENCE, eventually

FIGURES = 11  # lines at the end of standard error


class Ran:
    """A run that has ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.said = [
            line.removeprefix("tasker: ")
            for line in err.splitlines()
            if line.startswith("tasker: ")
        ]
        self.err = err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def results(self) -> list[Any]:
        return [record["result"] for record in self.by_line]

    @property
    def by_line(self) -> list[dict[str, Any]]:
        return sorted(self.records, key=lambda record: record["line"])

    def figure(self, name: str) -> float:
        (line,) = (line for line in self.err.splitlines() if line.startswith(f"{name}  "))
        return float(line.split()[-1])


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module `app` to which tests give functions, in an empty current folder."""
    module = types.ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield module
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def run(app: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`run(lines, *arguments)`: `tasker map` over the lines, with two workers and their results on standard output."""

    def run(lines: bytes | str | None, *arguments: str) -> Ran:
        if lines is not None:
            content = lines.encode() if isinstance(lines, str) else lines
            (tmp_path / "input").write_bytes(content)
            arguments = (*arguments, "--input", "input")
        status = main(["map", "--workers", "2", *arguments])
        return Ran(status, *capsys.readouterr())

    return run


class Thing:
    """A resource that is closed, and tells."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.log.append("made")

    def close(self) -> None:
        self.log.append("closed")


class Sick(Exception):
    pass


# -- lines in, results out --------------------------------------------------------------------------------------------


def test_every_line_is_an_item_and_every_result_a_line_of_json(app, run):
    app.fn = str.upper
    ran = run("one\ntwo\nthree\n", "app:fn")
    assert ran.status == 0
    assert ran.by_line == [
        {"line": 1, "input": "one", "result": "ONE"},
        {"line": 2, "input": "two", "result": "TWO"},
        {"line": 3, "input": "three", "result": "THREE"},
    ]


def test_a_line_ends_with_a_newline_of_either_kind_or_with_the_input_and_an_empty_one_is_an_item(
    app, run
):
    app.fn = list
    assert run(b"a\n\n b \r\nlast", "app:fn").results == [
        ["a"],
        [],
        [" ", "b", " "],
        ["l", "a", "s", "t"],
    ]


def test_of_an_empty_input_nothing_is_written(app, run):
    app.fn = len
    ran = run("", "app:fn")
    assert (ran.status, ran.out) == (0, "")


def test_a_jsonl_item_is_what_the_line_says_and_blank_lines_are_none(app, run):
    app.fn = lambda item: [type(item).__name__, item]
    ran = run('{"a": 1}\n\n[2]\n  \n"drei"\n4\nnull', "app:fn", "--format", "jsonl")
    assert ran.results == [
        ["dict", {"a": 1}],
        ["list", [2]],
        ["str", "drei"],
        ["int", 4],
        ["NoneType", None],
    ]
    assert sorted(record["line"] for record in ran.records) == [1, 3, 5, 6, 7]


def test_text_beyond_ascii_is_written_as_it_is_and_what_has_no_utf_8_as_an_escape(app, run):
    app.fn = lambda item: item + "\udcff"
    ran = run("Grüße\n", "app:fn")
    assert ran.out == '{"line": 1, "input": "Grüße", "result": "Grüße\\udcff"}\n'
    assert ran.results == ["Grüße\udcff"]


def test_an_item_is_shown_as_it_was_read_whatever_the_function_does_to_it(app, run):
    def fn(item):
        item.clear()
        raise ValueError("no")

    app.fn = fn
    run('{"a": [1]}\n', "app:fn", "--format", "jsonl", "--errors", "failed")
    assert json.loads(Path("failed").read_text())["input"] == {"a": [1]}


def test_each_attempt_gets_the_item_anew(app, run):
    seen = []

    def fn(item):
        seen.append(list(item))
        item.clear()
        if len(seen) < 3:
            raise Sick

    app.fn, app.Sick = fn, Sick
    assert run("[1]\n", "app:fn", "--format", "jsonl", "--unhealthy", "app:Sick").status == 0
    assert seen == [[1]] * 3


def test_results_are_written_as_they_are_finished(app, run):
    def fn(item):
        if item == "first":
            eventually(
                lambda: '"second"' in Path("output").read_text(), "the second result in the file"
            )
        return item

    app.fn = fn
    assert run("first\nsecond\n", "app:fn", "--output", "output").status == 0
    assert [json.loads(line)["line"] for line in Path("output").read_text().splitlines()] == [2, 1]


def test_ordered_results_are_written_in_the_order_of_the_input(app, run):
    second = threading.Event()

    def fn(item):
        if item == "0":
            assert second.wait(PATIENCE)
        second.set()
        return item

    app.fn = fn
    ran = run("".join(f"{number}\n" for number in range(300)), "app:fn", "--ordered")
    assert [record["result"] for record in ran.records] == [str(number) for number in range(300)]


def test_ordered_failures_keep_their_place_and_hold_nothing_up(app, run):
    app.fn = lambda item: 1 / item
    ran = run("1\n0\nx\n2\n", "app:fn", "--ordered", "--format", "jsonl", "--errors", "failed")
    assert [record["line"] for record in ran.records] == [1, 4]
    assert [json.loads(line)["line"] for line in Path("failed").read_text().splitlines()] == [2, 3]


def test_no_more_is_read_than_a_window_of_lines_that_are_not_written(app, run):
    called = []
    full = threading.Event()
    early = []

    def fn(item):
        called.append(item)
        if len(called) == 64:
            full.set()
        if item == "0":  # nothing is written before it
            assert full.wait(PATIENCE)
            early.append(len(called))

    app.fn = fn
    assert run("".join(f"{number}\n" for number in range(5_000)), "app:fn", "--ordered").status == 0
    assert len(called) == 5_000
    assert early == [64]


def test_what_the_function_prints_goes_to_standard_error(app, run):
    app.fn = print
    ran = run("hello\n", "app:fn")
    assert ran.results == [None]
    assert "hello\n" in ran.err


# -- resources ---------------------------------------------------------------------------------------------------------


def _closes(log):
    return Thing(log)


def _is_entered(log):
    class Entered:
        def __enter__(self):
            return Thing(log)

        def __exit__(self, *_):
            log.append("closed")

    return Entered()


def _closes_and_is_entered(log):
    class Both(Thing):  # as a database connection, whose exit ends a transaction
        def __enter__(self):
            raise AssertionError("entered")

        def __exit__(self, *_):
            raise AssertionError("exited")

    return Both(log)


def _is_neither(log):
    log += ["made", "closed"]
    return types.SimpleNamespace(log=log)


@pytest.mark.parametrize("make", [_closes, _is_entered, _closes_and_is_entered, _is_neither])
def test_a_worker_makes_a_resource_and_frees_it_in_the_end(make, app, run):
    log: list[str] = []
    app.factory = lambda: make(log)
    app.fn = lambda resource, item: resource.log is log and item
    assert run("a\nb\n", "app:fn", "--resource", "app:factory", "--workers", "1").results == [
        "a",
        "b",
    ]
    assert log == ["made", "closed"]


def test_a_generator_function_yields_the_resource(app, run):
    log = []

    def factory():
        log.append("made")
        yield log
        log.append("closed")

    app.factory = factory
    app.fn = lambda resource, item: resource is log and item
    assert run("a\n", "app:fn", "--resource", "app:factory", "--workers", "1").results == ["a"]
    assert log == ["made", "closed"]


def test_a_function_of_three_arguments_gets_a_context_first(app, run):
    app.factory = lambda: "resource"
    app.fn = lambda ctx, resource, item: [ctx.cancelled(), resource, item]
    assert run("a\n", "app:fn", "--resource", "app:factory").results == [[False, "resource", "a"]]


@pytest.mark.parametrize("name", ["app:Sick", "ConnectionError"])
def test_an_unhealthy_error_costs_the_resource_and_not_the_line(name, app, run):
    log: list[str] = []
    failed = []

    def fn(resource, item):
        if len(failed) < 2:
            failed.append(item)
            raise Sick if name == "app:Sick" else ConnectionResetError
        return item

    app.fn, app.Sick, app.factory = fn, Sick, lambda: Thing(log)
    ran = run(
        "a\n",
        "app:fn",
        "--resource",
        "app:factory",
        "--unhealthy",
        name,
        "--retries",
        "2",
        "--workers",
        "1",
    )
    assert (ran.status, ran.results, ran.figure("retries")) == (0, ["a"], 2)
    assert log == ["made", "closed"] * 3


def test_a_context_manager_is_left_with_what_broke_it(app, run):
    left = []

    class Told(contextlib.nullcontext):
        def __exit__(self, kind, error, traceback):
            left.append(error)
            return super().__exit__(kind, error, traceback)

    errors = [Sick("gone"), ValueError("of the line")]
    raised = errors.copy()

    def fn(resource, item):
        if errors:
            raise errors.pop(0)
        return item

    app.fn, app.factory, app.Sick = fn, Told, Sick
    ran = run(
        "a\nb\n", "app:fn", "--resource", "app:factory", "--unhealthy", "app:Sick", "--workers", "1"
    )
    assert (ran.status, ran.figure("retries"), len(ran.results)) == (1, 1, 1)
    assert left == [raised[0], None]
    assert "on_destroy" not in ran.err


def test_the_last_of_too_many_unhealthy_errors_is_the_line_s(app, run):
    def fn(item):
        raise Sick("gone")

    app.fn, app.Sick = fn, Sick
    ran = run(
        "a\n", "app:fn", "--unhealthy", "ValueError", "--unhealthy", "app:Sick", "--retries", "1"
    )
    assert ran.status == 1
    assert "Sick: gone; tasker: the last of 2 attempts" in ran.said[0]


def test_neither_an_unreadable_line_nor_a_result_that_is_not_json_breaks_the_resource(app, run):
    log: list[str] = []
    app.factory = lambda: Thing(log)
    app.fn = lambda resource, item: {1, 2}
    options = [
        "--resource",
        "app:factory",
        "--unhealthy",
        "Exception",
        "--workers",
        "1",
        "--format",
        "jsonl",
    ]
    ran = run("nonsense\n1\n", "app:fn", *options)
    assert (ran.status, ran.figure("failed"), ran.figure("retries")) == (1, 2, 0)
    assert log == ["made", "closed"]


def test_a_resource_that_cannot_be_made_at_first_or_freed_in_the_end_is_told_of(app, run):
    tries = []

    class Stubborn:
        def close(self):
            raise OSError("will not close")

    def factory():
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not yet")
        return Stubborn()

    app.factory, app.fn = factory, lambda _, item: item
    ran = run("a\n", "app:fn", "--resource", "app:factory", "--workers", "1")
    assert (ran.status, ran.results) == (0, ["a"])
    assert "not yet" in ran.err
    assert "will not close" in ran.err


def test_a_line_that_takes_too_long_fails_and_its_function_is_told(app, run):
    def fn(ctx, _, item):
        return item if item == "quick" else ctx.wait(PATIENCE) and "late"

    app.fn, app.factory = fn, object
    ran = run("slow\nquick\n", "app:fn", "--resource", "app:factory", "--timeout", "0.5")
    assert (ran.status, ran.results) == (1, ["quick"])
    (said,) = ran.said
    assert said.startswith("line 1: tasker.errors.TaskTimeoutError: ")


def test_a_function_that_outlasts_its_timeout_does_not_hold_up_the_end(app, run, monkeypatch):
    monkeypatch.setattr(mapping, "GRACE", 0.05)
    release, returned = threading.Event(), []

    def fn(item):
        release.wait(PATIENCE)
        returned.append(item)

    app.fn = fn
    try:
        assert run("stuck\n", "app:fn", "--timeout", "0.05").status == 1
        assert returned == []
    finally:
        release.set()


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_failed_line_is_told_with_its_number_and_the_others_are_done(app, run):
    Path("other.py").write_text("def inverse(item):\n    return 1 / int(item)\n")
    ran = run("1\n0\n2\n", "other:inverse", "--errors", "failed")
    assert (ran.status, ran.results) == (1, [1.0, 0.5])
    assert ran.said == ["line 2: ZeroDivisionError: division by zero (other.py:2)"]
    assert [json.loads(line) for line in Path("failed").read_text().splitlines()] == [
        {
            "line": 2,
            "input": "0",
            "error": "ZeroDivisionError: division by zero",
            "where": "other.py:2",
        }
    ]


@pytest.mark.parametrize(
    ("form", "lines"), [("lines", "a\nbad\nc\nbad\n"), ("jsonl", '["a"]\n"bad"\n3\n"bad"\n')]
)
def test_a_rerun_takes_just_the_failed_lines_with_their_numbers(form, lines, app, run):
    broken = ["bad"]

    def fn(item):
        if item in broken:
            raise ValueError(item)
        return item

    app.fn = fn
    first = run(lines, "app:fn", "--format", form, "--errors", "failed")
    assert (first.status, sorted(record["line"] for record in first.records)) == (1, [1, 3])
    again = run(
        None, "app:fn", "--input", "failed", "--format", "errors", "--errors", "failed again"
    )
    assert (again.status, again.out, sorted(again.said)) == (1, "", sorted(first.said))
    assert sorted(Path("failed again").read_text().splitlines()) == sorted(
        Path("failed").read_text().splitlines()
    )
    broken.clear()
    last = run(
        None, "app:fn", "--input", "failed again", "--format", "errors", "--errors", "still failed"
    )
    assert last.status == 0
    assert last.by_line == [{"line": line, "input": "bad", "result": "bad"} for line in (2, 4)]
    assert Path("still failed").read_text() == ""


@pytest.mark.parametrize(
    ("form", "line", "unreadable", "reason"),
    [
        (
            "lines",
            b"\xff!",
            "\udcff!",
            "not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0",
        ),
        (
            "jsonl",
            b'"\xff"',
            '"\udcff"',
            "not UTF-8: 'utf-8' codec can't decode byte 0xff in position 1",
        ),
        ("jsonl", b'{"a": ', '{"a": ', "not JSON: Expecting value: line 1 column 7"),
        ("jsonl", b"[" * 100_000, "[" * 100_000, "not JSON: "),
        ("errors", b"{}", "{}", "not a line that --errors wrote"),
        (
            "errors",
            b'{"line": "1", "input": 2}',
            '{"line": "1", "input": 2}',
            "not a line that --errors wrote",
        ),
        ("errors", b"?", "?", "not JSON: Expecting value"),
    ],
)
def test_an_unreadable_line_fails_alone_and_a_rerun_knows_it(
    form, line, unreadable, reason, app, run
):
    good = b'{"line": 1, "input": "7"}\n' if form == "errors" else b"7\n"
    app.fn = int
    ran = run(good + line + b"\n" + good, "app:fn", "--format", form, "--errors", "failed")
    assert (ran.status, ran.results) == (1, [7, 7])
    (said,) = ran.said
    assert said.startswith(f"line 2: {reason}")
    (failed,) = map(json.loads, Path("failed").read_text().splitlines())
    assert (failed["line"], failed["unreadable"]) == (2, unreadable)
    again = run(
        None, "app:fn", "--input", "failed", "--format", "errors", "--errors", "failed again"
    )
    assert (again.status, again.said) == (1, ran.said)
    assert Path("failed again").read_bytes() == Path("failed").read_bytes()


def test_not_a_number_is_no_json_neither_in_the_input_nor_in_a_result(app, run):
    app.fn = lambda item: float("inf") if item == "infinite" else item
    items = '["NaN"]\nNaN\n[1, Infinity]\n{"a": -Infinity}\n1e999\n"infinite"\n'
    ran = run(items, "app:fn", "--format", "jsonl", "--errors", "failed", "--ordered")
    assert ran.results == [["NaN"]]
    assert [said.split(":", 2)[1] for said in ran.said] == [" not JSON"] * 3 + [
        " the result is not JSON"
    ] * 2
    failed = [
        json.loads(line, parse_constant=pytest.fail)
        for line in Path("failed").read_text().splitlines()
    ]
    assert [record["line"] for record in failed] == [2, 3, 4, 5, 6]
    assert [record.get("unreadable") for record in failed] == [
        "NaN",
        "[1, Infinity]",
        '{"a": -Infinity}',
        None,
        None,
    ]


def test_an_unreadable_line_that_was_never_begun_is_written_as_what_it_is(app, run, monkeypatch):
    monkeypatch.setattr(job, "CREATE_TIMEOUT", 0.1)

    def factory():
        raise OSError("down")

    app.fn, app.factory = lambda resource, item: item, factory
    lines = b'["good"]\nnonsense\n"\xff"\n{"a": 1.10}\n'
    first = run(
        lines, "app:fn", "--resource", "app:factory", "--format", "jsonl", "--errors", "failed"
    )
    assert (first.status, first.figure("failed")) == (1, 4)
    failed = {
        record["line"]: record
        for record in map(json.loads, Path("failed").read_text().splitlines())
    }
    assert [failed[2]["unreadable"], failed[3]["unreadable"]] == ["nonsense", '"\udcff"']
    assert failed[2]["error"].startswith("not JSON: ")
    assert failed[3]["error"].startswith("not UTF-8: ")
    assert "down" in failed[1]["error"]
    again = run(
        None, "app:fn", "--resource", "builtins:object", "--input", "failed", "--format", "errors"
    )
    assert (again.results, len(again.said)) == ([["good"], {"a": 1.1}], 2)


def _circle():
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    "result", [b"bytes", float("nan"), {(1, 2): 3}, {1, 2}, _circle(), object()]
)
def test_a_result_that_is_not_json_is_an_error_of_its_line_alone(result, app, run):
    app.fn = lambda item: item if item == "good" else result
    ran = run("bad\ngood\n", "app:fn", "--errors", "failed")
    assert (ran.status, ran.results) == (1, ["good"])
    (said,) = ran.said
    assert said.startswith("line 1: the result is not JSON: ")
    assert json.loads(Path("failed").read_text())["input"] == "bad"


def test_a_coroutine_that_a_function_returns_is_an_error_of_its_line(app, run):
    async def fetch(item):
        pass

    app.fn = lambda item: item if item == "good" else fetch(item)
    ran = run("bad\ngood\n", "app:fn")
    assert (ran.status, ran.results) == (1, ["good"])
    (said,) = ran.said
    assert said.startswith("line 1: TypeError: ")
    assert "returned a coroutine" in said


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), RecursionError("deep")]
)
def test_whatever_a_function_raises_is_an_error_of_its_line_alone(error, app, run):
    def fn(item):
        if item == "bad":
            raise error
        return item

    app.fn = fn
    ran = run("bad\ngood\n", "app:fn")
    assert (ran.status, ran.results) == (1, ["good"])
    assert ran.said[0].startswith(f"line 1: {type(error).__name__}")


def test_an_error_of_several_lines_is_told_in_one(app, run):
    def fn(item):
        raise ValueError("first\n  second\n\nthird")

    app.fn = fn
    (said,) = run("a\n", "app:fn").said
    assert said.startswith("line 1: ValueError: first; second; third (")


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read"
)
def test_an_input_that_fails_ends_the_run_with_what_was_read(app, run):
    app.fn = str
    ran = run(None, "app:fn", "--input", "/proc/self/mem")
    assert ran.status == 1
    assert ran.said[0].startswith("reading failed after line 0: [Errno 5]")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize("option", ["--output", "--errors"])
def test_an_output_that_cannot_be_written_ends_the_run_and_is_named(option, app, run):
    app.fn = int
    ran = run("1\nx\n", "app:fn", option, "/dev/full")
    assert ran.status == 1
    assert "writing failed: [Errno 28] No space left on device: '/dev/full'" in ran.said


def test_the_figures_stand_at_the_end(app, run):
    app.fn = int
    ran = run("1\n2\nx\n", "app:fn")
    names = ("lines", "done", "failed", "cancelled", "retries", "workers")
    assert [ran.figure(name) for name in names] == [3, 2, 1, 0, 0, 2]
    assert ran.figure("p99 milliseconds") >= ran.figure("p95 milliseconds")
    assert len(ran.err.splitlines()) == 1 + FIGURES


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


# -- wrong usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND (see tasker --help)"),
        (["fold"], "argument COMMAND: invalid choice: 'fold'"),
        (["map"], "the following arguments are required: MODULE:FUNCTION (see tasker map --help)"),
        (["map", "app:fn", "--wrokers", "2"], "there is no option --wrokers"),
        (["map", "app:fn", "--work", "2"], "there is no option --work"),
        (["map", "app:fn", "app:fn"], "there is no option app:fn"),
        (["map", "app:fn", "--workers"], "argument --workers: expected one argument"),
        (
            ["map", "app:fn", "--workers", "0"],
            "argument --workers: must be a whole number, 1 or more, not '0'",
        ),
        (
            ["map", "app:fn", "--workers", "two"],
            "argument --workers: must be a whole number, 1 or more, not 'two'",
        ),
        (
            ["map", "app:fn", "--workers=3", "--max-workers=2"],
            "--max-workers must be at least --workers (3), not 2",
        ),
        (
            ["map", "app:fn", "--retries", "-1"],
            "argument --retries: must be a whole number, 0 or more, not '-1'",
        ),
        (["map", "app:fn", "--retries", "1"], "--retries needs --unhealthy"),
        (
            ["map", "app:fn", "--timeout", "0"],
            "argument --timeout: must be a number of seconds, more than 0, not '0'",
        ),
        (["map", "app:fn", "--timeout", "nan"], "argument --timeout: must be a number of seconds"),
        (["map", "app:fn", "--timeout", "inf"], "argument --timeout: must be a number of seconds"),
        (
            ["map", "app:fn", "--limit", "0"],
            "argument --limit: must be a whole number, 1 or more, not '0'",
        ),
        (["map", "app:fn", "--placement", "ray"], "argument --placement: invalid choice: 'ray'"),
        (
            ["map", "app:fn", "--grace", "1"],
            "--grace needs --placement processes: a thread cannot be ended",
        ),
        (
            ["map", "app:fn", "--placement", "processes", "--grace", "-1"],
            "argument --grace: must be a number of seconds, 0",
        ),
        (
            ["map", "app:fn", "--placement", "processes", "--grace", "nan"],
            "argument --grace: must be a number of seconds",
        ),
        (["map", "app:fn", "--resume", "-"], "--resume needs a file of its own, not -"),
        (["map", "app:fn", "--resume", "nowhere"], "--resume nowhere: No such file or directory"),
        (["map", "app:fn", "--resume", "."], "--resume .: "),
        (
            ["map", "app:fn", "--resume", "input"],
            "--input input and --resume input are the same file",
        ),
        (["map", "app:fn", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["map", "app:fn", "--errors", "-"], "--errors needs a file of its own, not -"),
        (["map", "app:fn", "--input", "nowhere"], "--input nowhere: No such file or directory"),
        (["map", "app:fn", "--input", "."], "--input .: "),
        (
            ["map", "app:fn", "--output", "nowhere/x"],
            "--output nowhere/x: No such file or directory",
        ),
        (
            ["map", "app:fn", "--errors", "nowhere/x"],
            "--errors nowhere/x: No such file or directory",
        ),
        (["map", "app:fn", "--errors", "a\0b"], "--errors a\0b: embedded null byte"),
        (["map", "app"], "'app' must be MODULE:FUNCTION, for example json:dumps"),
        (["map", ":fn"], "':fn' must be MODULE:FUNCTION"),
        (["map", "app:"], "'app:' must be MODULE:FUNCTION"),
        (["map", ".app:fn"], "importing '.app' failed: TypeError: "),
        (["map", "nowhere:fn"], "there is no module 'nowhere', in the current folder or elsewhere"),
        (
            ["map", "json.nowhere:fn"],
            "there is no module 'json.nowhere', in the current folder or elsewhere",
        ),
        (["map", "app:fm"], "app has no 'fm'"),
        (["map", "app:fn.x"], "app:fn has no 'x'"),
        (["map", "app:number"], "app:number is 3, no function"),
        (
            ["map", "app:coroutine"],
            "app:coroutine is a coroutine function, and workers are threads",
        ),
        (
            ["map", "app:two"],
            "app:two must be callable with (item), and with a resource first only if there is a",
        ),
        (
            ["map", "app:fn", "--resource", "app:factory"],
            "app:fn must be callable with (resource, item) or (context, ",
        ),
        (
            ["map", "app:coroutine", "--resource", "app:factory"],
            "app:coroutine is a coroutine function",
        ),
        (["map", "app:generator"], "app:generator is a generator function, which has no result"),
        (
            ["map", "app:generator", "--resource", "app:factory"],
            "app:generator is a generator function",
        ),
        (["map", "app:two", "--resource", "app:nothing"], "app has no 'nothing'"),
        (["map", "app:two", "--resource", "app"], "'app' must be MODULE:FACTORY"),
        (
            ["map", "app:two", "--resource", "app:number"],
            "app:number must be a function that can be called with no",
        ),
        (
            ["map", "app:two", "--resource", "app:fn"],
            "app:fn must be a function that can be called with no arguments",
        ),
        (
            ["map", "app:two", "--resource", "app:coroutine"],
            "app:coroutine must be a function that can be called with",
        ),
        (
            ["map", "app:fn", "--unhealthy", "Sick"],
            "--unhealthy: there is no builtin exception 'Sick'",
        ),
        (
            ["map", "app:fn", "--unhealthy", "int"],
            "--unhealthy: int is <class 'int'>, no exception type",
        ),
        (
            ["map", "app:fn", "--unhealthy", "app:number"],
            "--unhealthy: app:number is 3, no exception type",
        ),
        (["map", "app:fn", "--unhealthy", "app:Sick"], "app has no 'Sick'"),
        (
            ["map", "app:fn", "--unhealthy", "ValueError", "--unhealthy", "x:"],
            "'x:' must be MODULE:EXCEPTION",
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_nothing_runs(arguments, said, app, capsys):
    async def coroutine(resource, item):
        raise AssertionError

    def fn(item):
        raise AssertionError

    def generator(resource, item):
        yield item

    app.fn, app.coroutine, app.generator, app.number = fn, coroutine, generator, 3
    app.two = lambda resource, item: fn(item)
    app.factory = lambda: fn("made")
    Path("input").write_text("a line\n")
    given = ["--input", "input"] if "app:fn" in arguments and "--input" not in arguments else []
    assert main([*arguments, *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tasker: {said}")
    assert err.count("\n") == 1
    assert err.endswith("\n")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "x = 1\nx / 0\n",
            "importing 'broken' failed: ZeroDivisionError: division by zero (broken.py:2)",
        ),
        (
            "import missing\n",
            "importing 'broken' failed: ModuleNotFoundError: No module named 'missing' (broken.py:1)",
        ),
        (
            "from json import no\n",
            "importing 'broken' failed: ImportError: cannot import name 'no' from 'json'",
        ),
        ("def f(:\n", "importing 'broken' failed: "),
        ("raise SystemExit(0)\n", "importing 'broken' failed: SystemExit: 0 (broken.py:1)"),
        (
            "raise ValueError('a\\nb')\n",
            "importing 'broken' failed: ValueError: a; b (broken.py:1)",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_last_line_and_the_place(
    source, said, run
):
    Path("broken.py").write_text(source)
    ran = run("a\n", "broken:f")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"tasker: {said}")
    assert ran.err.count("\n") == 1
    assert "broken.py:" in ran.err or "from json" in source


def test_the_current_folder_is_looked_at_first(run):
    Path("colorsys.py").write_text("def shout(item):\n    return item.upper()\n")
    sys.modules.pop("colorsys", None)
    assert run("a\n", "colorsys:shout").results == ["A"]


def test_a_builtin_and_a_method_are_functions_too(run):
    assert run("abc\n", "builtins:len").results == [3]
    assert run("abc\n", "builtins:str.upper").results == ["ABC"]
    assert run("abc\n", "os.path:abspath").results == [os.path.abspath("abc")]


@pytest.mark.parametrize(
    "names", [("input", "input", None), ("input", "output", "input"), ("input", "same", "same")]
)
def test_a_file_is_not_read_and_written_at_once_nor_written_twice(names, app, run):
    source, output, errors = names
    app.fn = str
    Path("same").write_text("precious")
    given = ["--output", output, *(["--errors", errors] if errors else [])]
    ran = run("a\n", "app:fn", *given)
    assert ran.status == 2
    assert "are the same file" in ran.said[0]
    assert Path(source).read_text() == "a\n"
    assert Path("same").read_text() == "precious"


def test_two_names_of_one_file_are_seen_through(app, run):
    app.fn = str
    Path("input").write_text("")
    os.link("input", "alias")
    assert run("a\n", "app:fn", "--output", "alias").status == 2


def test_an_existing_output_is_emptied_only_when_all_is_well(app, run):
    app.fn = str
    Path("output").write_text("old\n")
    assert run("a\n", "app:fn", "--output", "output", "--errors", "nowhere/x").status == 2
    assert Path("output").read_text() == "old\n"
    assert run("a\n", "app:fn", "--output", "output").status == 0
    assert Path("output").read_text() == '{"line": 1, "input": "a", "result": "a"}\n'


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_a_standard_stream_that_is_closed_is_named(stream, app, run, monkeypatch):
    app.fn = str
    monkeypatch.setattr(sys, stream, None)
    ran = run("a\n" if stream == "stdout" else None, "app:fn")
    assert ran.status == 2
    assert ran.said[0].startswith("standard input" if stream == "stdin" else "standard output")


def test_without_a_standard_error_the_work_is_done_all_the_same(app, run, monkeypatch):
    app.fn = int
    monkeypatch.setattr(sys, "stderr", None)
    ran = run("1\nx\n", "app:fn")
    assert (ran.status, ran.results) == (1, [1])


# -- help --------------------------------------------------------------------------------------------------------------


def test_the_version_is_told(capsys):
    import tasker

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tasker {tasker.__version__}\n"


def test_help_names_every_option_and_shows_an_example(capsys):
    assert main(["--help"]) == 0
    assert "map" in capsys.readouterr().out
    assert main(["map", "--help"]) == 0
    text = capsys.readouterr().out
    files = ("input", "format", "output", "errors", "ordered")
    options = (*files, "limit", "resume", "dry-run", "resource", "placement", "grace")
    for option in (*options, "workers", "max-workers", "unhealthy", "retries", "timeout"):
        assert f"--{option}" in text
    assert "$ tasker map app:count --resource app:connect" in text
    assert max(map(len, text.splitlines())) < 100
