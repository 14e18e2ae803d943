"""tasker: runs work against limited, expensive, stateful resources.

Workers are OS threads, and each owns one resource. Tasks wait in two lanes. A burst
thread hires and retires workers. Broken resources are replaced and their tasks retried.
`TaskManager` and `Config` are where to begin.
"""

import typing

from tasker._tasks.context import (
    Context,
    background,
    with_cancel,
    with_deadline,
    with_timeout,
    with_value,
)
from tasker._tasks.current import current_context, current_resource, current_slot
from tasker._tasks.future import TaskFuture
from tasker.config import Config, unhealthy_on
from tasker.errors import (
    ConfigError,
    ContextCancelledError,
    DeadlineExceededError,
    PoolDeadlockError,
    QueueFullError,
    RemoteTaskError,
    ResourceCreationError,
    TaskerError,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
    WorkerLostError,
)
from tasker.logger import Logger
from tasker.manager import TaskManager
from tasker.placement.base import Placement, Threads
from tasker.slot import Reason, Slot
from tasker.snapshots import MetricsCollector, StopReport, TaskMetrics, TaskStats

if typing.TYPE_CHECKING:
    from tasker.placement.processes.placement import Processes
    from tasker.placement.ray.placement import Ray
    from tasker.stamps import TaskLifecycleTimestamps
    from tasker.stream import TaskStream
    from tasker.threadpool import ThreadPoolExecutor

__version__ = "0.1.0"

__all__ = [
    "Config",
    "ConfigError",
    "Context",
    "ContextCancelledError",
    "DeadlineExceededError",
    "Logger",
    "MetricsCollector",
    "Placement",
    "PoolDeadlockError",
    "Processes",
    "QueueFullError",
    "Ray",
    "Reason",
    "RemoteTaskError",
    "ResourceCreationError",
    "Slot",
    "StopReport",
    "TaskFuture",
    "TaskLifecycleTimestamps",
    "TaskManager",
    "TaskManagerKilledError",
    "TaskManagerShutdownError",
    "TaskMetrics",
    "TaskStats",
    "TaskStream",
    "TaskTimeoutError",
    "TaskerError",
    "ThreadPoolExecutor",
    "Threads",
    "WorkerLostError",
    "background",
    "current_context",
    "current_resource",
    "current_slot",
    "unhealthy_on",
    "with_cancel",
    "with_deadline",
    "with_timeout",
    "with_value",
]

# What many programs do without is imported when it is asked for.
_LATER = {
    "Processes": "tasker.placement.processes.placement",
    "Ray": "tasker.placement.ray.placement",
    "TaskLifecycleTimestamps": "tasker.stamps",
    "TaskStream": "tasker.stream",
    "ThreadPoolExecutor": "tasker.threadpool",
}

# A type checker would take any name for one of this module's.
if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

        from importlib import import_module

        return globals().setdefault(name, getattr(import_module(_LATER[name]), name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})
