"""`python -m tasker` as a process: pipes, signals, a terminal, a real job."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import ROOT, Process, handles
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and pipes")

FIGURES = 11  # lines at the end of standard error


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    processes: list[Process] = []

    def start(*arguments: str, **options: Any) -> Process:
        processes.append(Process(tmp_path, *arguments, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.popen.kill()
        process.popen.communicate()


def test_python_m_tasker_is_the_command_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasker", "map", "builtins:len"]
    done = subprocess.run(
        command, input=b"ab\nc\n", capture_output=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert sorted(json.loads(line)["result"] for line in done.stdout.splitlines()) == [1, 2]


def test_a_result_is_in_the_pipe_before_the_next_line_is_there_to_be_read(start):
    process = start("app:inverse")
    for number in (1, 2, 4):
        process.write(b"%d\n" % number)
        assert process.result() == 1 / number
    process.write(b"0\n")
    process.wait_until_it_says(b"line 4: ZeroDivisionError")
    status, out, _ = process.end()
    assert (status, out) == (1, "")


PLACEMENTS = [(), ("--placement", "processes")]


@posix_only
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_when_nobody_reads_the_results_any_more_it_ends_quietly(
    unbuffered, placement, start, monkeypatch
):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    endless = subprocess.Popen(["yes", "1"], stdout=subprocess.PIPE)
    process = start("app:inverse", *placement, stdin=endless.stdout)
    assert endless.stdout is not None
    endless.stdout.close()
    assert process.result() == 1.0
    process.popen.stdout.close()
    process.popen.stdout = None
    assert process.end() == (141, "", "")
    endless.kill()
    endless.wait()


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [(), ("--ordered",), ("--placement", "processes")])
def test_a_signal_keeps_what_was_finished_and_cancels_the_rest(number, more, start, tmp_path):
    options = ["--resource", "app:connect", "--workers", "1", "--errors", "failed", *more]
    process = start("app:wait", *options)
    process.write(b"a\nb\nwait\nnever begun\n")
    assert [process.result(), process.result()] == ["a", "b"]
    process.wait_until_it_says(b"waiting")
    process.popen.send_signal(number)
    assert process.popen.stdin is not None  # it ends while it waits for input
    status = process.popen.wait(PATIENCE)
    _, out, err = process.end()
    assert (status, out) == (128 + number, "")
    failed = {record["line"]: record["error"] for record in records(tmp_path / "failed")}
    assert failed.keys() == (
        {3, 4} if 4 in failed else {3}
    )  # the reader may not have come to the last one
    assert failed[3] in ("cancelled", "InterruptedError: told to end")
    assert failed.get(4, "cancelled") == "cancelled"
    assert f"tasker: {signal.Signals(number).name}: the last line taken was {max(failed)}" in err
    assert (tmp_path / "closed").exists()


@posix_only
def test_a_result_that_waits_for_its_turn_is_written_when_a_signal_comes(start, tmp_path):
    process = start(
        "app:wait", "--resource", "app:connect", "--workers", "2", "--ordered", "--errors", "failed"
    )
    process.write(b"wait\n" + b"done\n" * 30 + b"last\n")
    process.wait_until_it_says(b"last")  # the other worker has finished all before
    process.popen.send_signal(signal.SIGINT)
    status, out, _ = process.end()
    assert status == 130
    written = [json.loads(line)["line"] for line in out.splitlines()]
    assert written[:30] == list(range(2, 32))
    assert sorted([*written, *(record["line"] for record in records(tmp_path / "failed"))]) == list(
        range(1, 33)
    )


FOR_EVER = "import tasker.cli.mapping; tasker.cli.mapping.GRACE_S = 1e6"


@posix_only
@pytest.mark.parametrize("placement", [(), ("--placement", "processes", "--grace", "1e6")])
def test_a_second_ctrl_c_gives_up_functions_that_do_not_listen(placement, start):
    process = start(
        "app:never", "--resource", "app:connect", "--workers", "1", *placement, preamble=FOR_EVER
    )
    process.write(b"a\n")
    process.wait_until_it_says(b"waiting")
    process.popen.send_signal(signal.SIGINT)
    process.wait_until_it_says(b"cancelled")
    process.interrupt_until_it_ends()
    status, out, err = process.end()
    assert (status, out) == (130, "")
    assert "SIGINT: the last line taken was 1" in err


@pytest.fixture(params=["", "1"])
def writing(start: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Process:
    """A process that is writing a result longer than a pipe, and has been told to end. `python -u` or not."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs to see which signals a process handles")
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)
    process: Process = start("app:long")
    process.write(b"x\n")
    assert process.popen.stdout is not None
    assert os.read(process.popen.stdout.fileno(), 1) == b"{"
    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: not handles(process, signal.SIGTERM), "the end of the handler")
    return process


