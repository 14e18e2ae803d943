"""The examples whose resources are in service, on the real thing: a PostgreSQL server, browsers, an SSH server, a model.

Each is run as a reader would. What cannot be seen from outside is asked of its `configure`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import threading
import tokenize
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.postgres_server import PostgresServer, missing_for_postgres
from tasker import TaskManager
from tests.support.examples import (
    EXAMPLES,
    assert_prints,
    command,
    environment,
    hide,
    load,
    run_example,
)
from tests.support.output import output_matches
from tests.support.placements import on_linux, on_posix
from tests.support.processes import processes_with
from tests.support.ssh_server import SshServer
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

# what each imports, and the distribution that it names if that is missing
NEEDS = {
    "browsers.py": ("selenium", "selenium"),
    "file_types.py": ("magika", "magika"),
    "postgres_connections.py": ("psycopg", "psycopg[binary]"),
    "remote_commands.py": ("paramiko", "paramiko"),
}
each_program = pytest.mark.parametrize("name", NEEDS)

MOST_LINES = 30


# -- all of them -------------------------------------------------------------------------------------------------------


def lines_of_the_user(source: str) -> set[int]:
    """The lines of code that a user writes: no imports, no explanations, and no line that only calls `main`."""
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in skipped
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.parse(source).body:
        is_import = isinstance(node, ast.Import | ast.ImportFrom | ast.Try)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_import or is_docstring or isinstance(node, ast.If):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


@each_program
def test_a_program_has_few_lines_of_its_users(name: str) -> None:
    lines = lines_of_the_user((EXAMPLES / name).read_text(encoding="utf-8"))
    assert len(lines) <= MOST_LINES


@each_program
def test_a_program_names_what_is_not_installed_and_exits_with_2(name: str, tmp_path: Path) -> None:
    module, distribution = NEEDS[name]
    hide(module, tmp_path)
    done = run_example(name, cwd=tmp_path, modules=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"pip install {distribution}" in done.stderr.replace("'", "")


# -- PostgreSQL --------------------------------------------------------------------------------------------------------

POSTGRES = """\
an endless query: TaskTimeoutError
such queries on the server: 0
search paths found later: "$user", public
orders lost by then: 0
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg")
    if missing := missing_for_postgres():
        pytest.skip(missing)
    with PostgresServer() as server:
        yield server


