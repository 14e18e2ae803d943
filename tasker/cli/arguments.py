"""The options of the command line, and what is wrong with them."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import tasker

__all__ = ["Options", "UsageError", "parse"]

MAP_DESCRIPTION = """\
Call a Python function for every line of the input, on worker threads or in worker
processes.

FUNCTION is called as FUNCTION(item). With --resource every worker makes a resource
of its own, and FUNCTION is called as FUNCTION(resource, item), or as
FUNCTION(ctx, resource, item) if its first parameter is named ctx or context, or is
annotated tasker.Context. MODULE is looked for in the current folder first. What
FUNCTION prints goes to standard error, and its standard input is empty; so it is with
the programs that it starts.
"""

MAP_EPILOG = """\
input    lines: an item is a line without its newline, an empty line is an empty item.
         jsonl: an item is what a line of JSON says; blank lines are skipped.
         errors: the items of a file that --errors wrote, with the numbers they had.
         JSON is that of RFC 8259, here and in what is written: NaN is none, nor is
         Infinity. An item is written as it was read, to the letter.
         All are UTF-8, and read only as fast as the items are worked on.
results  One JSON object a line, as soon as it is there:
         {"line": 3, "input": ..., "result": ...}
failures A line each on standard error, and in --errors as a JSON object:
         {"line": 4, "input": ..., "error": "ValueError: ...", "where": "app.py:7"}
         A line that cannot be read has "unreadable" in place of "input".
dry run  The calls, a line each on standard output. Nothing is called, nor written elsewhere.
resume   FILE has results, and may be the --output: they stay in there. An item is known by
         what was read, not by its number, and a result stands for one item: of two that
         are the same one is skipped. Failed items are done again. A result that a killed
         run has torn does not count.
processes
         Each worker is a process, with a resource of its own, that looks FUNCTION up by
         its name. Python that computes then uses all CPUs. A process that dies is replaced
         and its line tried again.
resource What FACTORY() returns, or FACTORY(slot) if it requires an argument: slot.index says
         which of the workers' resources it makes. If it has close(), that is called in the
         end; else if it is a context manager it is entered, and exited in the end. A
         generator function yields the resource once, in a try: what broke it, or Ctrl-C, is
         raised there.
status   0: every line is done. 1: some failed. 2: a wrong option. 130: Ctrl-C (143:
         SIGTERM); what was finished is written, and lines that were begun in vain are in
         --errors. 141: the reader of the results has gone.

example
  # app.py
  import sqlite3

  def connect():
      return sqlite3.connect("app.db")

  def count(db, word):
      return db.execute("select count(*) from words where word = ?", (word,)).fetchone()[0]

  $ tasker map app:count --resource app:connect --workers 4 \\
        --unhealthy sqlite3:ProgrammingError --errors failed.jsonl < words.txt > counts.jsonl
  $ tasker map app:count --resource app:connect \\
        --input failed.jsonl --format errors >> counts.jsonl     # the failed lines again
  $ tasker map app:count --resource app:connect --placement processes \\
        --output counts.jsonl --resume counts.jsonl < words.txt    # whatever is left to do
