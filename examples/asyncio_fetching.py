"""Use blocking connections from asyncio: fetch pages from a web server.

    python examples/asyncio_fetching.py

The server here is a small one in this script. The worker threads block so that the
event loop does not. Each worker owns an `http.client` connection, which stays open from
page to page. A broken connection is replaced, and its page is fetched again. The loop
only awaits, thousands of pages at a time if need be, without a thread for each:

- `async with TaskManager(config) as manager` opens a pool, and stops it without
  blocking the loop.
- `await manager.asubmit(fn, *args)` returns the result. Where the queue is bounded, it
  awaits room first.
- `manager.queue_task_async(fn, *args)` returns a future, which can be passed around and
  awaited. It does not await room.
- `async for result in manager.amap(fn, items)` runs many tasks, in order, a bounded
  number at a time. The items may be an async iterable as well.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tasker import Config, Context, TaskManager, unhealthy_on


class Pages(BaseHTTPRequestHandler):
    """The server: it greets each client.

    The first request for /flaky finds its connection closed. A request for /never gets
    no answer.
    """

    # This version keeps connections open.
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    flaky = True

    def do_GET(self) -> None:
        if self.path == "/never":
            # This returns when the client has hung up.
            self.rfile.read(1)
        elif self.path == "/flaky" and Pages.flaky:
            Pages.flaky = False
        else:
            body = f"hello from {self.path}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return

        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the output of this script is the client's."""


@contextmanager
def local_server() -> Generator[int, None, None]:
    """Serve pages in a thread, and yield the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()

        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def connect(port: int) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    # A missing server raises here, so tasker tries again, with growing pauses.
    connection.connect()

    return connection


def fetch(connection: HTTPConnection, path: str) -> str:
    """The task: an ordinary blocking function, which knows nothing of asyncio."""
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def fetch_or_abort(ctx: Context, connection: HTTPConnection, path: str) -> str:
    """The same for a page that may take for ever.

    When its await is cancelled, its context is cancelled too, and that ends it. Nothing
    can interrupt a thread that waits for an answer. But another thread can shut its
    socket down.
    """
    take_back = ctx.on_done(lambda: connection.sock.shutdown(socket.SHUT_RDWR))
    try:
        return fetch(connection, path)
    finally:
        take_back()


async def paths(count: int) -> AsyncIterator[str]:
    """A source of paths. In your program it may ask another service with asyncio."""
    for number in range(1, count + 1):
        await asyncio.sleep(0)
        yield f"/page/{number}"


async def fetch_pages(port: int) -> None:
    config = Config(
        on_create=lambda: connect(port),
        on_destroy=HTTPConnection.close,
        worker_count=4,
        # A task that submits faster than the server answers awaits room. Otherwise the
        # queue would fill the memory.
        queue_size=8,
        # After either error, the connection is out of step.
        check_health=unhealthy_on(OSError, HTTPException),
    )
    async with TaskManager(config) as manager:
        print("asubmit:", await manager.asubmit(fetch, "/index"))

        # If the queue is full, this raises instead of blocking the loop.
        future = manager.queue_task_async(fetch, "/news", queue_timeout=0)
        print("queue_task_async:", await future)

        items = [f"/item/{number}" for number in range(100)]
        answers = await asyncio.gather(*(manager.asubmit(fetch, item) for item in items))
        print("gather:", len(answers), "pages, the last one", answers[-1])

        async for answer in manager.amap(fetch, paths(3)):
            print("amap:", answer)

        print("a lost connection:", await manager.asubmit(fetch, "/flaky"))

        try:
            # The timeout cancels the await, which cancels the task's context.
            async with asyncio.timeout(0.2):
                await manager.asubmit(fetch_or_abort, "/never")
        except TimeoutError:
            print("cancelled: no answer from /never")

        # The worker of /never has a new connection.
        print("afterwards:", await manager.asubmit(fetch, "/index"))

    metrics = manager.metrics()
    print(metrics.total_tasks_completed, "completed,", metrics.total_tasks_retried, "retried")


def main() -> None:
    with local_server() as port:
        asyncio.run(fetch_pages(port))


if __name__ == "__main__":
    main()
