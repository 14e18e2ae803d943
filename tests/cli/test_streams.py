"""What functions and the programs that they start do to the standard streams: it costs no line, in nor out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasker.cli import main
from tests.support.command_line import Process, handles
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX descriptors and programs")

APP = """
import atexit, os, subprocess, sys, threading, time

def cat():
    return subprocess.run(["cat"], stdout=subprocess.PIPE).stdout.decode()

def cat_of_the_shell():
    os.system("cat > eaten")
    return open("eaten").read()

def fork():
    if (child := os.fork()) == 0:
        with open("eaten", "w") as file:
            file.write(os.read(0, 1 << 20).decode())
        os._exit(0)
    os.waitpid(child, 0)
    return open("eaten").read()

READERS = {
    "a program": cat,
    "the shell": cat_of_the_shell,
    "a forked process": fork,
    "the function itself": lambda: sys.stdin.read(),
}
WRITERS = {
    "a program": lambda: subprocess.run(["echo", "loud"]),
    "the shell": lambda: os.system("echo loud"),
    "a forked process": lambda: os.fork() or (os.write(1, b"loud\\n"), os._exit(0)),
    "print": lambda: print("loud"),
    "C": lambda: os.write(1, b"loud\\n"),
    "the first sys.stdout": lambda: sys.__stdout__.write("loud\\n"),
    "a handler at exit": lambda: atexit.register(print, "loud"),
    "a thread that goes on": lambda: threading.Thread(target=goes_on, daemon=False).start(),
}

def goes_on():
    threading.main_thread().join()
    print("loud")

def reads(item):
    return READERS[os.environ["WHO"]]() if int(item) < 10 else ""

def writes(item):
    if item == "1":
        WRITERS[os.environ["WHO"]]()
    return item

def lets_run(item):
    subprocess.Popen(["sleep", "60"])
    print("left", flush=True)

def forks(item):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("left", flush=True)

def both(item):
    program = "import os, sys; print(sys.stdin.read(), 'program'); os.write(2, b'error')"
    subprocess.run([sys.executable, "-c", program], check=True)
    print("function")
    return item

def long(item):
    return item * 1_000_000
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(*arguments: str, **options: Any) -> Process:
        processes.append(Process(tmp_path, *arguments, app=options.pop("app", APP), **options))
        return processes[-1]

    yield start
    for process in processes:
        process.popen.kill()
        process.popen.communicate()


def results(out: str) -> list[Any]:
    """The results in the order of the input; every line must be one."""
    return [
        record["result"]
        for record in sorted(map(json.loads, out.splitlines()), key=lambda record: record["line"])
    ]


# -- the input ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("where", ["pipe", "file"])
@pytest.mark.parametrize(
    "who", ["a program", "the shell", "a forked process", "the function itself"]
)
def test_who_reads_standard_input_gets_nothing_and_every_line_is_done(
    who, where, start, tmp_path, monkeypatch
):
    monkeypatch.setenv("WHO", who)
    lines = b"".join(b"%0100d\n" % number for number in range(2_000))  # more than is read at once
    if where == "pipe":
        process = start("app:reads")
        status, out, _ = end_with_input(process, lines)
    else:
        (tmp_path / "lines").write_bytes(lines)
        with (tmp_path / "lines").open("rb") as file:
            status, out, _ = start("app:reads", stdin=file).end()
    assert (status, results(out)) == (0, [""] * 2_000)


def close_input(process: Process) -> None:
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    process.popen.stdin = None


def end_with_input(process: Process, lines: bytes) -> tuple[int, str, str]:
    out, err = process.popen.communicate(lines, timeout=PATIENCE * 2)
    return process.popen.returncode, out.decode(), err.decode()


@pytest.mark.slow
def test_a_module_that_reads_standard_input_when_it_is_imported_gets_nothing(start):
    app = (
        "import subprocess, sys\nread = subprocess.check_output(['cat']).decode() + sys.stdin.read()\n"
        + ("def work(item): return read + item\n")
    )
    assert results(end_with_input(start("app:work", app=app), b"a\nb\n")[1]) == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["pipe", "socket"])
def test_an_input_that_does_not_block_is_read_to_its_end(what, start):
    """Whoever shares it may have made it so: a program that was killed, say, before it could undo that."""
    import socket

    ours, theirs = (
        [end.detach() for end in socket.socketpair()] if what == "socket" else reversed(os.pipe())
    )
    os.set_blocking(theirs, False)
    process = start("builtins:len", stdin=theirs)
    os.close(theirs)
    for line in (b"one\n", b"three\n"):
        os.write(ours, line)
        assert process.result() == len(line) - 1
    os.close(ours)
    assert process.end()[:2] == (0, "")


@pytest.mark.slow
def test_the_standard_streams_may_be_named_as_files(start):
    names = ["--input", "/dev/stdin", "--output", "/dev/stdout"]
    assert results(end_with_input(start("app:both", *names), b"a\nb\n")[1]) == ["a", "b"]


# -- the results -------------------------------------------------------------------------------------------------------

WRITERS = (
    "a program",
    "the shell",
    "a forked process",
    "print",
    "C",
    "the first sys.stdout",
    "a handler at exit",
    "a thread that goes on",
)


