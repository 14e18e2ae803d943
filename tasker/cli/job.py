"""`Job`: what a run does with a line. `Work`: the part of it that workers do.

A `Job` also makes the manager's configuration. With `--placement processes` the work is
sent to child processes. It is sent as the names on the command line, and each child
looks them up once. So any object with a name can be called there, even a partial or a
lambda. What has no name, such as the results of functions, stays there: the worker
itself makes the line that is to be written, and judges the error.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from tasker._sync.guarded_logger import last_line_of
from tasker._sync.threads import leave_child
from tasker._tasks.context import Context
from tasker._tasks.unrun import UNRUN, look_at
from tasker._tasks.wrapping import wrapper
from tasker.cli.arguments import Options
from tasker.cli.loading import exception_type, function, one_line, resource_factory, where
from tasker.cli.records import Record, ResultError, UnreadableError, result_line
from tasker.config import Config
from tasker.logger import Logger
from tasker.placement.base import Placement, Threads
from tasker.placement.processes.placement import Processes
from tasker.slot import Slot

__all__ = ["CREATE_TIMEOUT_S", "OURS", "Failure", "Job", "Work"]

# Seconds without any resource after which lines fail: the default of `Config`.
CREATE_TIMEOUT_S = 30.0
# The errors that the function has not raised.
OURS = (UnreadableError, ResultError)


class Failure(Exception):
    """What a function raised, as it is reported.

    `place` is where, `breaks` whether the resource is broken."""

    def __init__(self, text: str, place: str, breaks: bool) -> None:
        super().__init__(text, place, breaks)
        self.text = text
        self.place = place
        self.breaks = breaks

    def __str__(self) -> str:
        return self.text


class _ThreadState(threading.local):
    broke: BaseException | None = None
    """The error that has broken the resource of this thread."""


class Work:
    """The functions and exception types that the command line names.

    Raises `UsageError`."""

    def __init__(
        self, function_name: str, resource_name: str | None, unhealthy: tuple[str, ...]
    ) -> None:
        self._names = (function_name, resource_name, unhealthy)
        # Errors of tasker's name a task by it.
        self.__qualname__: str = function_name
        self.has_resource: bool = resource_name is not None
        self.wants_context: bool
        self._function, self.wants_context = function(
            function_name, with_resource=self.has_resource
        )
        self.wants_slot: bool = False
        self._factory: Callable[[Slot], contextlib.AbstractContextManager[Any]] = _no_resource
        if resource_name is not None:
            self._factory, self.wants_slot = resource_factory(resource_name)
        self._unhealthy = tuple(map(exception_type, unhealthy))

        self._thread_state = _ThreadState()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, self._names

    @contextlib.contextmanager
    def open(self, slot: Slot) -> Generator[Any]:
        """A new resource, until the end of a `with` block; `None` without a factory.

        If the resource is broken, the factory gets the error that the function has
        raised, not the `Failure`."""
        broke: BaseException | None = None
        try:
            with self._factory(slot) as resource:
                try:
                    yield resource
                except Failure:
                    broke, self._thread_state.broke = self._thread_state.broke, None
                    if broke is None:
                        raise
                    # It keeps its own cause.
                    raise broke  # noqa: B904
        except BaseException as error:
            if error is not broke:
                raise

    def line(self, record: Record, *before: Any) -> bytes:
        """The line that is to be written for a record.

        The function is called with `before`, then the item. Raises one of `OURS`, or
        `Failure` for whatever the function raises."""
        item = record.item()
        try:
            result = self._function(*before, item)
            if type(result) in UNRUN:
                # It raises for a coroutine.
                look_at(result, self._function)
        except BaseException as error:
            leave_child(error)
            breaks = isinstance(error, Exception) and isinstance(error, self._unhealthy)
            if breaks:
                self._thread_state.broke = error
            raise Failure(one_line(last_line_of(error)), where(error), breaks) from None

        return result_line(record, result)


def _no_resource(_: Slot) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


@functools.cache
def _arrived(function_name: str, resource_name: str | None, unhealthy: tuple[str, ...]) -> Work:
    """In a child: the work that has arrived.

    It is looked up when the first resource is made, so that no line pays for
    imports."""
    return Work(function_name, resource_name, unhealthy)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The options of a run, and the functions that they name."""

    options: Options
    work: Work

    def config(self, logger: Logger) -> Config[Any]:
        """The manager's configuration. Without a factory the resource is `None`."""
        return Config.from_context_manager(
            self.work.open,
            name="tasker map",
            worker_count=self.options.workers,
            max_worker_count=self.options.max_workers,
            # Bad JSON is no resource's fault, even if `--unhealthy` has ValueError.
            check_health=lambda error: not (isinstance(error, Failure) and error.breaks),
            max_retries=self.options.retries,
            create_timeout=CREATE_TIMEOUT_S,
            resource_pool_size=0,
            logger=logger,
            placement=self._placement(),
        )

    def task(self) -> Any:
        """The function that workers call with the work and a record.

        It returns the line that is to be written."""
        if not self.work.has_resource:
            return _alone

        return _with_context if self.work.wants_context else _with_resource

    def call(self, item: object) -> str:
        """The call for an item, as one would write it."""
        before = ["context"] if self.work.wants_context else []
        if self.work.has_resource:
            before += [f"{self.options.resource}({'slot' if self.work.wants_slot else ''})"]
        return f"{self.options.function}({', '.join([*before, repr(item)])})"

    def _placement(self) -> Placement:
        if self.options.placement == "threads":
            return Threads()

        return Processes() if self.options.grace is None else Processes(grace=self.options.grace)


@wrapper
def _alone(_: Any, work: Work, record: Record) -> bytes:
    return work.line(record)


@wrapper
def _with_resource(resource: Any, work: Work, record: Record) -> bytes:
    return work.line(record, resource)


@wrapper
def _with_context(context: Context, resource: Any, work: Work, record: Record) -> bytes:
    return work.line(record, context, resource)
