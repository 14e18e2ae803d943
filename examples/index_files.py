"""Index a Python source tree for full-text search, with child interpreters that parse.

    python examples/index_files.py [DIRECTORY] [--index FILE] [--workers N]
                                   [--query TEXT] [--placement threads|processes]

Parsing holds the GIL, so threads alone only slow it down. Here each worker's resource
is a *parser*, a child Python, in one of two ways:

- `--placement threads`: made by hand. The child reads the path of a file and answers
  with the names and docstrings in it, both as JSON lines. `on_create` starts a child,
  and `on_destroy` ends it. `check_health` condemns a child that died or talks nonsense:
  tasker replaces it and gives its file to another. This works wherever Python does.
- `--placement processes`: tasker's own child processes. The parser is an object with a
  method.

The main thread alone writes SQLite, in small transactions, while the results stream in.
An interrupted run keeps its finished files, and the next run takes the rest.

DIRECTORY defaults to Python's own standard library. Its `.py` files are indexed, but
not those in hidden folders, `__pycache__` and `site-packages`.

The exit status is 0, also if some files could not be parsed, which are then listed. It
is 1 if the work could not go on, 2 for a wrong argument, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import hashlib
import inspect
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tasker import (
    Config,
    ConfigError,
    Context,
    Processes,
    RemoteTaskError,
    ResourceCreationError,
    TaskFuture,
    TaskManager,
    TaskTimeoutError,
    Threads,
    WorkerLostError,
    unhealthy_on,
    with_timeout,
)

SKIPPED_FOLDERS = {"__pycache__", "site-packages"}

# The slowest file of the standard library takes 0.2 s.
FILE_TIMEOUT_S = 30.0

# Enough to keep every parser busy during a commit, few enough to keep memory small.
IN_FLIGHT_FILES = 256

# The time between two looks at the pool: several a second.
TICK_S = 0.2

# The size of a transaction. Ctrl-C loses one at most, and each one costs a commit.
BATCH_FILES, BATCH_S = 100, 0.5

# A child that writes for ever must not fill the memory.
LONGEST_ANSWER_BYTES = 64 << 20

# -- in a child of either kind ---------------------------------------------------------

Row = tuple[str, str, int, str]  # kind, qualified name, line, docstring


def describe(source: bytes, path: str) -> list[Row]:
    """Return a row for the module and for every class and function in it."""
    # The source is bytes: Python's parser knows byte order marks and PEP 263.
    module = ast.parse(source, os.path.basename(path))
    name = os.path.basename(
        os.path.dirname(path) if path.endswith("__init__.py") else path.removesuffix(".py")
    )
    kinds = {"ClassDef": "class", "FunctionDef": "function", "AsyncFunctionDef": "async function"}
    found = [("module", name, 1, ast.get_docstring(module) or "")]

    # The list grows while it is walked: deep nesting would exhaust a recursive walk.
    nodes: list[tuple[ast.AST, str]] = [(module, "")]
    for node, scope in nodes:
        # Only statements are walked, because most nodes are none.
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            children: list[ast.AST] = getattr(node, block, [])
            for child in children:
                inner = scope
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    inner = f"{scope}.{child.name}" if scope else child.name
                    kind = kinds[type(child).__name__]
                    found.append((kind, inner, child.lineno, ast.get_docstring(child) or ""))
                nodes.append((child, inner))

    return found


def read(path: str) -> tuple[list[Row], str]:
    """Return the rows of a file and "", or no rows and the reason."""
    try:
        with open(path, "rb") as file:
            return describe(file.read(), path), ""
    except Exception as error:
        # Unreadable, undecodable or nested too deep: the child tells it and lives.
        return [], f"{type(error).__name__}: {error}".removesuffix(": ")


class Symbol(NamedTuple):
    """A named thing in a file.

    `kind` is "module", "class", "function" or "async function".
    """

    kind: str
    name: str
    line: int
    doc: str


class Parsed(NamedTuple):
    """The result for a file: its symbols, or the reason why it cannot be parsed."""

    symbols: list[Symbol]
    error: str = ""


def parsed(rows: Iterable[Row], error: str) -> Parsed:
    symbols = [
        Symbol(valid(kind), valid(name), int(line), valid(doc)) for kind, name, line, doc in rows
    ]
    return Parsed(symbols, error)


def valid(text: str) -> str:
    r"""Escape lone surrogates: a docstring may hold "\ud800", which SQLite refuses."""
    return text.encode("utf-8", "backslashreplace").decode()


# -- a parser in tasker's child process ------------------------------------------------


class PlainParser:
    """The parser of `--placement processes`.

    `Processes()` puts it into a child. tasker ends the child and replaces it.
    """

    def __init__(self) -> None:
        # The files that it parses may cause warnings.
        warnings.simplefilter("ignore")

    def parse(self, path: str) -> Parsed:
        """The task."""
        return parsed(*read(path))

    def close(self) -> None:
        """Do nothing: the process ends."""


# -- a parser in a child that is made by hand ------------------------------------------


def serve() -> None:
    """Answer one JSON line for each JSON line, until stdin closes.

    It closes when the parent closes it or ends.
    """
    # A Ctrl-C reaches the whole process group. The parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    print(json.dumps({"id": 0, "symbols": [], "error": ""}), flush=True)  # the greeting

    for line in sys.stdin.buffer:
        request = json.loads(line)
        rows, error = read(request["path"])
        print(json.dumps({"id": request["id"], "symbols": rows, "error": error}), flush=True)


CHILD = "\n".join(
    ["from __future__ import annotations", "import ast, json, os, signal, sys"]
    + [inspect.getsource(function) for function in (describe, read, serve)]
    + ["serve()"]
)


class ParserLost(Exception):
    """The child died, or gave another answer than asked for: the resource is broken."""


class Parser:
    """A child interpreter that parses one file at a time.

    Only one thread may use it, but any thread may call `abort`.
    """

    def __init__(self, source: str = CHILD) -> None:
        # With -I and -S the child ignores the environment and site-packages. So it
        # starts in half the time and runs no foreign code.
        command = [sys.executable, "-IS", "-Wignore", f"-Xutf8={sys.flags.utf8_mode}", "-c", source]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null)
        self.asked = 0

        try:
            # A child that cannot even greet is a failed creation, not the fault of its
            # first file.
            self._answer()
        except ParserLost:
            self.close()
            raise

    def parse(self, path: str) -> Parsed:
        """Ask the child, and block until it answers.

        Raises `ParserLost` if it does not answer, or not to this question.
        """
        assert self.process.stdin is not None
        self.asked += 1

        # Writing to a dead child may raise. Then reading its answer raises, too.
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps({"id": self.asked, "path": path}).encode() + b"\n")
            self.process.stdin.flush()

        return self._answer()

    def _answer(self) -> Parsed:
        assert self.process.stdout is not None
        line = self.process.stdout.readline(LONGEST_ANSWER_BYTES)
        if not line:
            raise ParserLost("the parser died before it answered")

        try:
            answer: Any = json.loads(line)
            if answer["id"] != self.asked:
                raise ValueError(f"asked {self.asked}, answered {answer['id']}")
            return parsed(answer["symbols"], str(answer["error"]))
        except Exception as error:
            # Once out of step, the conversation cannot be trusted again.
            raise ParserLost(f"the parser answered nonsense: {line[:60]!r}") from error

    def abort(self) -> None:
        """End the child at once, from any thread.

        No other way interrupts a `parse` that waits for it.
        """
        self.process.kill()

    def close(self) -> None:
        """End the child. This never hangs and never leaves a zombie.

        The child leaves when its stdin closes. If it does not, it is killed.
        """
        with self.process as process:
            assert process.stdin is not None

            # Closing flushes, and a dead child does not read any more.
            with contextlib.suppress(OSError):
                process.stdin.close()

            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                process.kill()


def parse(ctx: Context, parser: Parser, path: str) -> Parsed:
    """The task: parse a file.

    Nothing can interrupt a thread that reads from a pipe. But the end of its context
    can end the child.
    """
    with with_timeout(ctx, FILE_TIMEOUT_S) as limit:
        take_back = limit.on_done(parser.abort)
        try:
            return parser.parse(path)
        except ParserLost as error:
            if limit.cancelled():
                raise ParserLost(f"no answer in {FILE_TIMEOUT_S:g} s") from error
            raise
        finally:
            # Leaving the `with` block cancels the context. That must not end a child
            # that has answered.
            take_back()


# -- both kinds ------------------------------------------------------------------------

StartParser = Callable[[], Parser] | Callable[[], PlainParser]
PARSERS: dict[str, StartParser] = {"threads": Parser, "processes": PlainParser}  # by placement


def configure(workers: int, placement: str, start_parser: StartParser) -> Config[Any]:
    processes = placement == "processes"
    return Config(
        name="index",
        on_create=start_parser,
        on_destroy=PlainParser.close if processes else Parser.close,
        worker_count=workers,
        max_worker_count=workers + max(1, workers // 2),
        # tasker knows by itself when one of its own processes is dead.
        check_health=unhealthy_on(ParserLost),
        placement=Processes() if processes else Threads(),
    )


def submit(manager: TaskManager[Any], placement: str, path: str) -> TaskFuture[Parsed]:
    if placement == "processes":
        # After the timeout its process is killed.
        return manager.submit(PlainParser.parse, path, timeout=FILE_TIMEOUT_S)

    return manager.submit(parse, path)


# -- the index, which one thread uses --------------------------------------------------

# The time of modification in ns, and the size. A changed file has another version.
Version = tuple[int, int]

SCHEMA_VERSION = 1
SCHEMA = f"""
    begin;
    create table files
        (id integer primary key, path text unique not null, mtime_ns integer, size integer);
    create virtual table symbols using fts5
        (name, words, doc, kind unindexed, line unindexed, tokenize = 'porter unicode61');
    pragma user_version = {SCHEMA_VERSION};
    commit;
