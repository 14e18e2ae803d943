"""`examples/postgres_connections.py` beside psycopg_pool with an executor, on a server that ends connections.

Both have four connections. psycopg_pool asks the server each time that a connection is taken. What cannot be saved is
the query that runs when its connection ends: there it fails, and with tasker if it may run only once. Nothing else does.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.postgres_server import PostgresServer, missing_for_postgres
from tasker import TaskManager
from tests.support.examples import load
from tests.support.waiting import PATIENCE, eventually

psycopg = pytest.importorskip("psycopg")
psycopg_pool = pytest.importorskip("psycopg_pool")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONNECTIONS = 4
DOWN_S = 3.0

Submit = Callable[..., "Future[Any]"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if missing := missing_for_postgres():
        pytest.skip(missing)
    with PostgresServer() as server:
        yield server


@contextmanager
def open_tasker(conninfo: str, once: bool) -> Iterator[Submit]:
    config = load("postgres_connections.py").configure(conninfo)
    config = replace(config, worker_count=CONNECTIONS, max_worker_count=CONNECTIONS)
    with TaskManager(config) as manager:
        manager.wait_ready()
        yield partial(manager.submit, once=once)


@contextmanager
def open_psycopg_pool(conninfo: str) -> Iterator[Submit]:
    pool = psycopg_pool.ConnectionPool(
        conninfo,
        min_size=CONNECTIONS,
        kwargs={"autocommit": True},
        check=psycopg_pool.ConnectionPool.check_connection,
        open=False,
    )

    def run(task: Callable[..., Any], *args: Any) -> Any:
        with pool.connection() as conn:
            return task(conn, *args)

    with pool, ThreadPoolExecutor(CONNECTIONS) as executor:
        pool.wait()
        yield partial(executor.submit, run)


class Drill:
    """Numbered tasks, and which of them failed."""

    def __init__(self, server: PostgresServer, submit: Submit) -> None:
        self.server = server
        self._submit = submit
        self._begun: set[int] = set()
        self._futures: list[Future[Any]] = []
        together = threading.Barrier(CONNECTIONS, timeout=PATIENCE)
        for future in [submit(lambda _: together.wait()) for _ in range(CONNECTIONS)]:
            future.result(PATIENCE)  # each connection has been used

    def _query(self, conn: Any, number: int, seconds: float) -> None:
        if number in self._begun:
            seconds = 0.0  # a second attempt
        self._begun.add(number)
        conn.execute("select pg_sleep(%s)", (seconds,))

    def submit(self, count: int, seconds: float = 0.01) -> None:
        first = len(self._futures)
        self._futures += [
            self._submit(self._query, number, seconds) for number in range(first, first + count)
        ]

    def wait_until_begun(self, count: int) -> None:
        eventually(lambda: len(self._begun) >= count)

    def failed(self) -> set[int]:
        failed = set()
        for number, future in enumerate(self._futures):
            error = future.exception(PATIENCE)
            assert error is None or isinstance(error, psycopg.OperationalError), error
            if error is not None:
                failed.add(number)
        return failed


# -- what the server does: each returns the tasks that may fail, one for each connection -------------------------------


def idle_connections_are_ended(drill: Drill) -> set[int]:
    drill.server.end_connections()
    drill.submit(40)
    return set()


def busy_connections_are_ended(drill: Drill) -> set[int]:
    drill.submit(CONNECTIONS, seconds=600.0)
    drill.wait_until_begun(CONNECTIONS)
    drill.submit(40)
    with psycopg.connect(drill.server.conninfo, autocommit=True) as other:
        asleep = "select from pg_stat_activity where wait_event = 'PgSleep'"
        eventually(lambda: len(other.execute(asleep).fetchall()) == CONNECTIONS)
    drill.server.end_connections()
    return set(range(CONNECTIONS))


def the_server_restarts_under_load(drill: Drill) -> set[int]:
    drill.submit(200)
    drill.wait_until_begun(40)
    drill.server.restart()
    return set(range(200))


def the_server_is_down_for_3_s(drill: Drill) -> set[int]:
    drill.submit(100)
    drill.wait_until_begun(40)
    drill.server.stop()
    drill.submit(40)
    time.sleep(DOWN_S)
    drill.server.start()
    return set(range(100))


EVENTS = [
    idle_connections_are_ended,
    busy_connections_are_ended,
    the_server_restarts_under_load,
    the_server_is_down_for_3_s,
]
each_event = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)


@each_event
def test_with_retries_nothing_fails(server: PostgresServer, event: Any) -> None:
    with open_tasker(server.conninfo, once=False) as submit:
        drill = Drill(server, submit)
        event(drill)
        assert drill.failed() == set()


@each_event
def test_what_may_run_only_once_fails_only_where_it_fails_with_psycopg_pool(
    server: PostgresServer, event: Any
) -> None:
    for opened in (open_tasker(server.conninfo, once=True), open_psycopg_pool(server.conninfo)):
        with opened as submit:
            drill = Drill(server, submit)
            may_fail = event(drill)
            assert drill.failed() <= may_fail
            # a connection that ends costs one task at most
            assert len(drill.failed()) <= CONNECTIONS


def test_the_drill_prints_a_line_for_each_pool() -> None:
    if missing := missing_for_postgres():
        pytest.skip(missing)
    command = [sys.executable, "-m", "benchmarks.postgres", "--drills", "idle"]
    command += ["--tasks", "50", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("idle ")]
    failed = {line[9:30].strip(): float(line[30:36]) for line in lines}
    assert failed.pop("psycopg_pool") > 0
    assert failed == {"tasker": 0, "tasker, once": 0, "psycopg_pool, check": 0}
