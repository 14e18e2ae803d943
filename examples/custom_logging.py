"""Send tasker's log messages where yours go: to standard logging, and to structlog.

    python examples/custom_logging.py

An error that belongs to a caller is raised there. What no caller would see, tasker logs: a resource that cannot be
made, a callback that raises, a failed future that nobody asked. `Config.logger` takes any object with the methods
`debug`, `info`, `warning` and `error`, called as `warning(msg, *args)` with %-style arguments, and `exc_info=error` if
they take it; without one, messages go to `logging.getLogger("tasker")`. Failures are warnings or errors, so they are
seen even if nothing is set up; the ordinary life of a manager is info.
"""

from __future__ import annotations

import logging
import sys

from tasker import Config, Logger, TaskManager


class Mailer:
    """The resource: a connection to a mail server that is still starting when the first worker asks for one."""

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
    raise LookupError(
        "no such folder: Sent"
    )  # the task has succeeded by now: nobody is there to catch this


def send_mail(logger: Logger) -> None:
    """Meet both kinds of failure: a resource that is made at the second attempt, and a callback that raises."""
    Mailer.server_starts = True
    config = Config(
        name="mail",  # stands in the messages, so that several managers can share a logger
        on_create=Mailer,
        on_destroy=Mailer.close,
        worker_count=1,
        max_worker_count=1,
        logger=logger,
    )
    with TaskManager(config) as manager:
        print(
            manager.queue_task(Mailer.send, "ann")
        )  # waits for the resource; the caller notices nothing else
        manager.queue_task_with_callback(Mailer.send, note_delivery, "bob")
        manager.join()


def logger_to_stdout(name: str, layout: str) -> logging.Logger:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(layout))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    # INFO would add the manager's life: started, ready, hired, retired, resources replaced, stopping, stopped
    logger.setLevel(logging.WARNING)
    return logger


def with_standard_logging() -> None:
    # A child of "tasker": what is set on the logger "tasker" holds for all managers, what is set here for this one.
    # Messages come from the workers' threads, whose names hold that of the manager.
    send_mail(
        logger_to_stdout("tasker.mail", "%(levelname)s %(name)s [%(threadName)s] %(message)s")
    )


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
            structlog.stdlib.PositionalArgumentsFormatter(),  # fills the %s of a message: tasker needs this one
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(
                sort_keys=True
            ),  # one message, one line, with its traceback
        ],
    )
    send_mail(logger.bind(service="newsletter"))  # what is bound stands in every message


def main() -> None:
    print("-- standard logging")
    with_standard_logging()
    print("-- structlog")
    with_structlog()


if __name__ == "__main__":
    main()