"""

# Row n of file f is row f * ROWS_PER_FILE + n. FTS5 can find rows by number or by word,
# but not by file.
ROWS_PER_FILE = 1 << 24


class Index:
    """A SQLite database of the names and docstrings in any number of source trees."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, timeout=30.0)
        try:
            # This raises without FTS5, and its message tells the reason.
            self.db.execute("create virtual table temp.probe using fts5(x)")

            (version,) = self.db.execute("pragma user_version").fetchone()
            if not version and not self.db.execute("select 1 from sqlite_master").fetchone():
                self.db.executescript(SCHEMA)
            elif version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(
                    "it is a database of another program, or of another version of this one"
                )
        except sqlite3.Error:
            self.db.close()
            raise

    def files(self, root: Path) -> dict[str, Version]:
        """Return the files under `root` that the index holds."""
        rows = self.db.execute("select path, mtime_ns, size from files")
        return {
            path: (mtime, size)
            for path, mtime, size in rows
            if path.startswith(os.path.join(root, ""))
        }

    def update(self, batch: Mapping[str, tuple[Version, list[Symbol]] | None]) -> None:
        """Replace the files, and forget those with `None`.

        All of the batch is written, or nothing if this is interrupted.
        """
        with self.db:
            for path, content in batch.items():
                known = self.db.execute("select id from files where path = ?", (path,))
                for (file,) in known.fetchall():
                    span = (file * ROWS_PER_FILE, (file + 1) * ROWS_PER_FILE - 1)
                    self.db.execute("delete from symbols where rowid between ? and ?", span)
                    self.db.execute("delete from files where id = ?", (file,))

                if content is None:
                    continue

                version, symbols = content
                values = (path, *version)
                inserted = self.db.execute("insert into files values (null, ?, ?, ?)", values)
                file = inserted.lastrowid or 0
                rows = [
                    (file * ROWS_PER_FILE + n, s.name, words(s.name), s.doc, s.kind, s.line)
                    for n, s in enumerate(symbols)
                ]
                columns = "rowid, name, words, doc, kind, line"
                self.db.executemany(
                    f"insert into symbols ({columns}) values (?, ?, ?, ?, ?, ?)", rows
                )

    def search(self, query: str, limit: int = 5) -> list[tuple[str, Symbol]]:
        """Return the best (path, symbol) that have all the words of `query`.

        The query may hold any characters.
        """
        terms = " ".join('"' + term.replace('"', '""') + '"' for term in valid(query).split())
        rows = self.db.execute(
            "select path, kind, name, line, doc"
            " from symbols join files on files.id = symbols.rowid / ?"
            " where symbols match ? order by bm25(symbols), path, line limit ?",
            (ROWS_PER_FILE, terms or '""', limit),
        )

        return [(path, Symbol(*symbol)) for path, *symbol in rows]


