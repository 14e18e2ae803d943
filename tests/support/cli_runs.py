"""Runs of `tasker map` in the process of the tests."""

from __future__ import annotations

import json
from typing import Any

FIGURES = 11  # lines at the end of standard error


class Ran:
    """A run that has ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.said = [
            line.removeprefix("tasker: ")
            for line in err.splitlines()
            if line.startswith("tasker: ")
        ]
        self.err = err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def results(self) -> list[Any]:
        return [record["result"] for record in self.by_line]

    @property
    def by_line(self) -> list[dict[str, Any]]:
        return sorted(self.records, key=lambda record: record["line"])

    def figure(self, name: str) -> float:
        (line,) = (line for line in self.err.splitlines() if line.startswith(f"{name}  "))
        return float(line.split()[-1])


class Thing:
    """A resource that is closed, and tells."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.log.append("made")

    def close(self) -> None:
        self.log.append("closed")


class Sick(Exception):
    pass
