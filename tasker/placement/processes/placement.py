"""`Processes`: each worker's resource in a child process of its own.

A worker's thread starts, calls and ends its child, and sleeps meanwhile. So all that a
manager does with a worker, it also does with the child. `proxy` has one child as its
parent sees it, and `child_main` is the program that the child runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeGuard

from tasker import checks
from tasker._base.callables import check_callable
from tasker._base.record import explain_fields
from tasker._tasks.unrun import refuse
from tasker.errors import ConfigError, shown
from tasker.placement.base import Backend, Settings
from tasker.placement.processes import beginning
from tasker.slot import Slot

__all__ = ["Processes"]


@explain_fields
@dataclass(frozen=True)
class Processes:
    """Each worker's resource lives in a child process of its own, where its tasks run.

    Each child has a GIL of its own, and a crash ends only the child. Functions,
    arguments, results and exceptions travel pickled. Lambdas, closures and definitions
    of `__main__` need cloudpickle (the extra `processes`). A child that dies costs its
    task an attempt, and is replaced. Only the parent ends a child: the child ignores
    SIGTERM, SIGINT and SIGHUP, which are meant for the parent. Needs a POSIX system.
    Raises `ConfigError` for a wrong field."""

    grace: float | timedelta = 0.5
    """Seconds until a child process is killed that should have ended.

    A task gets as long after the end of its context, and a child after its resource was
    destroyed."""
    kill_group: bool = True
    """Whether the programs that a child has started are killed with it.

    They are killed however the child ends: all processes in the group that it leads. A
    program that has left the group (`start_new_session=True`) lives on."""
    executable: str | os.PathLike[str] | None = None
    """The Python that children run. It must have this Python's version.

    It is needed where `sys.executable` is no Python: in frozen programs, and where
    Python is embedded. `None`: the one given to `multiprocessing.set_executable`, or
    else `sys.executable`."""

    environment: Mapping[str, str] | Callable[[Slot], Mapping[str, str]] | None = None
    """What the environment of a child has beside that of its parent.

    A function of the slot gives each child its own, as in
    `lambda slot: {"CUDA_VISIBLE_DEVICES": str(slot.index)}`. It is called in the
    parent, by the worker's thread. The child begins with this environment, so it is in
    force before anything is imported."""

    def __post_init__(self) -> None:
        checks.seconds("grace", self.grace)
        checks.flag("kill_group", self.kill_group)
        if not isinstance(self.executable, str | os.PathLike | None) or self.executable == "":
            raise ConfigError(
                f"executable must be None or the path of a Python, not {shown(self.executable)}"
            )

        given: Any = self.environment
        if callable(given):
            check_callable(
                "environment", given, 1, given="the slot", thorough=True, error=ConfigError
            )
        elif _is_mapping(given):
            _check_variables(given)
        elif given is not None:
            raise ConfigError(
                "environment must be None or a mapping of names to strings, "
                f"or a function of the slot that returns one, not {shown(given)}"
            )

    def open(self, settings: Settings, lost: Callable[[Any], None]) -> Backend:
        """A backend for one manager.

        Raises `ConfigError` when a hook that runs there cannot be pickled, when there
        is no Python for children, when this is no POSIX system, or when gevent or
        eventlet has made greenlets of threads. Also in a child process that imports the
        calling module for its parent."""
        if os.name != "posix":
            raise ConfigError("placement must be Threads() here: Processes() needs a POSIX system")

        # Imported here, as it would make the import of tasker a fifth slower.
        from tasker.placement.processes.proxy import ProcessProxy
        from tasker.placement.processes.python import python
        from tasker.placement.remote.backend import RemoteBackend

        program = python(
            None if self.executable is None else os.fspath(self.executable), beginning.EXECUTABLE
        )
        grace = checks.patience("grace", self.grace)
        return RemoteBackend(
            settings,
            lambda name, slot: ProcessProxy(
                name,
                grace,
                lost,
                python=program,
                group=self.kill_group,
                environment=self._environment_of(slot),
            ),
        )

    def _environment_of(self, slot: Slot) -> Mapping[str, str] | None:
        if not callable(self.environment):
            return self.environment

        made: object = self.environment(slot)
        refuse("environment", made)
        if not _is_mapping(made):
            raise ConfigError(
                f"environment must return a mapping of names to strings, not {shown(made)}"
            )

        return _check_variables(made)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _check_variables(variables: Mapping[Any, Any]) -> Mapping[str, str]:
    """Raise `ConfigError` for what cannot be a part of an environment.

    The error quotes only what is wrong: the other values may be secrets."""
    for name, value in variables.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigError(f"environment must map names to strings: {shown(name)} is no name")
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(
                f"environment must map names to strings: {name} cannot be {shown(value)}"
            )

    return variables
