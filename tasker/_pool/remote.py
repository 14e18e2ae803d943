"""`RemoteEngine`: an engine whose resources live elsewhere.

A call is packed when it is submitted, and made by the backend. To the queue, the
workers and everything else it is a task like any other, whose function is
`backend.call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tasker._pool.engine import Engine
from tasker._sync.clock import monotonic
from tasker._tasks.context import check_context
from tasker._tasks.future import TaskFuture, new_task
from tasker._tasks.signature import wants_context
from tasker.config import Config

__all__ = ["RemoteEngine"]

R = TypeVar("R")


class RemoteEngine(Engine[R]):
    """As an engine, for a backend that packs."""

    packs = True

    def __init__(self, config: Config[R]) -> None:
        super().__init__(config)
        self._call = self.backend.call

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        waiting: list[Any] | None = None,
        make: Callable[..., TaskFuture[Any]] = new_task,
    ) -> TaskFuture[Any]:
        """Accept a task, or raise: `TypeError` where a call cannot be packed.

        Its context variables, and the values of its parent, are packed with it."""
        if self.queue.closed:
            raise self.queue.refusal()

        return self.submit_asked(fn, wants_context(fn, len(args) + 1), args, options, waiting, make)

    def submit_asked(
        self,
        fn: Callable[..., Any],
        wants_context: bool,
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        waiting: list[Any] | None = None,
        make: Callable[..., TaskFuture[Any]] = new_task,
    ) -> TaskFuture[Any]:
        """The same for a function that was asked already whether it wants a context."""
        if self.queue.closed:
            raise self.queue.refusal()

        parent = options.get("ctx")
        if parent is not None:
            check_context("ctx", parent, or_none=True)
        packed = self.backend.pack(fn, args, wants_context, parent)
        task = make(self, self._call, (packed,), True, monotonic(), waiting)
        self._accept(task, options)
        return task

    def run_task(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a task now on a pooled resource. The calling thread waits for it."""
        if self.queue.closed:
            raise self.queue.refusal()

        packed = self.backend.pack(fn, args, wants_context(fn, len(args) + 1))
        return super().run_task(self._call, (packed,))
