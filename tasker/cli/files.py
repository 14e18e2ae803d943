"""What `tasker map` reads and writes: opened before anything runs, so that a wrong name costs nothing."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from contextlib import ExitStack
from typing import BinaryIO, TextIO, cast

from tasker.cli.arguments import Options, UsageError
from tasker.cli.streams import PrivateFile

__all__ = ["Files", "Sink"]


class Sink:
    """A file that lines go to, until it fails. Its `OSError`s name it."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file

    def write(self, line: bytes) -> None:
        """Have a line written sooner or later. Blocks where the file does; raises `OSError`."""
        try:
            self._file.write(line)
        except BaseException as error:
            self._fail(error)
            raise

    def flush(self) -> None:
        """Have all lines written now. Blocks and raises as `write`."""
        try:
            self._file.flush()
        except BaseException as error:
            self._fail(error)
            raise

    def is_terminal(self) -> bool:
        """Whether somebody looks at it."""
        return self._file.isatty()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, OSError):
            error.filename = self._name
        raw = getattr(self._file, "raw", None)
        if isinstance(raw, PrivateFile):
            raw.lead_nowhere()  # what it holds back must not fail again, or block again after Ctrl-C, when it is closed


class Files:
    """The files of a run. A `with` block closes the outputs; the input is closed by whoever reads it.

    Raises `UsageError` when one cannot be opened, or two are the same file. An existing file is emptied only after all
    are open."""

    def __init__(self, options: Options, stdout: TextIO | None) -> None:
        self.input: BinaryIO = _standard_input() if options.input == "-" else _open("--input", options.input, "rb")
        self._outputs = ExitStack()  # closes them
        try:
            self._open_outputs(options, stdout)
        except BaseException:
            self.input.close()
            self._outputs.close()
            raise

    def _open_outputs(self, options: Options, stdout: TextIO | None) -> None:
        files = {f"--input {options.input}": self.input}
        emptied: list[BinaryIO] = []

        def sink(option: str, path: str) -> Sink:
            file = files[f"{option} {path}"] = self._outputs.enter_context(_open(option, path, "ab"))
            if _is_regular(file):
                emptied.append(file)
            return Sink(path, file)

        if options.output == "-":
            file = files["standard output"] = _standard_output(stdout, self._outputs)
            self.output: Sink = Sink("standard output", file)
        else:
            self.output = sink("--output", options.output)
        self.errors: Sink | None = None if options.errors is None else sink("--errors", options.errors)
        _check_that_they_differ(files)
        for file in emptied:
            file.truncate(0)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a flush before has raised it
            self._outputs.close()

    def flush(self) -> None:
        """Have all that was written be seen. Raises `OSError`."""
        if self.errors is not None:
            self.errors.flush()
        self.output.flush()

    def count_lines(self) -> int | None:
        """How many lines there are to read; `None` where only reading them would tell."""
        if not _is_regular(self.input):
            return None
        start = self.input.tell()
        count = sum(block.count(b"\n") for block in iter(lambda: self.input.read(1 << 20), b""))
        self.input.seek(start)
        return count


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("standard input is closed: give an --input")
    try:
        return _private(os.dup(sys.stdin.fileno()), "rb")
    except (OSError, ValueError) as error:
        raise UsageError(f"standard input: {error}") from None


def _standard_output(stdout: TextIO | None, opened: ExitStack) -> BinaryIO:
    if stdout is None:
        raise UsageError("standard output is closed: give an --output")
    try:
        stdout.flush()
        descriptor = os.dup(stdout.fileno())
    except io.UnsupportedOperation as error:
        if hasattr(stdout, "buffer"):  # what is written is kept in memory
            return stdout.buffer
        raise UsageError(f"standard output takes no bytes ({error}): give an --output") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"standard output: {error}") from None
    return opened.enter_context(_private(descriptor, "wb"))


def _open(option: str, path: str, mode: str) -> BinaryIO:
    try:
        return _private(path, mode)
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from None


def _private(file: str | int, mode: str) -> BinaryIO:
    raw = PrivateFile(file, mode)
    return cast(BinaryIO, io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw))


def _check_that_they_differ(files: dict[str, BinaryIO]) -> None:
    seen: dict[tuple[int, int], str] = {}
    for name, file in files.items():
        if _is_regular(file):
            status = os.fstat(file.fileno())
            other = seen.setdefault((status.st_dev, status.st_ino), name)
            if other != name:
                raise UsageError(f"{other} and {name} are the same file: what is in it would be lost")


def _is_regular(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError):  # no file at all: a buffer in memory
        return False
