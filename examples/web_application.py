"""Serve a database from a web application: FastAPI and SQLite.

    pip install fastapi httpx
    python examples/web_application.py
    uvicorn --app-dir examples web_application:app

The first form sends itself a few requests. The second one serves, with `--workers 4` in
four processes.

SQLite blocks, and its connections stay with the thread that made them. Each of tasker's
workers makes one. The routes await the tasks that run there, and meanwhile the event
loop serves others.

The application's lifespan opens the manager; no import does. A prefork server
(gunicorn, or another server that preloads the application) imports it once and then
forks. Threads do not survive a fork. A manager that was made before it raises
`TaskManagerShutdownError` in the child. The lifespan runs in each process after the
fork, so each process has a manager of its own, and `worker_count` is for one process.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from tasker import Config, Context, QueueFullError, TaskManager, TaskTimeoutError

try:
    import httpx
    from fastapi import Depends, FastAPI, Request
    from fastapi.responses import JSONResponse
except ModuleNotFoundError as error:
    print(f"{error.name} is not installed: pip install fastapi httpx", file=sys.stderr)
    raise SystemExit(2) from None


def create_table(db: sqlite3.Connection) -> None:
    db.execute("create table if not exists notes (id integer primary key, text unique not null)")


def add_note(db: sqlite3.Connection, text: str) -> int | None:
    with db:  # a transaction
        return db.execute("insert into notes (text) values (?)", (text,)).lastrowid


def list_notes(db: sqlite3.Connection) -> list[str]:
    return [text for (text,) in db.execute("select text from notes order by text")]


def count_for_ever(ctx: Context, db: sqlite3.Connection) -> int:
    """A report that takes too long.

    When its context ends, so does the query. Then the worker is free for others again.
    """
    take_back = ctx.on_done(db.interrupt)
    try:
        numbers = "with recursive n(x) as (select 1 union all select x + 1 from n)"
        return int(db.execute(f"{numbers} select count(*) from n").fetchone()[0])
    finally:
        take_back()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Open the manager, and stop it when all requests are answered.

    This runs in each serving process.
    """
    database = os.environ.get("NOTES_DATABASE", "notes.db")

    config = Config(
        on_create=lambda: sqlite3.connect(database),
        on_destroy=sqlite3.Connection.close,
        worker_count=4,
        # Further requests are refused. Otherwise they would be served when their
        # clients do not wait for them any more.
        queue_size=100,
    )
    async with TaskManager(config) as manager:
        await manager.asubmit(create_table)
        app.state.manager = manager
        yield


async def manager_of(request: Request) -> TaskManager[sqlite3.Connection]:
    manager: TaskManager[sqlite3.Connection] = request.app.state.manager
    return manager


Manager = Annotated[TaskManager[sqlite3.Connection], Depends(manager_of)]
app = FastAPI(lifespan=lifespan)


@app.post("/notes", status_code=201)
async def post_note(text: str, manager: Manager) -> int | None:
    return await manager.asubmit(add_note, text, queue_timeout=0)


@app.get("/notes")
async def get_notes(manager: Manager) -> list[str]:
    # A quick task need not wait for reports.
    return await manager.asubmit(list_notes, priority=True, queue_timeout=0)


@app.get("/report")
async def get_report(manager: Manager) -> int:
    return await manager.asubmit(count_for_ever, timeout=0.2, queue_timeout=0)


@app.exception_handler(sqlite3.IntegrityError)
async def conflict(request: Request, error: Exception) -> JSONResponse:
    # A task's error arrives where the task is awaited.
    return JSONResponse({"detail": str(error)}, status_code=409)


@app.exception_handler(QueueFullError)
async def busy(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "busy"}, status_code=503, headers={"Retry-After": "1"})


@app.exception_handler(TaskTimeoutError)
async def too_slow(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "took too long"}, status_code=504)


async def try_out() -> None:
    # This client calls the application without a server, so this script runs the
    # lifespan itself.
    transport = httpx.ASGITransport(app=app)
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://notes") as client,
    ):
        # Others are served while the report runs.
        report = asyncio.create_task(client.get("/report"))

        for text in ("buy milk", "call ann", "buy milk"):
            response = await client.post("/notes", params={"text": text})
            print("POST /notes", response.status_code, response.text)

        for response in await asyncio.gather(client.get("/notes"), report):
            print("GET", response.url.path, response.status_code, response.text)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NOTES_DATABASE"] = str(Path(folder, "notes.db"))
        asyncio.run(try_out())


if __name__ == "__main__":
    main()
