"""Send tasker's log messages where yours go: to standard logging, and to structlog.

    python examples/custom_logging.py

An error that belongs to a caller is raised there. tasker logs the errors that no caller
would see: a resource that cannot be made, a callback that raises, a failed future that
was never asked for its result.

`Config.logger` takes any object with the methods `debug`, `info`, `warning` and
`error`. They are called as `warning(msg, *args)` with %-style arguments, and with
`exc_info=error` if they take it. Without a logger, messages go to
`logging.getLogger("tasker")`. Failures are warnings or errors, so they are seen even if
nothing is set up. The ordinary life of a manager is info.
"""

from __future__ import annotations

import logging
import sys

from tasker import Config, Logger, TaskManager


class Mailer:
    """The resource: a connection to a mail server.

    The server is still starting when the first worker asks for a connection.
    """

    server_starts = True

    def __init__(self) -> None:
        if Mailer.server_starts:
            Mailer.server_starts = False
            raise ConnectionRefusedError("the mail server is starting")

    def send(self, recipient: str) -> str:
        return f"sent to {recipient}"

    def close(self) -> None:
        pass


def note_delivery(result: str | None, error: BaseException | None) -> None:
    # The task has succeeded by now. No caller is there to catch this.
    raise LookupError("no such folder: Sent")


def send_mail(logger: Logger) -> None:
    """Meet two failures: the first attempt to make the resource, and a callback."""
    Mailer.server_starts = True

    config = Config(
        # The name stands in the messages, so several managers can share a logger.
        name="mail",
        on_create=Mailer,
        on_destroy=Mailer.close,
        worker_count=1,
        max_worker_count=1,
        logger=logger,
    )
    with TaskManager(config) as manager:
        # This call waits for the resource. The caller notices nothing else.
        print(manager.queue_task(Mailer.send, "ann"))

        manager.queue_task_with_callback(Mailer.send, note_delivery, "bob")
        manager.join()


def logger_to_stdout(name: str, layout: str) -> logging.Logger:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(layout))

    logger = logging.getLogger(name)
    logger.addHandler(handler)
    # INFO would add the life of the manager: started, ready, hired, retired, resources
    # replaced, stopping, stopped.
    logger.setLevel(logging.WARNING)

    return logger


def with_standard_logging() -> None:
    # This logger is a child of "tasker". Settings of the logger "tasker" hold for all
    # managers, and settings of this one hold for this manager. Messages come from the
    # workers' threads, whose names begin with that of the manager.
    layout = "%(levelname)s %(name)s [%(threadName)s] %(message)s"
    send_mail(logger_to_stdout("tasker.mail", layout))


def with_structlog() -> None:
    try:
        import structlog
    except ModuleNotFoundError:
        print("structlog is not installed: pip install structlog")
        return

    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logger_to_stdout("newsletter", "%(message)s"),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            # tasker needs this one: it fills the %s of a message.
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.format_exc_info,
            # One line for each message, with its traceback.
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )

    # Bound values stand in every message.
    send_mail(logger.bind(service="newsletter"))


def main() -> None:
    print("-- standard logging")
    with_standard_logging()
    print("-- structlog")
    with_structlog()


if __name__ == "__main__":
    main()