"""


class UsageError(Exception):
    """The command line asks for what cannot be done. Its text is one line."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `tasker map`.

    `max_workers` is at least `workers`. A file is `None` where none was given."""

    function: str
    input: str
    output: str
    errors: str | None
    format: str
    resource: str | None
    workers: int
    max_workers: int
    unhealthy: tuple[str, ...]
    retries: int
    timeout: float | None
    ordered: bool
    placement: str
    grace: float | None
    dry_run: bool
    limit: int | None
    resume: str | None


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line; `None` is the process's own.

    Raises `UsageError`, and `SystemExit` after --help and --version."""
    given, unknown = _parser().parse_known_args(arguments)

    if unknown:
        raise UsageError(f"there is no option {unknown[0]} (see tasker map --help)")
    if given.max_workers is not None and given.max_workers < given.workers:
        raise UsageError(
            f"--max-workers must be at least --workers ({given.workers}), not {given.max_workers}"
        )

    in_processes = given.placement == "processes"
    if in_processes and os.name != "posix":
        raise UsageError("--placement processes needs a POSIX system")
    if given.grace is not None and not in_processes:
        raise UsageError("--grace needs --placement processes: a thread cannot be ended")

    if given.retries and not (given.unhealthy or in_processes):
        raise UsageError(
            "--retries needs --unhealthy or --placement processes: only a line whose resource "
            "broke, or whose process died, is tried again"
        )
    for option, name in (("--errors", given.errors), ("--resume", given.resume)):
        if name == "-":
            raise UsageError(f"{option} needs a file of its own, not -")

    return Options(
        function=given.function,
        input=given.input,
        output=given.output,
        errors=given.errors,
        format=given.format,
        resource=given.resource,
        workers=given.workers,
        max_workers=given.max_workers or given.workers,
        unhealthy=tuple(given.unhealthy),
        retries=3 if given.retries is None else given.retries,
        timeout=given.timeout,
        ordered=given.ordered,
        placement=given.placement,
        grace=given.grace,
        dry_run=given.dry_run,
        limit=given.limit,
        resume=given.resume,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tasker", description="A thread pool whose workers own resources.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"tasker {tasker.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    _add_map(
        commands.add_parser(
            "map",
            help="call a Python function for every line of the input",
            description=MAP_DESCRIPTION,
            epilog=MAP_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    )
    return parser


def _add_map(parser: argparse.ArgumentParser) -> None:
    cores: int = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    add = parser.add_argument
    add("function", metavar="MODULE:FUNCTION", help="what is called for every item")
    add("--input", metavar="FILE", default="-", help="what is read (default: -, standard input)")
    add(
        "--format",
        choices=("lines", "jsonl", "errors"),
        default="lines",
        help="of the input (default: lines)",
    )
    add(
        "--output",
        metavar="FILE",
        default="-",
        help="where results go (default: -, standard output)",
    )
    add("--errors", metavar="FILE", help="where failed lines go, for --format errors")
    add(
        "--ordered",
        action="store_true",
        help="write results in the order of the input, not as they are finished",
    )
    add(
        "--limit",
        metavar="N",
        type=_count(1),
        help="take the first N items of the input, and no more",
    )
    add(
        "--resume",
        metavar="FILE",
        help="skip the items that this file has results of, as --output writes them",
    )
    add("--dry-run", action="store_true", help="write what would be called, and call nothing")
    add("--resource", metavar="MODULE:FACTORY", help="makes a resource for a worker")
    add(
        "--workers",
        metavar="N",
        type=_count(1),
        default=cores,
        help=f"at any time (default: {cores}, the CPUs)",
    )
    add("--max-workers", metavar="M", type=_count(1), help="under load (default: as --workers)")
    add(
        "--placement",
        choices=("threads", "processes"),
        default="threads",
        help="what workers are (default: threads)",
    )
    add(
        "--grace",
        metavar="S",
        type=_seconds(zero=True),
        help="seconds that a process gets to end after a timeout, Ctrl-C or its last line, "
        "before it is killed (default: 0.5)",
    )
    add(
        "--unhealthy",
        metavar="EXCEPTION",
        action="append",
        default=[],
        help="an error that breaks the resource, which is replaced and the line tried again: a "
        "builtin's name or MODULE:EXCEPTION; may be repeated",
    )
    add(
        "--retries",
        metavar="N",
        type=_count(0),
        help="how often a line is tried again after such errors (default: 3)",
    )
    add(
        "--timeout",
        metavar="S",
        type=_seconds(zero=False),
        help="seconds for a line, retries included; it then fails, and a thread stays busy until "
        "FUNCTION returns; a process is ended after its --grace",
    )


def _count(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, {least} or more, not {text!r}"
            )

        return number

    return whole_number


def _seconds(*, zero: bool) -> Callable[[str], float]:
    def number_of_seconds(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        # This refuses NaN, too.
        if not (0 < number < math.inf or (zero and number == 0)):
            least = "0 or more" if zero else "more than 0"
            raise argparse.ArgumentTypeError(f"must be a number of seconds, {least}, not {text!r}")

        return number

    return number_of_seconds
