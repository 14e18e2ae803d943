"""Takers of tasks that are no workers."""

from __future__ import annotations

import sys
from typing import Any


class Hand:
    """What a queue asks of who takes from it. It is for all retries unless `proof` says less."""

    def __init__(self, *, proof: int = sys.maxsize) -> None:
        self.task: Any = None
        self._proof = proof

    def proof(self) -> int:
        return self._proof
