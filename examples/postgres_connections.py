"""PostgreSQL: connections that are checked, left clean, and freed of endless queries.

    python examples/postgres_connections.py [CONNINFO]

CONNINFO is libpq's, such as "host=localhost dbname=app". Without it libpq's variables
(PGHOST, PGDATABASE and so on) say where the server is.

- `on_check` asks the server before a task is taken. So a connection that was ended
  while it was idle fails no task, not even one that may run only once. With
  `check_after=0` that is so however short it was idle.
- `on_reset` rolls back what a task has left open, and takes back what it has set.
- `on_abort` has the server cancel the query of a task whose time is over. The
  connection stays.
- `check_health` asks psycopg whether an error was the end of the connection.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

try:
    import psycopg
    from psycopg import Connection
except ImportError:
    print("psycopg is not installed: pip install 'psycopg[binary]'", file=sys.stderr)
    sys.exit(2)

from tasker import Config, TaskManager

OURS = "from pg_stat_activity where application_name = 'tasker' and pid <> pg_backend_pid()"


def reset(conn: Connection[Any]) -> None:
    conn.rollback()
    conn.execute("reset all")


def configure(conninfo: str) -> Config[Connection[Any]]:
    return Config(
        on_create=partial(psycopg.connect, conninfo, autocommit=True, application_name="tasker"),
        on_destroy=Connection.close,
        worker_count=4,
        check_health=lambda error, conn: not conn.closed,
        on_check=lambda conn: conn.execute(""),
        check_after=0,
        on_reset=reset,
        on_abort=Connection.cancel_safe,
    )


def ask(conn: Connection[Any], query: str) -> Any:
    return conn.execute(query.encode()).fetchall()[0][0]


def main(conninfo: str = "") -> None:
    with TaskManager(configure(conninfo)) as manager:
        endless = manager.submit(ask, "select pg_sleep(3600)", run_timeout=0.5)
        print("an endless query:", type(endless.exception()).__name__)
        manager.join()
        count = f"select count(*) {OURS} and query ~ 'pg_sleep' and state = 'active'"
        print("such queries on the server:", manager.queue_task(ask, count))

        list(manager.map(ask, ["select set_config('search_path', 'nowhere', false)"] * 20))
        print("search paths found later:", *set(manager.map(ask, ["show search_path"] * 20)))

        manager.queue_task(ask, f"select count(pg_terminate_backend(pid, 5000)) {OURS}")
        send = "select pg_notify('orders', 'one more')"
        orders = [manager.submit(ask, send, once=True) for _ in range(100)]
        print("orders lost by then:", sum(order.exception() is not None for order in orders))


if __name__ == "__main__":
    main(*sys.argv[1:])
