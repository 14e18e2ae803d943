"""`AbortingEngine`: an engine that aborts the calls of `run_task`, too.

What is submitted goes to the supervisor in any engine. `run_task` of an engine without
`on_abort` asks for no supervisor, as this would cost each call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tasker._pool.engine import Engine
from tasker._tasks.signature import wants_context

__all__ = ["AbortingEngine"]

R = TypeVar("R")


class AbortingEngine(Engine[R]):
    """As an engine, for a manager in this process with an `on_abort`."""

    def run_task(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a task here and now on a pooled resource."""
        if self.queue.closed:
            raise self.queue.refusal()

        return super().run_task(
            *self.supervisor.supervised(fn, args, wants_context(fn, len(args) + 1))
        )

    def _look_at_result(self, result: object, fn: Callable[..., Any], resource: R) -> None:
        """Nothing is left to do: the supervisor has looked."""
