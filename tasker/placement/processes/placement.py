"""`Processes`: each worker's resource in a child process of its own.

The child is started, called and ended by its worker's thread, which sleeps meanwhile: so everything that a manager does
with a worker it does with the child. See `proxy` for one of them, and `child_main` for the program that it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tasker import checks
from tasker.errors import ConfigError, shown
from tasker.placement.base import Backend, Settings
from tasker.placement.processes import beginning

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """Each worker's resource lives in a child process of its own, where its tasks run: beside the others, with a GIL of
    its own, and alone in it when it breaks.

    Functions, arguments, results and exceptions travel pickled; lambdas, closures and what `__main__` defines need
    cloudpickle (the extra `processes`). A child that dies costs its task an attempt and is replaced. It is ended by its
    parent alone: SIGTERM, SIGINT and SIGHUP are meant for that, and it does not heed them. Needs a POSIX system. Raises
    `ConfigError` for a wrong field."""

    grace: float | timedelta = 0.5
    """Seconds that a task gets to end after its context has ended, and a child after its resource is destroyed, before
    the process is killed."""
    kill_group: bool = True
    """Whether the programs and processes that a child has started are killed with it, however it ends: all that is in
    the group of processes that it leads. What has left that (`start_new_session=True`) lives on."""
    executable: str | os.PathLike[str] | None = None
    """The Python that children run, of this version, where `sys.executable` is none: in frozen programs, and where
    Python is embedded. `None`: what `multiprocessing.set_executable` was given, or else `sys.executable`."""

    def __post_init__(self) -> None:
        checks.seconds("grace", self.grace)
        checks.flag("kill_group", self.kill_group)
        if not isinstance(self.executable, str | os.PathLike | None) or self.executable == "":
            raise ConfigError(
                f"executable must be None or the path of a Python, not {shown(self.executable)}"
            )

    def open(self, settings: Settings, lost: Callable[[Any], None]) -> Backend:
        """A backend for one manager.

        Raises `ConfigError` when `on_create` or `on_destroy` cannot be pickled, when there is no Python for children or
        no POSIX system, when gevent or eventlet has made greenlets of threads, and in a child process that imports the
        calling module for its parent."""
        if os.name != "posix":
            raise ConfigError("placement must be Threads() here: Processes() needs a POSIX system")
        # a fifth of what importing tasker costs, and most programs never get here
        from tasker.placement.processes.proxy import ProcessProxy
        from tasker.placement.processes.python import python
        from tasker.placement.remote.backend import RemoteBackend

        program = python(
            None if self.executable is None else os.fspath(self.executable), beginning.EXECUTABLE
        )
        grace = checks.patience("grace", self.grace)
        return RemoteBackend(
            settings,
            lambda name: ProcessProxy(name, grace, lost, python=program, group=self.kill_group),
        )