def words(name: str) -> str:
    """Split a name as its author reads it: `thread pool` finds ThreadPoolExecutor."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)


# -- one run ---------------------------------------------------------------------------


@dataclass
class Report:
    """The outcome of a run.

    It has numbers of files, the reason for each path that failed, and tasker's own
    figures by name.
    """

    taken: int
    unchanged: int
    removed: int
    failed: dict[str, str]
    figures: dict[str, str] = field(default_factory=dict[str, str])


def scan(root: Path) -> tuple[dict[str, Version], dict[str, str]]:
    """Return the files to index, and the reason for each path that cannot be read.

    Folders among these paths end in a separator.
    """
    found: dict[str, Version] = {}
    failed: dict[str, str] = {}

    def unlistable(error: OSError) -> None:
        failed[os.path.join(error.filename, "")] = str(error.strerror)

    for folder, folders, names in os.walk(root, onerror=unlistable):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and name not in SKIPPED_FOLDERS
        )
        for path in (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")):
            try:
                # SQLite cannot hold a name that is not valid Unicode.
                path.encode()

                # Opening a named pipe would wait for ever.
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError("not a regular file")

                found[path] = (status.st_mtime_ns, status.st_size)
            except (OSError, UnicodeEncodeError) as error:
                failed[path] = getattr(error, "strerror", None) or str(error)

    return found, failed


def stream(
    submit: Callable[[str], TaskFuture[Parsed]], paths: Iterable[str]
) -> Iterator[list[tuple[str, Parsed]]]:
    """Yield the files that were parsed since the last turn, several times a second.

    At most `IN_FLIGHT_FILES` files are under way.
    """
    todo = iter(paths)
    pending: dict[TaskFuture[Parsed], str] = {}
    late: set[str] = set()

    while True:
        for path in itertools.islice(todo, IN_FLIGHT_FILES - len(pending)):
            pending[submit(path)] = path
        if not pending:
            return

        finished: list[tuple[str, Parsed]] = []
        wait(pending, TICK_S, FIRST_COMPLETED)
        for future in [each for each in pending if each.done()]:
            path = pending.pop(future)
            try:
                finished.append((path, future.result()))
            except (ParserLost, WorkerLostError, RemoteTaskError) as error:
                finished.append((path, Parsed([], f"{error}; tried {future.attempts} times")))
            except TaskTimeoutError:
                if future.attempts and path in late:
                    reason = f"no answer in {FILE_TIMEOUT_S:g} s; tried 2 times"
                    finished.append((path, Parsed([], reason)))
                else:
                    # It may only have waited, behind a file that never ends.
                    late.update([path] if future.attempts else ())
                    todo = itertools.chain([path], todo)
            except ResourceCreationError:
                # It is of no use to go on, and one such error is enough. tasker would
                # log the others if they were not asked for.
                for other in pending:
                    if not other.cancel():
                        other.exception()
                raise

        yield finished


def refresh(
    index: Index,
    root: Path,
    workers: int,
    placement: str = "threads",
    start_parser: StartParser | None = None,
    watch: Callable[[TaskManager[Any], int, int], None] = lambda manager, done, total: None,
) -> Report:
    """Bring the index up to date with the files under `root`.

    Changed files are parsed, and vanished files are forgotten.
    `watch(manager, files done, files to do)` is called several times a second. If this
    ends early, for any reason, the index keeps every batch that was written.

    Raises `ResourceCreationError` if no parser can be started, and `ConfigError` where
    there is no such placement.
    """
    found, failed = scan(root)
    known = index.files(root)

    # The files in a folder that cannot be listed are unknown, not vanished.
    unlisted = tuple(path for path in failed if path.endswith(os.sep))
    vanished = [path for path in known if path not in found and not path.startswith(unlisted)]
    changed = {path: version for path, version in found.items() if known.get(path) != version}
    report = Report(0, len(found) - len(changed), len(vanished), failed)

    index.update(dict.fromkeys(vanished))
    if not changed:
        return report

    config = configure(min(workers, len(changed)), placement, start_parser or PARSERS[placement])
    with TaskManager(config) as manager:
        batch: dict[str, tuple[Version, list[Symbol]] | None] = {}
        done, written, watched = 0, time.monotonic(), 0.0
        for finished in stream(functools.partial(submit, manager, placement), changed):
            for path, (symbols, error) in finished:
                # The old symbols of a broken file are outdated, so they are forgotten.
                batch[path] = None if error else (changed[path], symbols)
                if error:
                    failed[path] = error

            done += len(finished)
            now = time.monotonic()
            if len(batch) >= BATCH_FILES or now - written >= BATCH_S or done == len(changed):
                index.update(batch)
                report.taken += sum(content is not None for content in batch.values())
                batch, written = {}, now

            if now - watched >= TICK_S:
                watch(manager, done, len(changed))
                watched = now

        stopped = manager.stop()
        metrics = manager.metrics()

    report.figures = {
        "tasks": f"{metrics.total_tasks_arrived} arrived,"
        f" {metrics.total_tasks_completed} completed,"
        f" {metrics.total_tasks_failed} failed, {metrics.total_tasks_retried} retried",
        "execution time": f"{metrics.average_execution_time * 1e3:.1f} ms on average,"
        f" p95 {metrics.p95_execution_time * 1e3:.1f} ms,"
        f" p99 {metrics.p99_execution_time * 1e3:.1f} ms",
        "wait in the queue": f"{metrics.average_wait_time * 1e3:.1f} ms on average",
        "rate": f"{metrics.task_completion_rate:.0f} a second lately,"
        f" {metrics.success_rate:.1%} of all succeeded",
        "stop": f"{'' if stopped.drained else 'not '}drained,"
        f" {stopped.destroy_errors} errors while ending parsers,"
        f" {len(stopped.abandoned)} threads left behind",
    }

    return report


# -- the command line ------------------------------------------------------------------


class Progress:
    """One line on the terminal, rewritten several times a second; nothing in a pipe."""

    def __init__(self) -> None:
        # On Windows `time.monotonic` may not have moved between two looks.
        self.started = time.perf_counter()

    def __call__(self, manager: TaskManager[Any], done: int, total: int) -> None:
        now, rate = manager.stats(), done / (time.perf_counter() - self.started)
        workers = (
            f"{now.active_workers} workers, {now.burst_workers} of them burst,"
            f" {now.queued_tasks} files queued"
        )

        self.show(f"{done} of {total} files, {rate:.0f} a second, {workers}")

    def show(self, line: str) -> None:
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width) + "\r", end="", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Make one line without control characters.

    Names and docstrings are foreign text, and must not command the terminal.
    """
    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text.strip()
    )


