"""tasker: runs work against limited, expensive, stateful resources.

OS threads are workers and each owns one resource; tasks wait in two lanes; a burst thread hires and retires workers;
broken resources are replaced and their tasks retried. `TaskManager` and `Config` are where to begin.
"""

from tasker.config import Config, unhealthy_on
from tasker.context import Context, background, with_cancel, with_deadline, with_timeout, with_value
from tasker.current import current_context, current_resource
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
from tasker.future import TaskFuture
from tasker.logger import Logger
from tasker.manager import TaskManager
from tasker.metrics import MetricsCollector, TaskLifecycleTimestamps, TaskMetrics
from tasker.placement.base import Placement, Threads
from tasker.placement.processes import Processes
from tasker.placement.ray import Ray
from tasker.snapshots import StopReport, TaskStats
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
    "RemoteTaskError",
    "ResourceCreationError",
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
    "unhealthy_on",
    "with_cancel",
    "with_deadline",
    "with_timeout",
    "with_value",
]
