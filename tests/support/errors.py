"""Errors that tests have tasks and hooks raise."""

from __future__ import annotations


class Sick(Exception):
    """The error that breaks a resource in these tests."""


class Faithful(Exception):
    """An error of two arguments that survives pickling."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Lossy(Exception):
    """An error of two arguments that does not: its `args` are not what its constructor wants."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
