"""SQLite from many threads: each worker has its own connection to the same file.

    python examples/sqlite_connections.py

A connection of `sqlite3` may, by default, be used only by the thread that made it. That is what a worker
does: it makes a connection, runs tasks on it, and closes it. What remains is to let them share the file well:

- *Readers* never wait: in WAL mode they see the last commit while somebody writes.
- *Writers* wait for each other, in SQLite itself, for at most the busy timeout. It works only for transactions that
  begin with `begin immediate`: one that reads first and writes later is refused at once, because what it read is old.
- "database is locked" says that somebody else is busy, not that the connection is broken: `check_health` must not
  condemn it. A closed connection is broken, for which `sqlite3` raises ProgrammingError (for a wrong number of
  parameters too, which then costs a new connection: those of SQLite are cheap).
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
BUSY_TIMEOUT = 20.0  # seconds that a writer waits for others


def create_database(path: Path) -> None:
    """Before there are workers: WAL mode is a property of the file, and connections that set it at once may fail."""
    with closing(connect(path)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table account (balance)")
        db.execute("insert into account values (0)")


def connect(path: Path) -> sqlite3.Connection:
    """Makes a resource. `isolation_level=None`: transactions begin where we say so, and nowhere else."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)


def deposit(db: sqlite3.Connection, amount: int) -> None:
    """Read, compute, write, as one transaction that no other writer comes between."""
    db.execute("begin immediate")
    with (
        db
    ):  # commits, or rolls back if this raises: the next task must not find a transaction open
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
        release.wait(BUSY_TIMEOUT)


def deposit_or_give_up(db: sqlite3.Connection, amount: int) -> str:
    db.execute("pragma busy_timeout = 0")
    try:
        deposit(db, amount)
    except sqlite3.OperationalError as error:
        return str(error)
    finally:
        db.execute(
            f"pragma busy_timeout = {BUSY_TIMEOUT * 1000:.0f}"
        )  # it is the worker's connection: leave no trace
    return "done"


def lose_connection(db: sqlite3.Connection, all_here: threading.Barrier) -> None:
    all_here.wait()  # so that each of these tasks runs on another connection
    db.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bank.db")
        create_database(path)
        config = Config(
            on_create=partial(connect, path),
            on_destroy=sqlite3.Connection.close,
            worker_count=WORKERS,
            max_worker_count=WORKERS,  # writers wait for each other anyway
            check_health=unhealthy_on(sqlite3.ProgrammingError),
        )
        with TaskManager(config) as manager:
            for future in [manager.queue_task_async(deposit, 1) for _ in range(100)]:
                future.result()
            print("100 deposits on", WORKERS, "connections:", manager.queue_task(balance))

            held, release = threading.Event(), threading.Event()
            writer = manager.queue_task_async(hold_the_write_lock, held, release)
            held.wait(BUSY_TIMEOUT)
            print("while somebody writes, a reader sees:", manager.queue_task(balance))
            print("a writer that will not wait:", manager.queue_task(deposit_or_give_up, 1))
            patient = manager.queue_task_async(deposit, 1)
            release.set()
            writer.result()
            patient.result()
            print("after both writers:", manager.queue_task(balance))

            print(
                "run_task, in this thread:", manager.run_task(balance)
            )  # at once, on a connection of this thread's own

            # Tasks that find a broken connection run again on another: the worker closes it and makes a new one.
            all_here = threading.Barrier(WORKERS, timeout=BUSY_TIMEOUT)
            for future in [
                manager.queue_task_async(lose_connection, all_here) for _ in range(WORKERS)
            ]:
                future.result()
            survivor = manager.queue_task_async(balance)
            print(
                "all connections lost, and yet:",
                survivor.result(),
                "after a retry:",
                survivor.attempts > 1,
            )


if __name__ == "__main__":
    main()
