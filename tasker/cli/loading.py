"""Finds what the command line names: functions, factories, exception types."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

from tasker._base.callables import GENERATOR, check_callable, deferred_kind, signature_of
from tasker._sync.guarded_logger import last_line_of
from tasker._tasks.hooks import check_maker
from tasker._tasks.signature import wants_context
from tasker.cli.arguments import UsageError
from tasker.errors import shown
from tasker.slot import Slot

__all__ = [
    "add_current_folder",
    "exception_type",
    "function",
    "one_line",
    "resource_factory",
    "where",
]

# Errors in these files are not the user's: the import system, and tasker.
_NOT_THERE = ("<frozen ", os.path.join(os.path.dirname(os.path.dirname(__file__)), ""))


def add_current_folder() -> None:
    """Have modules looked for in the current folder first, as `python -m` does."""
    folder = os.getcwd()
    if sys.path[:1] not in ([folder], [""]):
        sys.path.insert(0, folder)


def function(name: str, *, with_resource: bool) -> tuple[Callable[..., Any], bool]:
    """The function called `name`, and whether it wants a context first.

    Raises `UsageError`."""
    fn: Any = _load(name, "MODULE:FUNCTION")
    if not callable(fn):
        raise UsageError(f"{name} is {_shown(fn)}, no function")

    kind = deferred_kind(fn)
    if kind == GENERATOR:
        raise UsageError(
            f"{name} is a generator function, which has no result: give a function that returns "
            "a list"
        )
    if kind:
        raise UsageError(
            f"{name} is {kind}, and workers are threads: give a function that calls "
            f"asyncio.run({name.rpartition(':')[2]}(...))"
        )

    try:
        if with_resource:
            return fn, wants_context(fn, 2)
        check_callable(name, fn, 1, thorough=True)
    except TypeError:
        wanted = "(resource, item) or (context, resource, item)" if with_resource else "(item)"
        hint = "" if with_resource else ", and with a resource first only if there is a --resource"
        raise UsageError(
            f"{name} must be callable with {wanted}{hint}; it takes {_signature(fn)}"
        ) from None

    return fn, False


def resource_factory(name: str) -> tuple[Callable[[Slot], AbstractContextManager[Any]], bool]:
    """The factory called `name`, as one of context managers, and whether it wants a
    slot.

    Each gives the resource and frees it. Many resources are context managers whose exit
    does not close them (`sqlite3.Connection`), so close() comes first. Raises
    `UsageError`."""
    factory: Any = _load(name, "MODULE:FACTORY")
    if inspect.isgeneratorfunction(factory):
        factory = contextlib.contextmanager(factory)
    try:
        wants_slot = check_maker(name, factory)
    except TypeError as error:
        raise UsageError(one_line(str(error))) from None

    @contextlib.contextmanager
    def opened(slot: Slot) -> Generator[Any]:
        made: Any = factory(slot) if wants_slot else factory()
        if callable(getattr(made, "close", None)):
            with contextlib.closing(made):
                yield made
        elif hasattr(made, "__enter__") and hasattr(made, "__exit__"):
            with made as resource:
                yield resource
        else:
            yield made

    return opened, wants_slot


def exception_type(name: str) -> type[BaseException]:
    """The exception type called `name`, a builtin one if the name has no colon.

    Raises `UsageError`."""
    found: Any = _load(name, "MODULE:EXCEPTION") if ":" in name else getattr(builtins, name, None)
    if found is None:
        raise UsageError(
            f"--unhealthy: there is no builtin exception {name!r}; others are MODULE:EXCEPTION"
        )

    text = _shown(found)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise UsageError(f"--unhealthy: {name} is {text}, no exception type")

    return found


def one_line(text: str) -> str:
    """The lines of a text, joined into one."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def where(error: BaseException) -> str:
    """FILE:LINE at which an exception was raised, "" if that is not known.

    FILE is relative to the current folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"

    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THERE)
    ]
    return f"{_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _short(path: str) -> str:
    return path.removeprefix(os.path.join(os.getcwd(), ""))


def _load(name: str, form: str) -> object:
    module_name, colon, attributes = name.partition(":")
    if not (module_name and colon and attributes):
        raise UsageError(f"{name!r} must be {form}, for example json:dumps")

    found = _import(module_name)
    at = module_name
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise UsageError(f"{at} has no {attribute!r}") from None
        at = f"{at}.{attribute}" if ":" in at else f"{at}:{attribute}"

    return found


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        # The import runs code of the user's, so any error may come.
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and f"{name}.".startswith(f"{error.name}.")
        ):
            raise UsageError(
                f"there is no module {error.name!r}, in the current folder or elsewhere"
            ) from None

        place = where(error)
        at = f" ({place})" if place else ""
        raise UsageError(
            f"importing {name!r} failed: {one_line(last_line_of(error))}{at}"
        ) from None


def _shown(value: object) -> str:
    return one_line(shown(value))


def _signature(fn: Callable[..., Any]) -> str:
    # The first shows the annotations, but fails if one cannot be evaluated.
    for read in (inspect.signature, signature_of):
        with contextlib.suppress(Exception):
            return str(read(fn))

    return "something else"
