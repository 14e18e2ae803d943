"""`tasker map` refuses wrong usage with what is right, and helps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tasker.cli import main

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
            ["map", "app:two", "--resource", "app:two"],
            "app:two must be a function that can be called with no arguments, or with a Slot, not",
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
