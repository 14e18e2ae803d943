"""`tasker map` in this process: options, formats, failures, files. What needs pipes and signals: test_process."""

from __future__ import annotations

import contextlib
import json
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from tasker.cli import job, mapping
from tests.support.cli_runs import FIGURES, Sick, Thing
from tests.support.waiting import PATIENCE, eventually

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("yields", [False, True])
def test_a_factory_that_requires_an_argument_gets_the_slot(yields, app, run):
    def yielded(slot):
        yield slot

    app.factory = yielded if yields else lambda slot: slot
    app.fn = lambda slot, item: [item, slot.index, slot.reason]
    ran = run("a\n", "app:fn", "--resource", "app:factory", "--workers", "1")
    assert ran.results == [["a", 0, "hired"]]


def test_a_function_of_three_arguments_gets_a_context_first(app, run):
    app.factory = lambda: "resource"
    app.fn = lambda ctx, resource, item: [ctx.cancelled(), resource, item]
    assert run("a\n", "app:fn", "--resource", "app:factory").results == [[False, "resource", "a"]]


@pytest.mark.slow
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
    # Beside the line of its worker, which pauses.
    assert any("Sick: gone; tasker: the last of 2 attempts" in line for line in ran.said)


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


@pytest.mark.slow
def test_a_line_that_takes_too_long_fails_and_its_function_is_told(app, run):
    def fn(ctx, _, item):
        return item if item == "quick" else ctx.wait(PATIENCE) and "late"

    app.fn, app.factory = fn, object
    ran = run("slow\nquick\n", "app:fn", "--resource", "app:factory", "--timeout", "0.5")
    assert (ran.status, ran.results) == (1, ["quick"])
    (said,) = ran.said
    assert said.startswith("line 1: tasker.errors.TaskTimeoutError: ")


def test_a_function_that_outlasts_its_timeout_does_not_hold_up_the_end(app, run, monkeypatch):
    monkeypatch.setattr(mapping, "GRACE_S", 0.05)
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
    monkeypatch.setattr(job, "CREATE_TIMEOUT_S", 0.1)

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
