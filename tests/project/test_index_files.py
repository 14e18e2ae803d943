"""`examples/index_files.py`: what it finds, what a broken parser or file costs, and what an interruption leaves.

Most of it with both kinds of parsers: `placement` says which."""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.support.examples import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "index_files.py"


index_files = load(EXAMPLE.name)
Index: TypeAlias = Any
Parser: TypeAlias = Any

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and file types")
made_by_hand = pytest.mark.parametrize("placement", ["threads"])

PACKAGE: dict[str, str | bytes] = {
    "shop/__init__.py": '"""A shop for tests."""\n',
    "shop/till.py": '''
        """Counts money."""
        class CashRegister:
            """Adds up prices."""
            @property
            def total(self):
                """The sum so far."""
            async def print_receipt(self): ...
        if CashRegister:
            def undocumented(): ...
    ''',
    "shop/latin.py": b'# coding: latin-1\n"""Caf\xe9 cr\xe8me."""\n',
    "shop/escape.py": '"""Warns: \\d."""\n',
    "shop/notes.txt": "def not_python(): ...\n",
    "shop/.hidden/secret.py": '"""Hidden."""\n',
    "shop/site-packages/other.py": '"""Somebody else\'s."""\n',
}


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            lines = content.splitlines()
            margin = min(
                (len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0
            )
            content = "\n".join(line[margin:] for line in lines).strip().encode() + b"\n"
        path.write_bytes(content)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return Path(os.path.realpath(write_tree(tmp_path / "tree", PACKAGE)))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = index_files.Index(tmp_path / "index.db")
    with closing(index.db):
        yield index


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Parser]]:
    """Every parser that is started in this process; each must have been ended by the end of the test."""
    started: list[Parser] = []
    start = index_files.Parser.__init__

    def recorded(self: Parser, source: str = index_files.CHILD) -> None:
        started.append(self)
        start(self, source)

    monkeypatch.setattr(index_files.Parser, "__init__", recorded)
    yield started
    assert [parser.process.pid for parser in started if parser.process.returncode is None] == []


@pytest.fixture(params=["threads", pytest.param("processes", marks=posix_only)])
def placement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of parsers: children made by hand, or tasker's own, which find the example as it is found here."""
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return str(request.param)


@pytest.fixture
def refresh(placement: str) -> Callable[..., Any]:
    return functools.partial(index_files.refresh, placement=placement)


def names(index: Index, root: Path) -> list[str]:
    return sorted(Path(path).name for path in index.files(root))


def assert_sound(db: sqlite3.Connection) -> None:
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    db.execute(
        "insert into symbols(symbols) values ('integrity-check')"
    )  # FTS5's own: raises if it is not


# What a parser does in place of `describe`: first an action, for a file named victim.py, the first times. Until it ends
# it holds the lock of a file of its own.
FAULT = """
import os, time
parse_really = describe
def begin():
    global alive
    alive = open(os.path.join({folder!r}, "alive%d" % os.getpid()), "w")
    if os.name == "posix":
        import fcntl
        fcntl.flock(alive, fcntl.LOCK_EX)
def describe(source, path):
    times = sum(name.startswith("mark") for name in os.listdir({folder!r}))
    if path.endswith("victim.py") and times < {times}:
        open(os.path.join({folder!r}, "mark%d" % os.getpid()), "a").close()
        {action}
    return parse_really(source, path)
"""
MODULES = {
    "threads": """
import index_files
FAULT = {fault!r}
def start():
    return index_files.Parser(index_files.CHILD.removesuffix("serve()") + FAULT + "begin(); serve()")
""",
    "processes": """
import index_files
from index_files import describe
{fault}
def start():
    begin()
    index_files.describe = describe
    return index_files.PlainParser()
""",
}
module_numbers = itertools.count()


def write_faults(placement: str, folder: Path, action: str, times: int = 1) -> Path:
    """Write a module whose `start()` is a parser that does `action` before it parses a file named victim.py."""
    path = folder / f"faults{next(module_numbers)}.py"  # a name that no other test has imported
    fault = FAULT.format(folder=str(folder), action=action, times=times)
    path.write_text(MODULES[placement].format(fault=fault))
    return path


