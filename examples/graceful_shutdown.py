"""A service that ends well on SIGTERM.

    python examples/graceful_shutdown.py

Then send it `kill PID` from another terminal, or press Ctrl-C. The service takes
nothing new, finishes the tasks that it has accepted, and reports how that went.

The signal's handler calls `manager.stop()`. A handler interrupts the main thread at any
point, and stop() waits there until all is finished. There is one exception: the main
thread may hold a lock of tasker's that the closing needs. Then stop() begins the
closing and returns at once.

The next submission raises TaskManagerShutdownError, which ends the main loop. Then the
main thread waits for the rest, if there is any, and reads the report.

A signal may find the main thread with a lock that your tasks need. If so, cancel a
`Config.ctx` in the handler instead, which begins to stop and never waits.

On Windows no other process can send SIGTERM: `taskkill /F` and os.kill() end the
process at once. Ctrl-C does arrive, and Ctrl-Break arrives as SIGBREAK. Before Python
3.14 their handlers run only when the main thread ends a wait.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from types import FrameType

from tasker import Config, Context, TaskManager, TaskManagerShutdownError

# After this time stop() goes on as kill() for up to 5 seconds more. Together that is
# less than the 10 seconds after which Docker sends SIGKILL.
GRACE_S = 4.0


class Mailbox:
    """A connection to a mail server. Each worker owns one."""

    def close(self) -> None:
        pass


def send(mailbox: Mailbox, letter: int) -> None:
    time.sleep(0.02)


def fetch_mail(ctx: Context, mailbox: Mailbox) -> None:
    """A task without an end.

    stop() waits for tasks to end and cancels nothing, so this one has to ask.
    """
    while not ctx.stopping():
        # A sleep that ends early when the context is cancelled, which kill() does.
        ctx.wait(0.05)
        ctx.raise_if_done()


def main() -> int:
    config = Config(
        on_create=Mailbox,
        on_destroy=Mailbox.close,
        worker_count=3,
        max_worker_count=3,
        # Waiting tasks have to be finished in the end, so keep the queue short.
        queue_size=4,
    )
    with TaskManager(config) as manager:

        def stop(number: int, frame: FrameType | None) -> None:
            # Print nothing here: the handler may have interrupted another print.
            manager.stop(GRACE_S)

        signal.signal(signal.SIGTERM, stop)
        # Otherwise Ctrl-C raises KeyboardInterrupt, and leaving the block with that
        # kills the tasks.
        signal.signal(signal.SIGINT, stop)
        if sys.platform == "win32":
            signal.signal(signal.SIGBREAK, stop)

        fetching = manager.queue_task_async(fetch_mail)
        accepted = 1
        try:
            for letter in itertools.count(1):
                # This call waits while four letters are waiting.
                manager.queue_task_async(send, letter)
                accepted += 1

                if letter == 10:
                    print(
                        f"process {os.getpid()} is open: end it with SIGTERM or Ctrl-C", flush=True
                    )
        except TaskManagerShutdownError:
            print("closing: no more letters are accepted")

        # From now on a second signal changes nothing.
        report = manager.stop(GRACE_S)

        print("all that was accepted is done:", report.completed == accepted)
        print("fetching ended by itself:", fetching.exception() is None)
        print(
            f"drained: {report.drained}, failed: {report.failed},"
            f" threads left behind: {len(report.abandoned)}"
        )

    return 0 if report.drained else 1


if __name__ == "__main__":
    sys.exit(main())
