"""`Job`: what a run does with a line, and the manager's configuration for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tasker.cli.arguments import Options
from tasker.cli.records import Record, ResultError, UnreadableError, result_line
from tasker.config import Config, unhealthy_on
from tasker.context import Context
from tasker.logger import Logger

__all__ = ["CREATE_TIMEOUT", "OURS", "Job"]

CREATE_TIMEOUT = 30.0  # seconds without any resource after which lines fail
OURS = (UnreadableError, ResultError)  # not the function's


@dataclass(frozen=True, kw_only=True)
class Job:
    """The options of a run, and what their names stand for."""

    options: Options
    function: Callable[..., Any]
    wants_context: bool
    factory: Callable[[], AbstractContextManager[Any]] | None
    unhealthy: tuple[type[BaseException], ...]

    def config(self, logger: Logger) -> Config[Any]:
        """The manager's configuration; without a factory the resource is None."""
        judge = unhealthy_on(*self.unhealthy) if self.unhealthy else None
        return Config.from_context_manager(
            self.factory or contextlib.nullcontext,
            name="tasker map",
            worker_count=self.options.workers,
            max_worker_count=self.options.max_workers,
            # bad JSON is no resource's fault, even where a ValueError is
            check_health=lambda error: isinstance(error, OURS) or judge is None or judge(error),
            max_retries=self.options.retries,
            create_timeout=CREATE_TIMEOUT,
            resource_pool_size=0,
            logger=logger,
        )

    def task(self) -> Callable[..., bytes]:
        """What workers run for a record; it returns what is to be written."""
        fn = self.function

        def alone(_: Any, record: Record) -> bytes:
            return result_line(record, fn(record.item()))

        def with_resource(resource: Any, record: Record) -> bytes:
            return result_line(record, fn(resource, record.item()))

        def with_context(context: Context, resource: Any, record: Record) -> bytes:
            return result_line(record, fn(context, resource, record.item()))

        if self.factory is None:
            return alone
        return with_context if self.wants_context else with_resource