def test_a_signal_does_not_cut_a_result_short(writing):
    status, out, _ = writing.end()
    assert status == 128 + signal.SIGTERM
    assert json.loads("{" + out)["result"] == "x" * 1_000_000


def test_a_second_signal_gives_up_a_result_that_nobody_takes(writing):
    writing.interrupt_until_it_ends()
    assert writing.popen.returncode == 128 + signal.SIGTERM


# -- processes ---------------------------------------------------------------------------------------------------------

PROCESSES = ("--placement", "processes", "--workers", "2")


def feed(process: Process, lines: bytes) -> tuple[int, list[dict[str, Any]], str]:
    """The status, the results in the order of the input, and standard error."""
    out, err = process.popen.communicate(lines, timeout=PATIENCE * 2)
    results = sorted(map(json.loads, out.decode().splitlines()), key=lambda record: record["line"])
    return process.popen.returncode, results, err.decode()


@posix_only
def test_a_function_computes_in_processes_by_whatever_it_is_named(start):
    process = start("app:computes", *PROCESSES)
    status, done, err = feed(process, b"3\n4\n5\n")
    assert (status, [record["result"][0] for record in done]) == (0, [3, 6, 10])
    assert process.popen.pid not in {record["result"][1] for record in done}
    assert len(err.splitlines()) == FIGURES
    assert [record["result"] for record in feed(start("app:times", *PROCESSES), b"3\n4\n")[1]] == [
        9,
        12,
    ]
    assert [record["result"] for record in feed(start("app:shout", *PROCESSES), b"a\nb\n")[1]] == [
        "A",
        "B",
    ]
    assert [
        record["result"] for record in feed(start("builtins:str.title", *PROCESSES), b"a\n")[1]
    ] == ["A"]


@posix_only
def test_errors_in_processes_are_told_as_those_in_threads(start, tmp_path):
    options = ["--errors", "failed", "--retries", "1"]
    status, done, err = feed(start("app:fails", *options, *PROCESSES), b"a\nodd\nexit\n")
    assert (status, [record["result"] for record in done]) == (1, ["a"])
    apart = records(tmp_path / "failed")
    assert "tasker: line 2: app.Odd: not odd (app.py:" in err
    feed(start("app:fails", "--errors", "failed", "--workers", "2"), b"a\nodd\nexit\n")
    assert sorted(map(str, apart)) == sorted(map(str, records(tmp_path / "failed")))


@posix_only
def test_a_process_that_dies_costs_its_line_alone_and_as_many_attempts_as_it_may_have(
    start, tmp_path
):
    status, done, err = feed(start("app:fails", "--retries", "1", *PROCESSES), b"a\nkilled\nb\nc\n")
    assert (status, [record["result"] for record in done]) == (1, ["a", "b", "c"])
    (line,) = (line for line in err.splitlines() if "tasker: line 2: " in line)
    assert "was killed by SIGKILL while it ran app:fails" in line
    assert "last words" in line
    assert "the last of 2 attempts" in line


@posix_only
def test_an_error_that_breaks_the_resource_is_known_where_it_is_raised(start, tmp_path):
    options = [
        "--resource",
        "app:Told",
        "--unhealthy",
        "app:Odd",
        "--placement",
        "processes",
        "--workers",
        "1",
    ]
    status, done, err = feed(start("app:breaks", *options), b"a\nodd\n")
    assert (status, [record["result"][0] for record in done]) == (0, ["a", "odd"])
    assert [line for line in err.splitlines() if line.startswith("left")] == [
        "left by Odd: not odd",
        "left by None",
    ]
    assert (
        done[0]["result"][1] != done[1]["result"][1]
    )  # another process, after the resource of the first was freed


