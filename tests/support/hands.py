"""Takers of tasks that are no workers."""

from __future__ import annotations

from typing import Any


class Hand:
    """What a queue asks of who takes from it."""

    def __init__(self, *, suspect: bool = False) -> None:
        self.task: Any = None
        self.suspect = suspect

    def is_suspect(self) -> bool:
        return self.suspect
