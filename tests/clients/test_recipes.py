"""The recipes of the guide, as they stand there but for where the server is, on the real thing.

Each has the same two questions to answer. An error that does no harm to the resource: is that kept? A resource that is
gone: is it replaced, and the task tried again?
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from benchmarks.harness.postgres_server import PostgresServer, missing_for_postgres
from tasker import Config, TaskManager, unhealthy_on
from tests.support.waiting import PATIENCE, eventually

GUIDE = Path(__file__).parents[2] / "examples" / "README.md"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
LONG = 45.0  # seconds for a browser to start, and to start again


def recipe(name: str, *changes: tuple[str, str]) -> dict[str, Any]:
    """What the lines of a recipe make; `changes` are texts in it, and what is to stand there."""
    found = re.search(
        rf"^\*\*{name}\.\*\* .*?^```python\n(.*?)^```$", GUIDE.read_text("utf-8"), re.M | re.S
    )
    assert found, f"examples/README.md has no recipe for {name}"
    code = found[1]
    for text, other in changes:
        assert text in code
        code = code.replace(text, other)
    made: dict[str, Any] = {"Config": Config, "unhealthy_on": unhealthy_on}
    exec(code, made)
    return made


class Kitchen:
    """A manager of one worker on a recipe. `made` are its resources."""

    def __init__(self, config: Config[Any], patience: float = PATIENCE) -> None:
        self._create = config.on_create
        self._patience = patience
        self.made: list[Any] = []
        self.manager = TaskManager(
            replace(config, on_create=self._note, worker_count=1, max_worker_count=1, max_retries=1)
        )

    def __enter__(self) -> Kitchen:
        return self

    def __exit__(self, *_: object) -> None:
        report = self.manager.stop(self._patience)
        assert (report.drained, report.abandoned, report.destroy_errors) == (True, (), 0)

    def _note(self) -> Any:
        self.made.append(self._create())
        return self.made[-1]

    def do(self, task: Callable[..., Any], *args: Any) -> Any:
        return self.manager.queue_task(task, *args, timeout=self._patience)

    def assert_harmless(self, task: Callable[[Any], object], error: type[BaseException]) -> None:
        """The task fails with this error, once, and its resource is kept."""
        self.do(lambda resource: None)
        number = len(self.made)
        future = self.manager.submit(task)
        raised = future.exception(self._patience)
        assert isinstance(raised, error), raised
        assert future.attempts == 1
        self.do(lambda resource: None)
        assert len(self.made) == number

    def do_and_lose(self, lose: Callable[[Any], object], task: Callable[[Any], Any]) -> Any:
        """The result of a task whose first resource is lost before it uses it; it has another one then."""
        self.do(lambda resource: None)
        first, number = self.made[-1], len(self.made)

        def lose_and_do(resource: Any) -> Any:
            if resource is first:
                lose(resource)
            return task(resource)

        future = self.manager.submit(lose_and_do)
        result = future.result(self._patience)
        assert (future.attempts, len(self.made)) == (2, number + 1)
        return result


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The directory with the socket of a server of our own; its user is `app`, its database `postgres`."""
    pytest.importorskip("psycopg")
    if missing := missing_for_postgres():
        pytest.skip(missing)
    with PostgresServer() as server:
        yield server.directory


# -- psycopg ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def psycopg_kitchen(postgres: str) -> Iterator[Kitchen]:
    made = recipe("psycopg", ("dbname=app", f"host={postgres} user=app dbname=postgres"))
    with Kitchen(made["config"]) as kitchen:
        yield kitchen


@pytest.fixture
def other(postgres: str) -> Iterator[Any]:
    """Somebody else's connection."""
    with pytest.importorskip("psycopg").connect(
        host=postgres, user="app", dbname="postgres", autocommit=True
    ) as other:
        yield other


@pytest.fixture
def table(other: Any) -> Iterator[None]:
    other.execute("create table things (x int primary key)")
    other.execute("insert into things values (1)")
    yield
    other.execute("drop table things")


def execute(conn: Any, *statements: str) -> None:
    with conn.transaction():
        for statement in statements:
            conn.execute(statement)


def answer(conn: Any) -> int:
    with conn.transaction():
        return conn.execute("select 42").fetchone()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "statements"),
    [
        ("QueryCanceled", ("set local statement_timeout = 50", "select pg_sleep(60)")),
        ("UniqueViolation", ("insert into things values (1)",)),
        ("SyntaxError", ("selec",)),
    ],
)
def test_psycopg_keeps_a_connection_whose_statement_failed(
    psycopg_kitchen, table, error, statements
):
    psycopg_kitchen.assert_harmless(
        lambda conn: execute(conn, *statements),
        getattr(pytest.importorskip("psycopg.errors"), error),
    )
    assert psycopg_kitchen.do(answer) == 42