@pytest.fixture
def parser_that(
    placement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`parser_that(action, times)`: a function that starts such parsers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda *args: load(write_faults(placement, tmp_path, *args)).start


# -- what it finds -------------------------------------------------------------------------------------------------


def test_names_and_docstrings_of_a_tree_are_found(
    tree: Path, index: Index, refresh: Callable[..., Any], parsers: list[Parser]
) -> None:
    report = refresh(index, tree, workers=2)

    assert (report.taken, report.unchanged, report.removed, report.failed) == (4, 0, 0, {})
    assert names(index, tree) == ["__init__.py", "escape.py", "latin.py", "till.py"]
    till = str(tree / "shop" / "till.py")
    assert index.search("sum far") == [
        (till, ("function", "CashRegister.total", 5, "The sum so far."))
    ]
    assert index.search("cash register adds") == [
        (till, ("class", "CashRegister", 2, "Adds up prices."))
    ]
    assert index.search("receipt") == [
        (till, ("async function", "CashRegister.print_receipt", 7, ""))
    ]
    assert index.search("undocumented") == [(till, ("function", "undocumented", 9, ""))]
    assert index.search("café") == [
        (str(tree / "shop" / "latin.py"), ("module", "latin", 1, "Café crème."))
    ]
    assert index.search("shop tests")[0][1] == ("module", "shop", 1, "A shop for tests.")
    assert index.search("hidden") == index.search("somebody") == index.search("not_python") == []
    assert_sound(index.db)


@pytest.mark.parametrize(
    "query",
    ["", " ", '"', '"sum', "sum OR (", "sum*", "-sum", "doc:sum", "NEAR(sum, far)", "^", "\udcff"],
)
def test_a_query_may_hold_any_characters(query: str, tree: Path, index: Index) -> None:
    index_files.refresh(index, tree, workers=1)
    for path, symbol in index.search(query):
        assert path.endswith("till.py")
        assert "sum" in symbol.doc


def test_a_second_run_takes_only_what_changed_and_forgets_what_vanished(
    tree: Path, index: Index, refresh: Callable[..., Any]
) -> None:
    refresh(index, tree, workers=2)
    write_tree(
        tree, {"shop/till.py": '"""Counts nothing."""', "shop/new.py": '"""Just arrived."""'}
    )
    (tree / "shop" / "latin.py").unlink()

    report = refresh(index, tree, workers=2)

    assert (report.taken, report.unchanged, report.removed) == (2, 2, 1)
    assert index.search("sum") == index.search("café") == []
    assert len(index.search("nothing")) == len(index.search("arrived")) == 1
    assert refresh(index, tree, workers=2) == index_files.Report(0, 4, 0, {})  # no pool for no work
    assert_sound(index.db)


def test_trees_in_one_index_do_not_disturb_each_other(tmp_path: Path, index: Index) -> None:
    for name in ("one", "one more"):  # one's name begins the other's
        index_files.refresh(
            index, write_tree(tmp_path / name, {"a.py": f'"""Of {name}."""'}), workers=1
        )
    assert index_files.refresh(index, tmp_path / "one", workers=1).unchanged == 1
    assert len(index.search("one")) == 2


# -- broken parsers ------------------------------------------------------------------------------------------------


@posix_only
def test_a_parser_killed_in_mid_file_is_replaced_and_no_file_is_lost(
    tree: Path,
    tmp_path: Path,
    index: Index,
    refresh: Callable[..., Any],
    parser_that: Callable[..., Any],
    parsers: list[Parser],
) -> None:
    write_tree(tree, {"victim.py": '"""Held by a parser that is killed."""'})
    killed: list[int] = []

    def kill(manager: Any, done: int, total: int) -> None:
        if not killed and (marks := list(tmp_path.glob("mark*"))):
            killed.append(int(marks[0].name.removeprefix("mark")))
            os.kill(killed[0], signal.SIGKILL)

    report = refresh(
        index, tree, workers=2, start_parser=parser_that("time.sleep(600)"), watch=kill
    )

    assert len(killed) == 1
    assert (report.taken, report.failed) == (5, {})
    assert report.figures["tasks"] == "5 arrived, 5 completed, 0 failed, 1 retried"
    assert len(index.search("held")) == 1
    assert_sound(index.db)


@pytest.mark.parametrize(
    "action",
    [
        "print('nonsense')",
        "print()",
        "print('null')",
        "print('7')",
        "print('{}')",
        "print('[' * 100000)",
        """print('{"id": 99, "symbols": [], "error": ""}')""",  # the answer to another question
        """print('{"id": %d, "symbols": [["class"]], "error": ""}' % sys._getframe(2).f_locals["request"]["id"])""",
        r"os.write(1, b'\xff\xfe\n')",
        """print('{"id": 1, "sym', end='', flush=True); os._exit(0)""",
        "os.close(1)",
    ],
)
@made_by_hand
def test_a_parser_that_is_garbled_is_replaced_and_no_file_is_lost(
    action: str,
    tree: Path,
    index: Index,
    refresh: Callable[..., Any],
    parser_that: Callable[..., Any],
    parsers: list[Parser],
) -> None:
    write_tree(tree, {"victim.py": '"""Held by a parser that fails."""'})

    report = refresh(index, tree, workers=1, start_parser=parser_that(action))

    assert (report.taken, report.failed) == (5, {})
    assert "1 retried" in report.figures["tasks"]
    assert len(index.search("held")) == 1


def test_a_parser_that_dies_is_replaced_and_no_file_is_lost(
    tree: Path,
    index: Index,
    refresh: Callable[..., Any],
    parser_that: Callable[..., Any],
    parsers: list[Parser],
) -> None:
    write_tree(tree, {"victim.py": '"""Held by a parser that fails."""'})

    report = refresh(index, tree, workers=1, start_parser=parser_that("os._exit(1)"))

    assert (report.taken, report.failed) == (5, {})
    assert "1 retried" in report.figures["tasks"]
    assert len(index.search("held")) == 1


POISON = {
    "threads": r"the parser died before it answered; tried 4 times",
    "processes": r"index-worker-\d+: process \d+ ended with exit code 1 while it ran PlainParser.parse; tried 4 times",
}


def test_a_file_that_kills_every_parser_is_reported_after_the_retries_and_costs_nothing_else(
    tree: Path,
    index: Index,
    placement: str,
    refresh: Callable[..., Any],
    parser_that: Callable[..., Any],
    parsers: list[Parser],
) -> None:
    write_tree(tree, {"victim.py": '"""Poison."""'})

    report = refresh(index, tree, workers=2, start_parser=parser_that("os._exit(1)", 99))

    assert list(report.failed) == [str(tree / "victim.py")]
    assert re.fullmatch(POISON[placement], report.failed[str(tree / "victim.py")])
    assert report.taken == 4
    assert "victim.py" not in names(index, tree)
    assert refresh(index, tree, workers=2).taken == 1  # with parsers that can: taken up again


def test_a_file_that_is_never_answered_is_reported_and_costs_nothing_else(
    tree: Path,
    tmp_path: Path,
    index: Index,
    placement: str,
    refresh: Callable[..., Any],
    parser_that: Callable[..., Any],
    parsers: list[Parser],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tree(tree, {"victim.py": '"""Parsed for ever."""'})
    monkeypatch.setattr(index_files, "FILE_TIMEOUT_S", 1.0)

    endless = "__import__('re').match('(a|aa)+$', 'a' * 99 + 'b')"  # never lets another thread of its process run
    report = refresh(index, tree, workers=1, start_parser=parser_that(endless, 99))

    times = {"threads": 4, "processes": 2}[placement]
    assert report.failed == {str(tree / "victim.py"): f"no answer in 1 s; tried {times} times"}
    assert report.taken == 4


def test_closing_a_parser_ends_a_child_that_does_not_leave() -> None:
    greeting = 'print(\'{"id": 0, "symbols": [], "error": ""}\', flush=True)'
    parser = index_files.Parser(f"import time; {greeting}; time.sleep(600)")
    parser.close()
    assert parser.process.returncode is not None


def test_closing_a_parser_that_died_with_a_question_unread_raises_nothing() -> None:
    parser = index_files.Parser()
    parser.abort()
    parser.process.wait()
    with pytest.raises(index_files.ParserLost, match="died"):
        parser.parse("any.py")
    parser.close()


def test_a_child_that_cannot_start_is_a_failed_creation(parsers: list[Parser]) -> None:
    with pytest.raises(index_files.ParserLost):
        index_files.Parser("raise SystemExit(1)")


# -- broken files --------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_parsed_are_reported_and_cost_nothing_else(
    tree: Path, index: Index, refresh: Callable[..., Any], parsers: list[Parser]
) -> None:
    bad: dict[str, str | bytes] = {
        "syntax.py": "def broken(:\n",
        "bytes.py": b'"""\xff"""\n',
        "coding.py": b"# coding: no-such-codec\n",
        "nul.py": b"a\0b\n",
        "deep.py": b"-" * 100_000 + b"1\n",
    }
    write_tree(tree, bad)
    write_tree(tree, {"surrogate.py": r'"""Lone \ud800 surrogate."""'})

    report = refresh(index, tree, workers=2)

    assert sorted(report.failed) == sorted(str(tree / name) for name in bad)
    assert "SyntaxError" in report.failed[str(tree / "syntax.py")]
    assert "MemoryError" in report.failed[str(tree / "deep.py")]
    assert report.taken == 5
    assert len(index.search("surrogate")) == 1
    assert "0 retried" in report.figures["tasks"]
    assert len(parsers) <= 3  # none of them was a death

    write_tree(tree, {"syntax.py": '"""Mended."""'})
    assert refresh(index, tree, workers=2).taken == 1
    write_tree(tree, {"syntax.py": "broken again ("})
    refresh(index, tree, workers=2)
    assert index.search("mended") == []  # what is no longer so is not answered


@posix_only
def test_files_that_cannot_be_read_are_reported_and_cost_nothing_else(
    tree: Path, index: Index, refresh: Callable[..., Any]
) -> None:
    os.mkfifo(tree / "pipe.py")
    (tree / "dangling.py").symlink_to(tree / "nowhere.py")
    (tree / "directory.py").mkdir()
    expected = {"pipe.py": "not a regular file", "dangling.py": "No such file or directory"}
    if os.geteuid() != 0:
        (tree / "private.py").touch(mode=0o000)
        expected["private.py"] = "PermissionError"

    report = refresh(index, tree, workers=1)

    assert sorted(report.failed) == sorted(str(tree / name) for name in expected)
    assert all(
        report.failed[str(tree / name)].startswith(reason) for name, reason in expected.items()
    )
    assert report.taken == 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_file_whose_name_is_not_text_is_reported(tree: Path, index: Index) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    (tree / name).touch()
    report = index_files.refresh(index, tree, workers=1)
    assert list(report.failed) == [str(tree / name)]
    assert report.taken == 4


def test_a_folder_that_cannot_be_listed_is_reported_and_what_was_known_of_it_stays(
    tree: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tree, {"open.py": '"""Open."""'})
    index_files.refresh(index, tree, workers=1)
    list_really = os.scandir

    def refusing(path: str) -> Any:
        if path == str(tree / "shop"):
            raise PermissionError(13, "Permission denied", path)
        return list_really(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = index_files.refresh(index, tree, workers=1)

    assert report.failed == {os.path.join(tree, "shop", ""): "Permission denied"}
    assert (report.unchanged, report.removed) == (1, 0)
    assert index.search("sum")


def test_a_batch_is_written_whole_or_not_at_all(tree: Path, index: Index) -> None:
    index_files.refresh(index, tree, workers=1)

    class Interrupting(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise KeyboardInterrupt

    till = str(tree / "shop" / "till.py")
    with pytest.raises(KeyboardInterrupt):
        index.update({till: None, str(tree / "more.py"): ((0, 0), Interrupting())})

    assert len(index.search("sum")) == 1
    assert names(index, tree) == ["__init__.py", "escape.py", "latin.py", "till.py"]
    assert_sound(index.db)


# -- the command line ----------------------------------------------------------------------------------------------


def run_example(
    *arguments: str | Path, modules: Path | None = None
) -> subprocess.CompletedProcess[str]:
    path = [*([modules] if modules else []), *import_path()]
    return subprocess.run(
        [sys.executable, EXAMPLE, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PYTHONIOENCODING": "utf-8",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=50,
    )


def import_path() -> list[Path]:
    """Where the parent finds `tasker`, so that its children find it also if it is not installed."""
    import tasker

    return [Path(tasker.__file__).resolve().parents[1]]


def test_a_run_prints_figures_failures_and_the_answer(
    placement: str, tree: Path, tmp_path: Path
) -> None:
    write_tree(tree, {f"bad{n:02}.py": "(" for n in range(12)})
    arguments = [
        tree,
        "--index",
        tmp_path / "new" / "index.db",
        "--workers",
        "2",
        "--query",
        "adds up",
    ]
    arguments += ["--placement", placement]

    first = run_example(*arguments)
    assert (first.returncode, first.stderr) == (
        0,
        "",
    )  # no progress in a pipe, no warnings of what is parsed
    assert str(tmp_path / "new" / "index.db") in first.stdout.splitlines()[0]
    assert "4 files indexed" in first.stdout
    assert "bad09.py: SyntaxError" in first.stdout
    assert "bad10.py" not in first.stdout
    assert "  and 2 more\n" in first.stdout
    assert "16 arrived, 16 completed, 0 failed" in first.stdout
    assert first.stdout.endswith(
        f"class CashRegister  {Path('shop', 'till.py')}:2  Adds up prices.\n"
    )

    second = run_example(*arguments)
    assert second.returncode == 0
    assert "0 files indexed" in second.stdout
    assert "4 unchanged" in second.stdout


@posix_only
def test_processes_need_nothing_that_is_not_installed_with_tasker(
    tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "cloudpickle.py").write_text("raise ImportError\n")
    options = ("--index", tmp_path / "index.db", "--placement", "processes")
    done = run_example(tree, *options, modules=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 files indexed" in done.stdout


@posix_only
def test_the_index_is_the_same_however_its_parsers_are_made(tree: Path, tmp_path: Path) -> None:
    write_tree(tree, {"bad.py": "(", "surrogate.py": r'"""Lone \ud800 surrogate."""'})
    asyncio = Path(os.path.realpath(sysconfig.get_path("stdlib")), "asyncio")
    tables: dict[str, list[Any]] = {}
    answers: dict[str, str] = {}
    for placement in ("threads", "processes"):
        database = tmp_path / f"{placement}.db"
        for root in (tree, asyncio):
            done = run_example(
                root, "--index", database, "--query", "shop loop", "--placement", placement
            )
            assert (done.returncode, done.stderr) == (0, "")
        answers[placement] = done.stdout.partition("'shop loop'")[2]
        with closing(sqlite3.connect(database)) as db:
            files = db.execute("select path, mtime_ns, size from files order by path").fetchall()
            symbols = db.execute(
                "select path, name, words, doc, kind, line from symbols join files on files.id = symbols.rowid / ?"
                " order by path, symbols.rowid",
                (index_files.ROWS_PER_FILE,),
            ).fetchall()
        tables[placement] = [files, symbols]
    assert tables["threads"] == tables["processes"]
    assert answers["threads"] == answers["processes"]
    assert len(tables["processes"][1]) > 500


def test_a_wrong_directory_gets_one_clear_line_and_exit_status_2(
    tree: Path, tmp_path: Path
) -> None:
    for wrong, reason in (
        (tmp_path / "missing", "No such file"),
        (tree / "shop" / "till.py", "Not a directory"),
    ):
        result = run_example(wrong, "--index", tmp_path / "index.db")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        assert str(wrong) in result.stderr
        if os.name == "posix":  # Windows has other words for it
            assert reason in result.stderr


def foreign_database(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table precious (x)")
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tree, tmp: ["--workers", "0"],
        lambda tree, tmp: ["--workers", "-1"],
        lambda tree, tmp: ["--workers", "many"],
        lambda tree, tmp: ["--workers", ""],
        lambda tree, tmp: ["--no-such-option"],
        lambda tree, tmp: ["--placement", "cluster"],
        lambda tree, tmp: ["--index", tree / "index.db"],
        lambda tree, tmp: ["--index", tree / "empty.py"],
        lambda tree, tmp: ["--index", tmp],
        lambda tree, tmp: ["--index", __file__],
        lambda tree, tmp: ["--index", Path(__file__) / "index.db"],
        lambda tree, tmp: ["--index", foreign_database(tmp / "other.db")],
    ],
)
def test_a_wrong_option_gets_one_clear_line_and_exit_status_2(
    wrong: Callable[[Path, Path], list[str | Path]],
    tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit:
        index_files.main([str(argument) for argument in (tree, *wrong(tree, tmp_path))])
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_an_sqlite_without_fts5_is_said_in_one_line(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class WithoutFts5(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("fts5", "fts0"), *parameters)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=WithoutFts5))
    with pytest.raises(SystemExit) as exit:
        index_files.main([str(tree), "--index", str(tmp_path / "index.db")])
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert "no such module: fts0" in err
    assert err.count("\n") == 1


def test_parsers_that_cannot_start_end_the_run_with_one_line(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> Parser:
        return index_files.Parser("raise SystemExit(1)")

    configure = index_files.configure
    impatient = lambda *args: replace(configure(*args[:2], failing), create_timeout=0.3)  # noqa: E731
    monkeypatch.setattr(index_files, "configure", impatient)
    with pytest.raises(SystemExit) as exit:
        index_files.main([str(tree), "--index", str(tmp_path / "index.db")])
    assert exit.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_where_there_are_no_such_processes_one_line_says_so(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "")  # what an embedded interpreter has
    with pytest.raises(SystemExit) as exit:
        index_files.main(
            [str(tree), "--index", str(tmp_path / "index.db"), "--placement", "processes"]
        )
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert "placement" in err
    assert err.count("\n") == 1


def test_the_default_index_lies_in_the_users_cache_and_is_the_trees_own(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = index_files.default_index(tree), index_files.default_index(tree / "shop")
    assert one != other
    assert one.parent == other.parent == tmp_path / "cache" / "tasker-index"


def test_without_a_directory_the_standard_library_is_indexed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    standard = {"stdlib": str(tree)}  # a smaller one
    monkeypatch.setattr("sysconfig.get_path", standard.__getitem__)
    assert (
        index_files.main(["--index", str(tmp_path / "index.db"), "--query", "no such words"]) == 0
    )
    out = capsys.readouterr().out
    assert out.startswith(f"indexing {tree} in ")
    assert out.endswith("'no such words': nothing found\n")


@posix_only
def test_a_terminal_sees_the_progress(tree: Path, tmp_path: Path) -> None:
    import pty

    terminal, child_end = pty.openpty()
    with open(terminal, "rb", buffering=0) as screen, open(child_end, "wb", buffering=0) as stderr:
        result = subprocess.run(
            [sys.executable, EXAMPLE, tree, "--index", tmp_path / "index.db"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, import_path())),
                "COLUMNS": "120",
            },
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            timeout=50,
        )
        shown = screen.read(65536).decode()
    assert result.returncode == 0
    assert "of 4 files" in shown
    assert "workers" in shown
    assert "burst" in shown
    assert "queued" in shown
    assert "\n" not in shown


# -- interruptions -------------------------------------------------------------------------------------------------

# The program around such parsers is the example's own.
DRIVER = """
import functools, signal, sys
sys.path[:0] = {path!r}
import index_files
from {faults} import start
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
index_files.refresh = functools.partial(index_files.refresh, start_parser=start)
sys.exit(index_files.main(sys.argv[1:]))
"""


@pytest.fixture
def held_run(placement: str, tree: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has indexed all but victim.py, which a parser holds until tmp_path/release exists."""
    write_tree(tree, {"victim.py": '"""Held until released."""'})
    release = str(tmp_path / "release")
    faults = write_faults(
        placement, tmp_path, f"while not os.path.exists({release!r}): time.sleep(0.01)"
    )
    path = [str(EXAMPLE.parent), str(tmp_path), *map(str, import_path())]
    command = [sys.executable, "-c", DRIVER.format(path=path, faults=faults.stem), str(tree)]
    command += ["--index", str(tmp_path / "index.db"), "--workers", "2", "--placement", placement]
    index_files.Index(tmp_path / "index.db").db.close()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        with closing(sqlite3.connect(tmp_path / "index.db", timeout=30)) as db:
            while not (
                list(tmp_path.glob("mark*"))
                and db.execute("select count(*) from files").fetchone() == (4,)
            ):
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until_no_child_is_left(tmp_path: Path) -> None:
    """Blocks until every child has ended (then its lock is free, whether anybody reaps it or not)."""
    import fcntl

    children = list(tmp_path.glob("alive*"))
    assert children
    for path in children:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)


@posix_only
def test_ctrl_c_ends_the_run_with_a_sound_index_and_no_child_left(
    held_run: subprocess.Popen[str], refresh: Callable[..., Any], tree: Path, tmp_path: Path
) -> None:
    os.killpg(held_run.pid, signal.SIGINT)  # as a terminal does: to the parent and to every child
    out, err = held_run.communicate(timeout=50)

    assert held_run.returncode == 130
    assert err == ""
    assert out.splitlines()[1:] == [
        "interrupted: 4 files are in the index, the next run takes the rest"
    ]
    wait_until_no_child_is_left(tmp_path)
    index = index_files.Index(tmp_path / "index.db")
    with closing(index.db):
        assert_sound(index.db)
        report = refresh(index, tree, workers=1)
        assert (report.taken, report.unchanged, report.failed) == (1, 4, {})


@posix_only
def test_a_killed_run_leaves_a_sound_index_and_no_child(
    held_run: subprocess.Popen[str], tree: Path, tmp_path: Path
) -> None:
    held_run.kill()
    held_run.wait()
    (
        tmp_path / "release"
    ).touch()  # only now may the last child finish its file, and find nobody to tell
    wait_until_no_child_is_left(tmp_path)
    index = index_files.Index(tmp_path / "index.db")
    with closing(index.db):
        assert_sound(index.db)
        assert names(index, tree) == ["__init__.py", "escape.py", "latin.py", "till.py"]
