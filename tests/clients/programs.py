"""Programs of their own: what patches a whole process needs one."""

from __future__ import annotations

import subprocess
import sys
import textwrap

__all__ = ["run"]

PATIENCE = 150.0  # seconds; several such libraries take some to be imported on a busy machine


def run(*parts: str) -> str:
    """What a program prints whose parts these are. It must end well, and print no error."""
    program = "\n".join(map(textwrap.dedent, parts))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout
