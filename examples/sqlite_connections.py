"""SQLite from many threads: each worker has its own connection to the same file.

    python examples/sqlite_connections.py

A connection of `sqlite3` may, by default, be used only by the thread that made it. A
worker keeps to that: it makes a connection, runs tasks on it, and closes it. The
workers still have to share the file well:

- *Readers* never wait. In WAL mode they see the last commit while a writer is at work.
- *Writers* wait for each other, in SQLite itself, for at most the busy timeout. This
  works only for transactions that begin with `begin immediate`. A transaction that
  reads first and writes later is refused at once, because it has read old data.
- "database is locked" means that another connection is busy, not that this one is
  broken. `check_health` must not condemn it. A closed connection is broken, and
  `sqlite3` raises ProgrammingError for it. It raises the same error for a wrong number
  of parameters, which then costs a new connection. Connections of SQLite are cheap.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

from tasker import Config, TaskManager, unhealthy_on

WORKERS = 3
# A writer waits for others for at most this time. A guess: far above any wait here.
BUSY_TIMEOUT_S = 20.0


def create_database(path: Path) -> None:
    """Create the file, before there are workers.

    WAL mode is a property of the file. Connections that set it at the same time may
    fail.
    """
    with closing(connect(path)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table account (balance)")
        db.execute("insert into account values (0)")


def connect(path: Path) -> sqlite3.Connection:
    """Make a resource.

    With `isolation_level=None` transactions begin only where the program begins them.
    """
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def deposit(db: sqlite3.Connection, amount: int) -> None:
    """Read, compute and write in one transaction, so no other writer comes between."""
    db.execute("begin immediate")
    # The block commits, or rolls back after an error: the next task must not find an
    # open transaction.
    with db:
        db.execute("update account set balance = ?", (balance(db) + amount,))


def balance(db: sqlite3.Connection) -> int:
    (amount,) = db.execute("select balance from account").fetchone()
    return int(amount)


def hold_the_write_lock(
    db: sqlite3.Connection, held: threading.Event, release: threading.Event
) -> None:
    db.execute("begin immediate")
    with db:
        db.execute("update account set balance = balance + 1000")
        held.set()
        release.wait(BUSY_TIMEOUT_S)


def deposit_or_give_up(db: sqlite3.Connection, amount: int) -> str:
    db.execute("pragma busy_timeout = 0")
    try:
        deposit(db, amount)
    except sqlite3.OperationalError as error:
        return str(error)
    finally:
        # It is the worker's connection: leave no trace.
        db.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")

    return "done"


def lose_connection(db: sqlite3.Connection, all_here: threading.Barrier) -> None:
    # With this wait each of these tasks runs on another connection.
    all_here.wait()
    db.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bank.db")
        create_database(path)

        config = Config(
            on_create=partial(connect, path),
            on_destroy=sqlite3.Connection.close,
            worker_count=WORKERS,
            # Writers wait for each other anyway.
            max_worker_count=WORKERS,
            check_health=unhealthy_on(sqlite3.ProgrammingError),
        )
        with TaskManager(config) as manager:
            for future in [manager.queue_task_async(deposit, 1) for _ in range(100)]:
                future.result()
            print("100 deposits on", WORKERS, "connections:", manager.queue_task(balance))

            held, release = threading.Event(), threading.Event()
            writer = manager.queue_task_async(hold_the_write_lock, held, release)
            held.wait(BUSY_TIMEOUT_S)
            print("while somebody writes, a reader sees:", manager.queue_task(balance))
            print("a writer that will not wait:", manager.queue_task(deposit_or_give_up, 1))

            patient = manager.queue_task_async(deposit, 1)
            release.set()
            writer.result()
            patient.result()
            print("after both writers:", manager.queue_task(balance))

            # This runs at once, on a connection of this thread's own.
            print("run_task, in this thread:", manager.run_task(balance))

            # A task that finds a broken connection runs again on another. The worker
            # closes the broken one and makes a new one.
            all_here = threading.Barrier(WORKERS, timeout=BUSY_TIMEOUT_S)
            lost = [manager.queue_task_async(lose_connection, all_here) for _ in range(WORKERS)]
            for future in lost:
                future.result()

            survivor = manager.queue_task_async(balance)
            result, retried = survivor.result(), survivor.attempts > 1
            print("all connections lost, and yet:", result, "after a retry:", retried)


if __name__ == "__main__":
    main()
