"""A service that ends well on SIGTERM: takes nothing new, finishes what it has accepted, and says how that went.

    python examples/graceful_shutdown.py       (then `kill PID` from another terminal, or Ctrl-C)

The signal's handler calls `manager.stop()`. A handler interrupts the main thread wherever that is; stop() waits there
until all is finished. (Only if the thread had something in its hands that the closing needs, a lock of tasker's, stop()
begins the closing and returns at once.) The next submission raises TaskManagerShutdownError, which ends the main loop;
then the main thread waits for what is left, if anything, and reads the report. If a signal may find the main thread
with a lock that your tasks need, cancel a `Config.ctx` in the handler instead: that begins to stop and never waits.

On Windows no other process can send SIGTERM: `taskkill /F` and os.kill() end the process at once. What does arrive is
Ctrl-C, and Ctrl-Break as SIGBREAK; before Python 3.14 their handlers run only when the main thread ends a wait.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from types import FrameType

from tasker import Config, Context, TaskManager, TaskManagerShutdownError

GRACE = 4.0  # seconds; then stop() goes on as kill() for up to 5 more: less than the 10 before Docker sends SIGKILL


class Mailbox:
    """A connection to a mail server; what a worker owns."""

    def close(self) -> None:
        pass


def send(mailbox: Mailbox, letter: int) -> None:
    time.sleep(0.02)


def fetch_mail(ctx: Context, mailbox: Mailbox) -> None:
    """A task without an end. stop() lets tasks run to theirs and cancels nothing, so this one has to ask."""
    while not ctx.stopping():
        ctx.wait(0.05)  # a sleep that ends early when the context is cancelled, which kill() does
        ctx.raise_if_done()


def main() -> int:
    config = Config(
        on_create=Mailbox,
        on_destroy=Mailbox.close,
        worker_count=3,
        max_worker_count=3,
        queue_size=4,  # what waits is what has to be finished in the end: keep it short
    )
    with TaskManager(config) as manager:

        def stop(number: int, frame: FrameType | None) -> None:
            # No print here: the handler may have interrupted another one in its middle.
            manager.stop(GRACE)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(
            signal.SIGINT, stop
        )  # else Ctrl-C raises KeyboardInterrupt, and leaving the block so kills
        if sys.platform == "win32":
            signal.signal(signal.SIGBREAK, stop)

        fetching = manager.queue_task_async(fetch_mail)
        accepted = 1
        try:
            for letter in itertools.count(1):
                manager.queue_task_async(send, letter)  # waits while four are waiting
                accepted += 1
                if letter == 10:
                    print(
                        f"process {os.getpid()} is open: end it with SIGTERM or Ctrl-C", flush=True
                    )
        except TaskManagerShutdownError:
            print("closing: no more letters are accepted")

        report = manager.stop(GRACE)  # a second signal, from now on, changes nothing
        print("all that was accepted is done:", report.completed == accepted)
        print("fetching ended by itself:", fetching.exception() is None)
        print(
            f"drained: {report.drained}, failed: {report.failed}, threads left behind: {len(report.abandoned)}"
        )
    return 0 if report.drained else 1


if __name__ == "__main__":
    sys.exit(main())
