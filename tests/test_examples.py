"""The programs in `examples`, run as a reader would: `python examples/NAME.py`, from another folder.

Each prints what stands here, line by line, where `...` stands for any characters, as in the README. Those about
logging, collecting, payments, asyncio, the web and processes are in `test_examples_more.py`, the index in
`test_index_files.py`.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasker
from tests.test_readme import _matches

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE = 150.0  # seconds, less than pytest's: a program that hangs is ended, and what it printed is shown

OUTPUTS = {
    "calculator.py": """\
switched on
6 / 3 = 2.0
plus 40 = 42.0
1 / 0: division by zero
memory: 42.0
running sums: [43.0, 45.0, 48.0]
the future's error: ZeroDivisionError('division by zero')
switched off
too late: tasker is stopping or closed: the task was not accepted
""",
    "image_processing.py": """\
urgent pictures first
a workshop opens
  made passport.jpg
  made beach.jpg
  made dinner.jpg
  made sunset.jpg
  the urgent one measures (90, 120)
a bad picture
  the caller gets UnidentifiedImageError after 1 attempt
a broken workshop
a workshop closes
a workshop opens
  made portrait.jpg
  the caller gets (90, 120) after 2 attempts
a workshop closes
5 completed, 1 failed, 1 retried; ['beach.jpg', 'dinner.jpg', 'passport.jpg', 'portrait.jpg', 'sunset.jpg']
""",
    "monitoring.py": """\
quiet     2 workers (0 burst, 2 idle), 0 tasks running, 0 waiting
peak      6 workers (4 burst, 0 idle), 6 tasks running, 34 waiting
totals    40 arrived, 40 completed, 0 failed, 0 retried
rates     ... arrived a second, ... completed, success rate 100%
seconds   waited ... on average, ran ... on average, ... at most in 95 of 100
quiet     2 workers (0 burst, 2 idle), 0 tasks running, 0 waiting
""",
    "sqlite_connections.py": """\
100 deposits on 3 connections: 100
while somebody writes, a reader sees: 100
a writer that will not wait: database is locked
after both writers: 1101
run_task, in this thread: 1101
all connections lost, and yet: 1101 after a retry: True
""",
}
NEEDS = {"image_processing.py": "PIL"}  # the module without which an example only says that it is missing

# what the program prints once it is open, and then after a signal
OPEN = "process ... is open: ...\n"
CLOSED = """\
closing: no more letters are accepted
all that was accepted is done: True
fetching ended by itself: True
drained: True, failed: 0, threads left behind: 0
"""


def command(name: str, *arguments: str) -> list[str]:
    # a connection, file or socket that is left open is written to stderr, which is to stay empty
    return [sys.executable, "-W", "always::ResourceWarning", str(EXAMPLES / name), *arguments]


def environment(*folders: Path) -> dict[str, str]:
    """That of the tests, with `tasker` as they found it, installed or not, and the modules in `folders` before all."""
    path = [str(folder) for folder in (*folders, Path(tasker.__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONIOENCODING": "utf-8"}


def run_example(name: str, *arguments: str, cwd: Path, modules: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an example to its end in the folder `cwd`, with the modules in the folder `modules` in place of others."""
    return subprocess.run(
        command(name, *arguments),
        cwd=cwd,
        env=environment(*([modules] if modules else [])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


def assert_prints(name: str, expected: str, *arguments: str, cwd: Path, modules: Path | None = None) -> None:
    """An example ends well, prints `expected` (`...` stands for any characters) and nothing to stderr."""
    done = run_example(name, *arguments, cwd=cwd, modules=modules)
    assert done.returncode == 0, f"{name}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.stderr == "", f"{name}: written to stderr\n{done.stderr}"
    assert _matches(done.stdout, expected), f"{name}: printed\n{done.stdout}\nand not\n{expected}"


@pytest.mark.parametrize("name", OUTPUTS)
def test_example_prints_what_it_says_and_leaves_nothing_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    for variable in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert_prints(name, OUTPUTS[name], cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_that_needs_what_is_not_installed_says_so_in_a_line_and_exits_with_2(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / f"{NEEDS[name]}.py").write_text("raise ImportError\n")
    done = run_example(name, cwd=tmp_path, modules=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install" in done.stderr


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`graceful_shutdown.py` that has said that it is open, and works."""
    with subprocess.Popen(
        command("graceful_shutdown.py"),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert _matches(line, OPEN), line + "".join(process.communicate(timeout=PATIENCE))
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="no other process can send Windows a signal that a handler sees")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=lambda sent: sent.name)
def test_a_signal_ends_the_service_when_all_that_it_accepted_is_done(
    service: subprocess.Popen[str], sent: signal.Signals
) -> None:
    service.send_signal(sent)
    out, err = service.communicate(timeout=PATIENCE)
    assert (service.returncode, err) == (0, ""), out + err
    assert _matches(out, CLOSED), out


# -- all examples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_run_by_a_test_and_begins_by_saying_how_to_run_it(path: Path) -> None:
    tests = [*Path(__file__).parent.glob("test_examples*.py"), Path(__file__).with_name("test_index_files.py")]
    assert any(f'"{path.name}"' in test.read_text(encoding="utf-8") for test in tests)
    module = ast.parse(path.read_text(encoding="utf-8"))
    assert f"\n    python examples/{path.name}" in (ast.get_docstring(module, clean=False) or "")
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body)