def test_psycopg_keeps_a_connection_that_did_not_get_a_lock(psycopg_kitchen, other, table):
    with other.transaction():
        other.execute("lock things")
        psycopg_kitchen.assert_harmless(
            lambda conn: execute(conn, "lock things nowait"),
            pytest.importorskip("psycopg.errors").LockNotAvailable,
        )
    assert psycopg_kitchen.do(answer) == 42


def test_psycopg_keeps_a_connection_that_met_a_deadlock(psycopg_kitchen, other, table, postgres):
    psycopg = pytest.importorskip("psycopg")
    other.execute("create table more ()")

    def is_waited_for() -> bool:
        with psycopg.connect(host=postgres, user="app", dbname="postgres") as third:
            return (
                third.execute("select count(*) from pg_locks where not granted").fetchone()[0] > 0
            )

    def lock_both_ways(conn):
        waiter = threading.Thread(target=other.execute, args=("lock more",))
        try:
            with conn.transaction():
                conn.execute(
                    "set local deadlock_timeout = 50"
                )  # the other one would wait for a minute
                conn.execute("lock more")
                waiter.start()
                eventually(is_waited_for)
                conn.execute("lock things")
        finally:
            waiter.join()

    other.execute("set deadlock_timeout = 60000")
    with other.transaction():
        other.execute("lock things")
        psycopg_kitchen.assert_harmless(lock_both_ways, psycopg.errors.DeadlockDetected)
    other.execute("drop table more")
    assert psycopg_kitchen.do(answer) == 42


def test_psycopg_keeps_a_connection_whose_transaction_could_not_be_serialized(
    psycopg_kitchen, other, table
):
    def be_overtaken(conn):
        with conn.transaction():
            conn.execute("set transaction isolation level repeatable read")
            conn.execute("select x from things")
            other.execute("update things set x = 2")
            conn.execute("update things set x = 3")

    psycopg_kitchen.assert_harmless(
        be_overtaken, pytest.importorskip("psycopg.errors").SerializationFailure
    )
    assert psycopg_kitchen.do(answer) == 42


def test_psycopg_replaces_a_connection_that_was_ended(psycopg_kitchen, other):
    def end(conn):
        other.execute("select pg_terminate_backend(%s)", (conn.info.backend_pid,))

    assert psycopg_kitchen.do_and_lose(end, answer) == 42
    assert psycopg_kitchen.do_and_lose(lambda conn: conn.close(), answer) == 42
    psycopg_kitchen.assert_harmless(lambda conn: execute(conn, "selec"), Exception)


# -- SQLAlchemy --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sqlalchemy_kitchen(url: str) -> Iterator[Kitchen]:
    pytest.importorskip("sqlalchemy")
    made = recipe("SQLAlchemy", ("postgresql+psycopg:///app", url))
    with Kitchen(made["config"]) as kitchen:
        yield kitchen
    made["engine"].dispose()


def scalar(conn: Any, *statements: str) -> Any:
    text = pytest.importorskip("sqlalchemy").text
    with conn.begin():
        results = [conn.execute(text(statement)) for statement in statements]
        return results[-1].scalar()


def session_scalar(conn: Any, statement: str) -> Any:
    with pytest.importorskip("sqlalchemy.orm").Session(conn) as session, session.begin():
        return session.execute(pytest.importorskip("sqlalchemy").text(statement)).scalar()


def test_sqlalchemy_keeps_a_connection_whose_statement_failed_and_replaces_one_that_was_ended(
    postgres, other
):
    errors = pytest.importorskip("sqlalchemy.exc")
    with sqlalchemy_kitchen(f"postgresql+psycopg://app@/postgres?host={postgres}") as kitchen:
        cancelled = ("set local statement_timeout = 50", "select pg_sleep(60)")
        kitchen.assert_harmless(lambda conn: scalar(conn, *cancelled), errors.OperationalError)
        kitchen.assert_harmless(lambda conn: session_scalar(conn, "selec"), errors.ProgrammingError)

        def end(conn):
            other.execute(
                "select pg_terminate_backend(%s)", (scalar(conn, "select pg_backend_pid()"),)
            )

        assert kitchen.do_and_lose(end, lambda conn: scalar(conn, "select 42")) == 42
        assert kitchen.do_and_lose(end, lambda conn: session_scalar(conn, "select 42")) == 42