@pytest.mark.slow
@pytest.mark.parametrize("who", WRITERS[:-2])
def test_what_a_process_prints_goes_to_standard_error_as_well(who, start, monkeypatch):
    monkeypatch.setenv("WHO", who)
    status, out, err = end_with_input(
        start("app:writes", "--placement", "processes", "--workers", "2"), b"1\n2\n"
    )
    assert (status, results(out)) == (0, ["1", "2"])
    assert err.count("loud") == 1


@pytest.mark.slow
@pytest.mark.parametrize("who", WRITERS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_printed_goes_to_standard_error_and_never_between_the_results(
    who, unbuffered, start, monkeypatch
):
    monkeypatch.setenv("WHO", who)
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    status, out, err = end_with_input(start("app:writes"), b"1\n2\n")
    assert (status, results(out)) == (0, ["1", "2"])
    assert err.count("loud") == 1


@pytest.mark.slow
def test_what_is_printed_when_the_module_is_imported_goes_to_standard_error(start):
    app = "import os, sys\nos.system('echo loud')\nprint('loud')\nsys.__stdout__.write('loud\\n')\nwork = str\n"
    status, out, err = end_with_input(start("app:work", app=app), b"a\n")
    assert (status, results(out), err.count("loud")) == (0, ["a"], 3)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["lets_run", "forks"])
def test_what_a_function_leaves_running_does_not_keep_the_results_open(function, start):
    process = start(f"app:{function}", start_new_session=True)
    process.write(b"a\n")
    process.wait_until_it_says(b"left")
    assert process.result() is None
    close_input(process)
    assert process.popen.wait(PATIENCE) == 0
    try:
        assert select.select([process.popen.stdout], [], [], PATIENCE)[0], "the end of the results"
        assert process.popen.stdout.read() == b""
    finally:
        os.killpg(process.popen.pid, signal.SIGKILL)  # what was left


@pytest.mark.slow
def test_an_output_that_does_not_block_gets_every_result(start):
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = start("app:long", stdout=write)
    os.close(write)
    process.write(b"x\n" * 3)
    close_input(process)
    with open(read, "rb") as pipe:
        assert results(pipe.read().decode()) == ["x" * 1_000_000] * 3
    assert process.popen.wait(PATIENCE) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs to see which signals a process handles"
)
def test_a_second_signal_gives_up_an_output_file_that_nobody_reads(start, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    process = start("app:long", "--output", "fifo")
    process.write(b"x\n")
    with (tmp_path / "fifo").open("rb") as fifo:
        assert fifo.read(1) == b"{"
        process.popen.send_signal(signal.SIGTERM)
        eventually(lambda: not handles(process, signal.SIGTERM), "the end of the handler")
        process.interrupt_until_it_ends()
    assert process.popen.returncode == 128 + signal.SIGTERM


# -- descriptors that are closed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_a_run_between_files_needs_no_standard_streams(closed, start, tmp_path):
    (tmp_path / "lines").write_text("a\nb\n")
    files = ["--input", "lines", "--output", "results", "--errors", "failed"]
    shut = "".join(f"import os; os.close({descriptor})\n" for descriptor in closed)
    # closed before Python begins: it makes its own streams of those that there are
    command = [
        sys.executable,
        "-c",
        f"{shut}import sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
    ]
    process = Process(tmp_path, "app:both", *files, app=APP)
    process.popen.communicate()
    again = subprocess.run(
        [*command, *process.popen.args[1:]], cwd=tmp_path, capture_output=True, check=False
    )
    assert again.returncode == 0
    assert results((tmp_path / "results").read_text()) == ["a", "b"]
    assert (tmp_path / "failed").read_text() == ""
    assert (tmp_path / "lines").read_text() == "a\nb\n"
    assert again.stdout == b""
    assert ("2" in closed) == (again.stderr == b"")


# -- in this process ---------------------------------------------------------------------------------------------------


def standard_streams() -> list[tuple[int, int]]:
    return [(os.fstat(number).st_dev, os.fstat(number).st_ino) for number in range(3)]


@pytest.mark.parametrize("ending", [0, 1, 2])
def test_a_call_leaves_the_standard_streams_as_they_were(ending, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("lines").write_text("x\n" if ending == 1 else "1\n")
    before, descriptors, stdout = standard_streams(), os.listdir("/dev/fd"), sys.stdout
    seen = []

    def function(item):
        seen[:] = standard_streams()
        print("loud")
        return int(item)

    monkeypatch.setitem(sys.modules, "app", types.SimpleNamespace(function=function))
    print("before")
    assert (
        main(["map", "app:nothing" if ending == 2 else "app:function", "--input", "lines"])
        == ending
    )
    print("after")
    assert standard_streams() == before
    assert sorted(os.listdir("/dev/fd")) == sorted(descriptors)
    assert sys.stdout is stdout
    out, err = capfd.readouterr()
    results = ['{"line": 1, "input": "1", "result": 1}'] if ending == 0 else []
    assert out.splitlines() == ["before", *results, "after"]
    if ending != 2:
        nowhere = os.stat(os.devnull)
        assert seen == [(nowhere.st_dev, nowhere.st_ino), before[2], before[2]]
        assert "loud" in err


def test_a_standard_output_that_takes_no_bytes_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("lines").write_text("a\n")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["map", "builtins:len", "--input", "lines"]) == 2
    assert capsys.readouterr().err.startswith(
        "tasker: standard output takes no bytes (fileno): give an --output\n"
    )