def test_postgres_connections_end_what_is_endless_and_are_clean_and_alive(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    done = run_example("postgres_connections.py", postgres.conninfo, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert output_matches(done.stdout, POSTGRES), done.stdout + done.stderr
    # the loss of connections is logged
    assert set(re.findall(r"^psycopg\S+", done.stderr, re.M)) <= {
        "psycopg.errors.AdminShutdown:",
        "psycopg.OperationalError:",  # where the connection was closed before that was read
    }


def test_a_connection_outlives_the_query_that_is_aborted_and_the_transaction_that_is_left_open(
    postgres: PostgresServer,
) -> None:
    program = load("postgres_connections.py")
    config = replace(program.configure(postgres.conninfo), worker_count=1, max_worker_count=1)

    def backend(conn: Any) -> int:
        return conn.info.backend_pid

    def is_clean(conn: Any) -> bool:
        return conn.info.transaction_status.name == "IDLE"

    with TaskManager(config) as manager:
        before = manager.queue_task(backend)
        assert manager.submit(program.ask, "select pg_sleep(3600)", run_timeout=0.05).exception()
        manager.queue_task(lambda conn: conn.execute("begin").statusmessage)
        assert manager.queue_task(is_clean)
        assert manager.queue_task(backend) == before


# -- SSH ---------------------------------------------------------------------------------------------------------------

SSH = """\
echo hello: 'hello'
sleep 1000: TaskTimeoutError(...)
false: OSError('exit status 1: ')
echo still here: 'still here'
"""


@pytest.fixture
def ssh_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    pytest.importorskip("paramiko")
    pytest.importorskip("asyncssh")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with SshServer(tmp_path) as server:
        yield server


def test_remote_commands_end_at_their_time_and_the_next_ones_run(
    ssh_server: SshServer, tmp_path: Path
) -> None:
    address = ("127.0.0.1", str(ssh_server.port))
    assert_prints("remote_commands.py", SSH, *address, cwd=tmp_path)
    assert ssh_server.asleep == 0


def test_an_ssh_connection_that_was_cut_while_it_was_idle_fails_no_command(
    ssh_server: SshServer,
) -> None:
    program = load("remote_commands.py")
    config = replace(program.configure("127.0.0.1", ssh_server.port), check_after=0)
    with TaskManager(config) as manager:
        for _ in range(2):
            futures = [manager.submit(program.run, "echo 1", once=True) for _ in range(20)]
            assert [future.result(PATIENCE) for future in futures] == ["1"] * 20
            ssh_server.end_connections()


def test_an_idle_ssh_connection_that_was_cut_is_made_again_without_a_task(
    ssh_server: SshServer,
) -> None:
    program = load("remote_commands.py")
    config = replace(program.configure("127.0.0.1", ssh_server.port), keepalive=0.05)
    with TaskManager(config) as manager:
        manager.wait_ready()
        ssh_server.end_connections()
        eventually(lambda: len(ssh_server.connections) >= config.worker_count)


# -- browsers ----------------------------------------------------------------------------------------------------------

BROWSERS = """\
a guest
a guest
a guest
...run_timeout...
a guest
a guest
"""


class Site(BaseHTTPRequestHandler):
    """Greets guests, and those that it knows by a cookie. `/endless` ends when the site is closed."""

    visited: threading.Event
    closed: threading.Event

    def do_GET(self) -> None:
        if self.path == "/endless":
            self.visited.set()
            self.closed.wait(PATIENCE)
            return
        known = "known=yes" in self.headers.get("Cookie", "")
        self.send_response(200)
        self.send_header("Set-Cookie", "known=yes")
        self.end_headers()
        self.wfile.write(f"<title>{'a friend' if known else 'a guest'}</title>".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def visited() -> threading.Event:
    """Whether somebody has asked for `/endless`."""
    return threading.Event()


@pytest.fixture
def site(visited: threading.Event) -> Iterator[str]:
    closed = threading.Event()
    handler = type("Handler", (Site,), {"visited": visited, "closed": closed})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        closed.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """For the browser; the first marks it among all processes.

    The program has its ports written in it. So one test at a time, of all on this machine, has the driver."""
    pytest.importorskip("selenium")
    import fcntl  # which Windows has not

    driver = shutil.which("chromedriver")
    if driver is None or not any(
        map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    ):
        pytest.skip("needs Chromium and chromedriver")
    link = tmp_path / "chromedriver"
    link.symlink_to(driver)
    monkeypatch.setenv("SE_CHROMEDRIVER", str(link))
    mark = f"--mark={tmp_path}"
    with open(driver, "rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        yield [mark, *(["--no-sandbox"] if os.getuid() == 0 else [])]
        left = processes_with(mark) | processes_with(str(link))
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    assert not left, "a browser or its driver outlives the program"


@on_linux
@pytest.mark.timeout(150)
def test_browsers_show_no_traces_of_another_task_and_end_with_the_page_that_never_ends(
    site: str, flags: list[str], tmp_path: Path
) -> None:
    pages = ["/", "/", "/", "/endless", "/", "/"]
    arguments = (*flags, *(site + page for page in pages))
    assert_prints("browsers.py", BROWSERS, *arguments, cwd=tmp_path)


@on_linux
@pytest.mark.timeout(150)
def test_ctrl_c_ends_a_browser_in_the_middle_of_a_page_with_the_program(
    site: str, visited: threading.Event, flags: list[str], tmp_path: Path
) -> None:
    with subprocess.Popen(
        command("browsers.py", *flags, f"{site}/endless"),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert visited.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert errors.endswith("KeyboardInterrupt\n"), errors


# -- models ------------------------------------------------------------------------------------------------------------

FILES = {
    "tool.py": "import os\n\nfor name in os.listdir():\n    print(name)\n" * 5,
    "page.html": "<!doctype html>\n<html><body><p>Hello</p></body></html>\n" * 5,
}
TYPES = """\
2 files: [('html', 1), ('python', 1)]
by the models on the GPUs ...
"""


@on_posix
def test_file_types_has_a_model_on_each_gpu(tmp_path: Path) -> None:
    pytest.importorskip("magika")
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    assert_prints("file_types.py", TYPES, str(folder), cwd=tmp_path)
