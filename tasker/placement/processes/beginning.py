"""The state of the program when it imported tasker.

The program may change it later, and the start of children depends on it."""

from __future__ import annotations

import os
import sys

__all__ = ["EXECUTABLE", "FOLDER", "folder"]


def folder() -> str:
    """The working directory, or an empty string if it no longer exists."""
    try:
        return os.getcwd()
    except OSError:
        return ""


EXECUTABLE: str = sys.executable
FOLDER: str = folder()