def test_sqlalchemy_does_so_with_sqlite(tmp_path):
    errors = pytest.importorskip("sqlalchemy.exc")
    with sqlalchemy_kitchen(f"sqlite:///{tmp_path}/data") as kitchen:
        kitchen.assert_harmless(lambda conn: scalar(conn, "selec"), errors.OperationalError)
        assert kitchen.do(lambda conn: scalar(conn, "select 42")) == 42
        closed = kitchen.do_and_lose(
            lambda conn: conn.connection.driver_connection.close(),
            lambda conn: scalar(conn, "select 42"),
        )
        assert closed == 42


# -- redis -------------------------------------------------------------------------------------------------------------


class RedisServer:
    """A server that can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._directory = directory

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )
        eventually(self._listens)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "redis-server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_redis_keeps_a_client_whose_command_failed_and_replaces_one_that_was_cut_off(redis_server):
    redis = pytest.importorskip("redis")
    made = recipe("redis", ("redis.Redis(", f"redis.Redis(port={redis_server.port}, "))

    def misuse(client):
        client.set("text", "a")
        client.lpush("text", "b")

    def cut_off(client):
        with redis.Redis(port=redis_server.port) as other:
            other.client_kill_filter(_id=client.client_id())

    with Kitchen(made["config"]) as kitchen:
        kitchen.assert_harmless(misuse, redis.ResponseError)
        assert kitchen.do_and_lose(cut_off, lambda client: client.incr("number")) == 1
        number = len(kitchen.made)
        redis_server.stop()
        future = kitchen.manager.submit(lambda client: client.incr("number"))
        eventually(lambda: future.attempts == 1)
        redis_server.start()
        assert future.result(PATIENCE) == 1
        assert (future.attempts, len(kitchen.made)) == (2, number + 1)


# -- httpx -------------------------------------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """Answers 404 to what it does not know, and the first /cut and /half by the end of the connection."""

    protocol_version = "HTTP/1.1"
    cut: set[str]

    def do_GET(self) -> None:
        if self.path in self.cut:
            self.cut.discard(self.path)
            if self.path == "/half":
                self._answer(200, length=100)
            self.close_connection = True
        else:
            self._answer(404 if self.path == "/missing" else 200, length=4)

    def _answer(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(b"text")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[str]:
    handler = type("Handler", (Answers,), {"cut": {"/cut", "/half"}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_httpx_keeps_a_client_for_an_answer_of_404_and_sends_again_what_a_lost_connection_did_not_answer(
    web_server,
):
    httpx = pytest.importorskip("httpx")
    made = recipe("httpx", ("https://api.example.com", web_server))

    def get(client, path):
        return client.get(path).raise_for_status().text

    with Kitchen(made["config"]) as kitchen:
        assert kitchen.do(get, "/") == "text"
        kitchen.assert_harmless(lambda client: get(client, "/missing"), httpx.HTTPStatusError)
        assert len(kitchen.made) == 1
        for number, path in enumerate(("/cut", "/half"), 2):
            assert kitchen.do(get, path) == "text"
            assert len(kitchen.made) == number


# -- paramiko ----------------------------------------------------------------------------------------------------------


class SshServer:
    """Runs `true` and `false`, and loses the connection in the middle of the first `lose`."""

    def __init__(self, paramiko: Any) -> None:
        self._paramiko = paramiko
        self._key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.transports: list[Any] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self._loses = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                transport = self._paramiko.Transport(connection)
                transport.add_server_key(self._key)
                self.transports.append(transport)
                transport.start_server(event=threading.Event(), server=self._new_session())

    def _new_session(self) -> Any:
        def start(_: object, channel: Any, command: bytes) -> bool:
            self._threads.append(
                threading.Thread(target=self._run, args=(channel, command.decode()))
            )
            self._threads[-1].start()
            return True

        paramiko = self._paramiko
        methods = {
            "check_auth_password": lambda *_: paramiko.AUTH_SUCCESSFUL,
            "check_channel_request": lambda *_: paramiko.OPEN_SUCCEEDED,
            "check_channel_exec_request": start,
        }
        return type("Session", (paramiko.ServerInterface,), methods)()

    def _run(self, channel: Any, command: str) -> None:
        channel.recv(1)  # the end of its input, which comes after the request was answered
        channel.sendall(b"text")
        if command == "lose" and self._loses:
            self._loses = False
            channel.get_transport().close()
        else:
            channel.send_exit_status(0 if command != "false" else 1)
            channel.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        for transport in self.transports:
            transport.close()
            transport.join(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)


def run(ssh: Any, command: str) -> str:
    stdin, stdout, _ = ssh.exec_command(command, timeout=PATIENCE)
    stdin.close()
    text = stdout.read().decode()
    status = stdout.channel.recv_exit_status()
    if status != 0:
        raise OSError(f"{command}: exit status {status}")
    return text


@pytest.mark.slow
def test_paramiko_keeps_a_client_whose_command_failed_and_replaces_one_that_was_cut_off():
    paramiko = pytest.importorskip("paramiko")
    server = SshServer(paramiko)
    made = recipe(
        "paramiko",
        (
            "ssh.load_system_host_keys()",
            "ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())",
        ),
        (
            '"build.example.com"',
            f'"127.0.0.1", {server.port}, username="app", password="", look_for_keys=False, allow_agent=False',
        ),
    )
    try:
        with Kitchen(made["config"]) as kitchen:
            assert kitchen.do(run, "true") == "text"
            kitchen.assert_harmless(lambda ssh: run(ssh, "false"), OSError)
            assert len(kitchen.made) == 1
            assert kitchen.do(run, "lose") == "text"
            assert len(kitchen.made) == 2
            lost = kitchen.do_and_lose(
                lambda ssh: server.transports[-1].close(), lambda ssh: run(ssh, "true")
            )
            assert lost == "text"
            assert (
                kitchen.do_and_lose(lambda ssh: ssh.close(), lambda ssh: run(ssh, "true")) == "text"
            )
    finally:
        server.close()


# -- browsers ----------------------------------------------------------------------------------------------------------

PAGE = "data:text/html,<title>hello</title>"

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or not sys.platform.startswith("linux"),
    reason="needs Chromium, and looks into /proc",
)


@pytest.fixture
def profiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A browser that is killed leaves its profile behind: in a directory that is removed."""
    directory = mkdtemp()  # with a short path: there are sockets in it
    for variable in ("TMPDIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, directory)
    yield
    shutil.rmtree(directory, ignore_errors=True)  # what was killed may still be at its last writes


def kill_children(process: int) -> None:
    """End what a process has started, and what that has."""
    for children in Path("/proc", str(process), "task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            kill_children(child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.mark.slow
@needs_chromium
@pytest.mark.timeout(3 * LONG)
@pytest.mark.usefixtures("profiles")
def test_selenium_keeps_a_browser_without_the_element_and_replaces_one_that_is_gone(monkeypatch):
    pytest.importorskip("selenium")
    from selenium.common.exceptions import NoSuchElementException
    from selenium.webdriver.common.by import By

    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("needs chromedriver")
    monkeypatch.setenv("SE_CHROMEDRIVER", driver)
    made = recipe(
        "Selenium",
        ('("--headless=new")', '("--headless=new")\n    options.add_argument("--no-sandbox")'),
    )

    def title(driver):
        driver.get(PAGE)
        return driver.title

    with Kitchen(made["config"], LONG) as kitchen:
        assert kitchen.do(title) == "hello"
        kitchen.assert_harmless(
            lambda driver: driver.find_element(By.ID, "nowhere"), NoSuchElementException
        )
        assert (
            kitchen.do_and_lose(lambda driver: kill_children(driver.service.process.pid), title)
            == "hello"
        )
        assert kitchen.do_and_lose(lambda driver: driver.close(), title) == "hello"


@needs_chromium
@pytest.mark.timeout(3 * LONG)
@pytest.mark.usefixtures("profiles")
def test_playwright_keeps_a_browser_without_the_element_and_replaces_one_that_is_gone():
    errors = pytest.importorskip("playwright.sync_api")
    made = recipe(
        "Playwright", ("launch()", f'launch(executable_path={CHROMIUM!r}, args=["--no-sandbox"])')
    )

    def title(browser):
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(PAGE)
            return page.title()

    def click(browser):
        with browser.new_context() as context:
            context.new_page().click("#nowhere", timeout=50)

    def kill(browser):
        session = browser.new_browser_cdp_session()
        (process,) = [
            each["id"]
            for each in session.send("SystemInfo.getProcessInfo")["processInfo"]
            if each["type"] == "browser"
        ]
        os.kill(process, signal.SIGKILL)

    with Kitchen(made["config"], LONG) as kitchen:
        assert kitchen.do(title) == "hello"
        kitchen.assert_harmless(click, errors.TimeoutError)
        assert kitchen.do_and_lose(kill, title) == "hello"
        assert kitchen.manager.run_task(title) == "hello"