def print_report(report: Report, root: Path, seconds: float) -> None:
    rate = f"{seconds:.1f} s ({report.taken / seconds:.0f} a second)"
    rest = f"{report.unchanged} unchanged, {report.removed} removed, {len(report.failed)} failed"
    print(f"{report.taken} files indexed in {rate}, {rest}")

    for path in sorted(report.failed)[:10]:
        print(
            "  " + printable(f"{path.removeprefix(os.path.join(root, ''))}: {report.failed[path]}")
        )
    if len(report.failed) > 10:
        print(f"  and {len(report.failed) - 10} more")

    for name, value in report.figures.items():
        print(f"  {name:<18} {value}")


def print_answer(index: Index, root: Path, query: str) -> None:
    hits = index.search(query)
    print(f"{printable(query)!r}:" if hits else f"{printable(query)!r}: nothing found")
    for path, (kind, name, line, doc) in hits:
        place = f"{path.removeprefix(os.path.join(root, ''))}:{line}"
        print("  " + printable(f"{kind} {name}  {place}  {doc.partition(chr(10))[0]}"))


class CommandLine(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage before it."""
        self.exit(2, f"{self.prog}: {printable(message)}\n")


def directory(text: str) -> Path:
    try:
        os.scandir(text).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error.strerror}") from None
    return Path(os.path.realpath(text))


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def default_index(root: Path) -> Path:
    """Return a file of its own for every tree, in the user's cache folder."""
    cache = (
        os.environ.get("XDG_CACHE_HOME")
        or os.environ.get("LOCALAPPDATA")
        or os.path.expanduser("~/.cache")
    )

    return Path(cache, "tasker-index", hashlib.sha256(os.fsencode(root)).hexdigest()[:16] + ".db")


def main(argv: Sequence[str] | None = None) -> int:
    cli = CommandLine(
        description="Index the names and docstrings of a Python source tree, and search them."
    )
    cli.add_argument(
        "directory",
        nargs="?",
        metavar="DIRECTORY",
        type=directory,
        help="default: the standard library",
    )
    cli.add_argument(
        "--index", metavar="FILE", type=Path, help="default: a file in the user's cache folder"
    )
    cli.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        default=os.cpu_count() or 1,
        help="default: one a CPU",
    )
    cli.add_argument("--query", metavar="TEXT", default="thread pool", help="default: %(default)r")
    cli.add_argument(
        "--placement", choices=PARSERS, default="threads", help="default: %(default)s, see above"
    )
    options = cli.parse_args(argv)

    root: Path = options.directory or directory(sysconfig.get_path("stdlib"))
    path = Path(os.path.realpath(options.index or default_index(root)))
    if path.is_relative_to(root):
        cli.error(f"the index {path} would lie in {root} itself: choose another place with --index")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        index = Index(path)
    except (OSError, sqlite3.Error) as error:
        cli.error(f"cannot use the index {path}: {error}")

    # Docstrings may be in any script, which the terminal may not know.
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")

    progress = Progress()
    with contextlib.closing(index.db):
        try:
            print(printable(f"indexing {root} in {path}"), flush=True)
            report = refresh(index, root, options.workers, options.placement, watch=progress)
            progress.show("")
            print_report(report, root, time.perf_counter() - progress.started)
            print_answer(index, root, options.query)
        except KeyboardInterrupt:
            progress.show("")
            print(
                f"interrupted: {len(index.files(root))} files are in the index,"
                " the next run takes the rest"
            )
            return 130
        except ConfigError as error:
            # This system has no such processes.
            cli.error(str(error))
        except (ResourceCreationError, sqlite3.Error) as error:
            progress.show("")
            cli.exit(1, f"{cli.prog}: {printable(str(error))}\n")

    return 0


if __name__ == "__main__":
    # This file again, by a name that child processes can import: they have a `__main__`
    # of their own.
    import index_files

    sys.exit(index_files.main())
