"""How the program was when it imported tasker. It may change since then, and how children are started depends on it."""

from __future__ import annotations

import os
import sys

__all__ = ["EXECUTABLE", "FOLDER", "folder"]


def folder() -> str:
    """The working directory, or nothing if there is none any more."""
    try:
        return os.getcwd()
    except OSError:
        return ""


EXECUTABLE: str = sys.executable
FOLDER: str = folder()
