"""`tasker map` as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

APP = """
import contextlib, functools, hashlib, os, pathlib, signal, sys, threading

def inverse(item):
    return 1 / int(item)

def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()

@contextlib.contextmanager
def connect():
    try:
        yield "resource"
    finally:
        pathlib.Path("closed").touch()

def wait(ctx, resource, item):
    if item == "wait":
        print("waiting", file=sys.stderr, flush=True)
        ctx.wait()
        raise InterruptedError("told to end")
    if item == "last":
        print("last", file=sys.stderr, flush=True)
    return item

def long(item):
    return item * 1_000_000

def computes(item):
    return [sum(range(int(item))), os.getpid()]

times = functools.partial(lambda factor, item: int(item) * factor, 3)
shout = lambda item: item.upper()

class Odd(Exception):
    def __init__(self, one, two):  # which does not survive being pickled
        super().__init__(f"{one} {two}")

def fails(item):
    if item == "odd":
        raise Odd("not", item)
    if item == "killed":
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        sys.exit(3)
    return item

class Told:
    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        print("left by", f"{kind.__name__}: {error}" if kind else None, file=sys.stderr)
        pathlib.Path("closed").touch()

def breaks(resource, item):
    if item == "odd" and not pathlib.Path("closed").exists():
        raise Odd("not", item)
    return [item, os.getpid()]

def never(ctx, resource, item):
    ctx.on_done(lambda: print("cancelled", file=sys.stderr, flush=True))
    print("waiting", file=sys.stderr, flush=True)
    threading.Event().wait()
"""


# a shell's background jobs ignore Ctrl-C, and what they start inherits that
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
{preamble}
from tasker.cli import main
sys.exit(main())
"""


class Process:
    """`tasker map ARGUMENTS` in a folder that has app.py."""

    def __init__(
        self, folder: Path, *arguments: str, app: str = APP, preamble: str = "", **options: Any
    ) -> None:
        (folder / "app.py").write_text(app)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.popen = subprocess.Popen(
            [sys.executable, "-c", DRIVER.format(preamble=preamble), "map", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            **{**pipes, **options},
        )

    def write(self, lines: bytes) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(lines)
        self.popen.stdin.flush()

    def result(self) -> Any:
        """The next result; blocks until there is one."""
        assert self.popen.stdout is not None
        return json.loads(self.popen.stdout.readline())["result"]

    def wait_until_it_says(self, text: bytes) -> None:
        assert self.popen.stderr is not None
        line = self.popen.stderr.readline()
        while text not in line:
            assert line, "standard error ended"
            line = self.popen.stderr.readline()

    def interrupt_until_it_ends(self) -> None:
        """Send SIGINT, and again where one was lost: Python does not see one that comes just before it blocks."""
        deadline = time.monotonic() + PATIENCE
        while self.popen.poll() is None and time.monotonic() < deadline:
            self.popen.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(3.0)

    def end(self) -> tuple[int, str, str]:
        """The status, and the rest of what it writes."""
        out, err = self.popen.communicate(timeout=PATIENCE * 2)
        return self.popen.returncode, (out or b"").decode(), (err or b"").decode()


def handles(process: Process, number: int) -> bool:
    (line,) = (
        line
        for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
        if "SigCgt" in line
    )
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
