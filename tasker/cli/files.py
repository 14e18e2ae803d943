"""The files that `tasker map` reads and writes.

All are opened before anything runs, so that a wrong name costs nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import combinations, islice
from typing import BinaryIO, TextIO, cast

from tasker.cli.arguments import Options, UsageError
from tasker.cli.earlier import Earlier
from tasker.cli.records import Record, read
from tasker.cli.streams import PrivateFile

__all__ = ["Files", "Sink"]


class Sink:
    """A file that lines are written to, until one fails. Its `OSError`s name it."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file

    def write(self, line: bytes) -> None:
        """Have a line written sooner or later. Blocks as the file does.

        Raises `OSError`."""
        try:
            self._file.write(line)
        except BaseException as error:
            self._fail(error)
            raise

    def flush(self) -> None:
        """Have all lines written now. Blocks and raises as `write` does."""
        try:
            self._file.flush()
        except BaseException as error:
            self._fail(error)
            raise

    def is_terminal(self) -> bool:
        """Whether the file is a terminal."""
        return self._file.isatty()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, OSError):
            error.filename = self._name

        # When the file is closed, it writes what it holds back. That must not fail once
        # more, nor block once more after Ctrl-C.
        raw = getattr(self._file, "raw", None)
        if isinstance(raw, PrivateFile):
            raw.lead_nowhere()


class Files:
    """The files of a run.

    A `with` block closes the outputs. The code that reads the input closes the input.
    Raises `UsageError` when a file cannot be opened, or when two are the same file.
    Files that exist are emptied only after all are open. The results that a run resumes
    may stand in its own output, which then keeps them. A dry run writes to standard
    output alone."""

    def __init__(self, options: Options, stdout: TextIO | None) -> None:
        self._format, self._limit = options.format, options.limit
        self._earlier: Earlier | None = None
        self.input: BinaryIO = (
            _standard_input() if options.input == "-" else _open("--input", options.input, "rb")
        )
        self._outputs = ExitStack()

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
            file = files[f"{option} {path}"] = self._outputs.enter_context(
                _open(option, path, "ab")
            )
            if _is_regular(file):
                emptied.append(file)
            return Sink(path, file)

        if options.output == "-" or options.dry_run:
            output = files["standard output"] = _standard_output(stdout, self._outputs)
            self.output: Sink = Sink("standard output", output)
        else:
            self.output = sink("--output", options.output)
            output = files[f"--output {options.output}"]

        to_errors = options.errors is not None and not options.dry_run
        self.errors: Sink | None = sink("--errors", str(options.errors)) if to_errors else None

        resumed = _open_resumed(options)
        with resumed or contextlib.nullcontext():
            goes_on = resumed is not None and not options.dry_run and _are_same(resumed, output)
            if resumed is not None and not goes_on:
                files[f"--resume {options.resume}"] = resumed
            _check_that_they_differ(files)
            if resumed is not None:
                self._earlier = Earlier(str(options.resume), resumed)

        for file in emptied:
            if not (goes_on and file is output):
                file.truncate(0)
        if goes_on and self._earlier is not None:
            self._earlier.mend(output)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        # A flush before has raised it.
        with contextlib.suppress(OSError):
            self._outputs.close()

    def flush(self) -> None:
        """Have all lines written now, to both outputs. Raises `OSError`."""
        if self.errors is not None:
            self.errors.flush()
        self.output.flush()

    def records(self) -> Iterator[tuple[int, Record, bool]]:
        """The records of the input, read as they are asked for.

        Each comes with the number of its line, and whether an earlier run has done
        it."""
        earlier = self._earlier
        for number, record in islice(read(self.input, self._format), self._limit):
            yield number, record, earlier is not None and earlier.has(record)

    def count_lines(self) -> int | None:
        """How many lines the input has; `None` if only reading it would tell."""
        if not _is_regular(self.input):
            return None

        start = self.input.tell()
        count = sum(block.count(b"\n") for block in iter(lambda: self.input.read(1 << 20), b""))
        self.input.seek(start)
        return count if self._limit is None else min(count, self._limit)


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
        # A stream in memory.
        if hasattr(stdout, "buffer"):
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


def _open_resumed(options: Options) -> BinaryIO | None:
    """The file of results to resume, or `None`.

    A dry run need not find the file, if a run would make it as its own output."""
    if options.resume is None:
        return None
    if options.dry_run and options.resume == options.output and not os.path.exists(options.resume):
        return None

    return _open("--resume", options.resume, "rb")


def _private(file: str | int, mode: str) -> BinaryIO:
    raw = PrivateFile(file, mode)
    return cast(BinaryIO, io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw))


def _check_that_they_differ(files: dict[str, BinaryIO]) -> None:
    for (name, file), (other_name, other) in combinations(files.items(), 2):
        if _are_same(file, other):
            raise UsageError(
                f"{name} and {other_name} are the same file: what is in it would be lost"
            )


def _are_same(file: BinaryIO, other: BinaryIO) -> bool:
    """Whether both are one regular file."""
    if not (_is_regular(file) and _is_regular(other)):
        return False

    return os.path.sameopenfile(file.fileno(), other.fileno())


def _is_regular(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError):
        # No file at all: a buffer in memory.
        return False