@posix_only
def test_a_line_that_takes_too_long_is_ended_in_a_process(start, tmp_path):
    options = [
        "--resource",
        "app:connect",
        "--timeout",
        "0.5",
        "--grace",
        "0",
        "--placement",
        "processes",
    ]
    status, done, err = feed(start("app:never", *options, "--workers", "1"), b"a\n")
    assert (status, done) == (1, [])
    assert "line 1: tasker.errors.TaskTimeoutError: " in err


@posix_only
def test_a_run_that_goes_on_where_its_standard_output_was_appended_to(start, tmp_path):
    (tmp_path / "results").write_text('{"line": 1, "input": "a", "result": "A"}\n{"line": 2, "inp')
    with (tmp_path / "results").open("ab") as file:
        status, _, _ = start(
            "app:shout", "--resume", "results", stdout=file, stdin=subprocess.DEVNULL
        ).end()
    assert status == 0
    with (tmp_path / "results").open("ab") as file:
        process = start("app:shout", "--resume", "results", "--ordered", stdout=file)
        process.write(b"a\nb\nc\n")
        assert process.end()[0] == 0
    assert [record["result"] for record in records(tmp_path / "results")] == ["A", "B", "C"]


@posix_only
def test_whoever_reads_the_calls_of_a_dry_run_may_go(start):
    endless = subprocess.Popen(["yes", "1"], stdout=subprocess.PIPE)
    process = start("app:inverse", "--dry-run", stdin=endless.stdout)
    assert endless.stdout is not None
    endless.stdout.close()
    assert process.popen.stdout.readline() == b"app:inverse('1')\n"
    process.popen.stdout.close()
    process.popen.stdout = None
    assert process.end() == (141, "", "")
    endless.kill()
    endless.wait()


@posix_only
def test_ctrl_c_ends_a_dry_run_that_waits_for_input(start):
    process = start("app:inverse", "--dry-run")
    process.write(b"1\n")
    assert process.popen.stdout.readline() == b"app:inverse('1')\n"
    process.interrupt_until_it_ends()
    assert process.popen.returncode == 130


# -- a terminal --------------------------------------------------------------------------------------------------------


def read_terminal(master: int) -> str:
    """All that is written to a terminal, until whoever writes has gone."""
    text = b""
    while select.select([master], [], [], PATIENCE)[0]:
        try:
            block = os.read(master, 4096)
        except OSError:  # how Linux says that it is the end
            break
        if not block:
            break
        text += block
    return text.decode()


def on_terminal(start: Any, preamble: str = "") -> str:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    try:
        process = start(
            "app:inverse",
            "--input",
            "lines",
            "--output",
            "results",
            stderr=terminal,
            preamble=preamble,
        )
        os.close(terminal)
        text = read_terminal(master)
        assert process.end()[0] == 1
    finally:
        os.close(master)
    return text


def test_a_terminal_shows_a_full_bar_and_failures_above_it(start, tmp_path):
    pytest.importorskip("tqdm")
    (tmp_path / "lines").write_text("1\n0\n2\n")
    text = on_terminal(start)
    assert "100%" in text
    assert "3/3" in text
    assert "tasker: line 2: ZeroDivisionError" in text
    assert "lines                          3" in text


def test_a_terminal_without_tqdm_is_told_once_how_to_get_the_bar(start, tmp_path):
    (tmp_path / "lines").write_text("1\n0\n2\n")
    text = on_terminal(start, preamble="sys.modules['tqdm'] = None")
    assert text.count("pip install 'tasker-pool[cli]'") == 1
    assert "%" not in text


def test_a_pipe_shows_no_bar_and_no_advice(start):
    _, _, err = start("app:inverse", stdin=subprocess.DEVNULL).end()
    assert len(err.splitlines()) == FIGURES


# -- a real job --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("find") is None or os.name != "posix", reason="needs find")
def test_checksums_of_every_file_that_find_names(start):
    folder = Path(logging.__file__).parent
    find = subprocess.Popen(["find", folder, "-type", "f"], stdout=subprocess.PIPE)
    status, out, _ = start("app:sha256", stdin=find.stdout).end()
    find.communicate()
    sums = {record["input"]: record["result"] for record in map(json.loads, out.splitlines())}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert status == 0
    assert sums == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert len(files) > 2
