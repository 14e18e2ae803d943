"""Bad input: a wrong value of any field or argument is refused at the call, clearly, and changes nothing.

One table of all fields and arguments, `ARGUMENTS`; a test compares it with the signatures, so none is forgotten. What
is special to one module (the calling rule, say) stands in the tests of that module."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import math
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import tasker
from tasker import (
    Config,
    ConfigError,
    Context,
    Processes,
    QueueFullError,
    Ray,
    TaskFuture,
    TaskManager,
    Threads,
    background,
    unhealthy_on,
    with_cancel,
    with_deadline,
    with_timeout,
    with_value,
)
from tasker.methods import OPTIONS
from tests.support.configs import HOOKS, Collector, config
from tests.support.configs import WRONG as WRONG_FIELDS
from tests.support.contexts import told_by
from tests.support.methods import TWELVE
from tests.support.recording import Log
from tests.support.waiting import PATIENCE, eventually
from tests.support.wrong_values import (
    AMOUNTS,
    ANYTHING,
    FLAGS,
    LIMITS,
    MAPPINGS,
    NOTHING,
    PARENTS,
    TASKS,
    UNPRINTABLE,
    AsynchronousCollector,
    AsynchronousLog,
    Bad,
    Incomparable,
    WrongArity,
    asynchronous_generator,
    callables,
    seconds,
    unprintable,
    waits,
    whole,
)

READABLE = 1000  # characters: the longest message that a person reads


# -- the table -------------------------------------------------------------------------------------------------------


class World:
    """A manager with one worker that is busy and one that is idle, a bounded queue, a pool, and a context."""

    def __init__(self, new_manager):
        self.gate, started = threading.Event(), threading.Event()
        self.manager = new_manager(worker_count=2, queue_size=3, resource_pool_size=1)
        self.running = self.manager.submit(
            lambda resource: started.set() or self.gate.wait(PATIENCE)
        )
        self.done = self.manager.submit(lambda resource: "done")
        self.done.result(PATIENCE)
        assert started.wait(PATIENCE)
        self.context = with_cancel(background())
        eventually(lambda: self.manager.stats().idle_workers == 1)
        self.calls = 0

    @functools.cached_property
    def closed(self):
        with TaskManager(config(worker_count=1)) as manager:
            return manager

    def callback(self, *_):
        self.calls += 1

    def unblock(self):
        self.gate.set()
        self.context.cancel()

    def seen(self):
        """All that a call could have changed."""
        engine, totals = self.manager._engine, self.manager.metrics()
        return {
            "stats": self.manager.stats(),
            "arrived": totals.total_tasks_arrived,
            "ended": totals.total_tasks_completed
            + totals.total_tasks_failed
            + totals.total_tasks_cancelled,
            "seats": engine.queue.room.used(),
            "entries": engine.queue.entries(),
            "closed": engine.queue.closed,
            "watchers": len(engine.watchers),
            "pool out": engine.pool.out,
            "waiting": list(self.running._waiting or ()),
            "asked": self.running._cancel_asked,
            "context": (
                self.context.err(),
                list(told_by(self.context).children),
                list(told_by(self.context).callbacks),
            ),
            "sleepers": list(told_by(self.context).sleepers),
            "callbacks called": self.calls,
        }


def task(resource):
    return "done"


@dataclasses.dataclass
class Argument:
    """A field or argument, calls that take a value for it, its wrong values and some of its right ones.

    `called`: how messages name it. `blocks`: a call that took a wrong value might not return by itself. `shows`: what
    the message must show."""

    name: str
    calls: list[Callable[[World, Any], object]]
    wrong: list[Bad]
    right: list[Any] = dataclasses.field(default_factory=list)
    called: str = ""
    blocks: bool = False
    shows: Any = NOTHING  # the value itself

    @property
    def takes_none(self) -> bool:
        return any(value is None for value in self.right)


ARGUMENTS: list[Argument] = []


def argument(name, *calls, wrong, right=(), called="", **more):
    ARGUMENTS.append(
        Argument(name, list(calls), wrong, list(right), called or name.rpartition(".")[2], **more)
    )


NUMBERS = [1, 10_000, sys.maxsize, 10**400]
TIMES = [PATIENCE, Fraction(61, 2), timedelta(days=1), timedelta.max, sys.maxsize, 1e308]
FOREVER = [*TIMES, math.inf, 10**400, None]
CONTEXTS = [None, background(), with_cancel(background())]

FIELDS = {  # beyond what test_config has: the extremes, and what cannot print itself
    "worker_count": (whole(1), NUMBERS[:-2]),
    "max_worker_count": (whole(1), [None, *NUMBERS[1:]]),
    "max_retries": (whole(0), [0, *NUMBERS]),
    "resource_pool_size": (whole(0), [None, 0, *NUMBERS]),
    "run_task_limit": (whole(1), [None, *NUMBERS]),
    "burst_task_threshold": (whole(0), [0, *NUMBERS]),
    "burst_worker_count": (whole(1), NUMBERS),
    "queue_size": (whole(0), [0, *NUMBERS]),
    "propagate_contextvars": (FLAGS, [True, False]),
    "placement": (unprintable("Threads(), Processes() or Ray()"), [Threads(), Processes(), Ray()]),
    "burst_interval": (seconds("0 or more", finite=True), [0, 0.0, *TIMES]),
    "create_timeout": (seconds("more than 0", finite=True), [1e-9, *TIMES]),
    **dict.fromkeys(
        ("timeout", "run_timeout"), ([*LIMITS, Bad(math.inf, "finite")], [None, *TIMES])
    ),
    "abandon_after": (seconds("more than 0", finite=True), [None, 1e-9, *TIMES]),
    "eject_after": (whole(1), [None, *NUMBERS[1:]]),
    "name": (unprintable("non-empty string"), ["a", "x" * 10_000, "two\nlines"]),
    "ctx": (unprintable("Context"), [background()]),
    "logger": ([*unprintable("debug"), Bad(AsynchronousLog(), "asyncio")], [Log()]),
    "collector": (
        [*unprintable("record_"), Bad(AsynchronousCollector(), "asyncio")],
        [None, Collector()],
    ),
    "on_create": (unprintable("no arguments"), [list, Incomparable]),
    "on_destroy": (unprintable("the resource"), [list.clear, len]),
    **{hook: (unprintable("the resource"), [None, bool, Incomparable()]) for hook in HOOKS},
    "check_health": (
        unprintable("the error, or with the error and the resource"),
        [bool, isinstance],
    ),
}
for _field, (_wrong, _right) in FIELDS.items():
    argument(
        f"Config.{_field}",
        lambda world, value, field=_field: (
            config(worker_count=3, **{field: value})
            if field != "worker_count"
            else config(worker_count=value)
        ),
        lambda world, value, field=_field: dataclasses.replace(config(), **{field: value}),
        wrong=[
            *_wrong,
            *(Bad(value, says) for field, value, says in WRONG_FIELDS if field == _field),
        ],
        right=_right,
    )
for _field, _least in {
    "check_after": "0 or more",
    "keepalive": "more than 0",
    "check_timeout": "more than 0",
}.items():
    argument(
        f"Config.{_field}",
        lambda world, value, field=_field: config(on_check=bool, **{field: value}),
        lambda world, value, field=_field: dataclasses.replace(
            config(on_check=bool), **{field: value}
        ),
        wrong=seconds(_least, finite=True),
        right=[None, 1e-9, *TIMES],
    )
argument(
    "Config.from_context_manager.factory",
    lambda world, value: Config.from_context_manager(value, worker_count=1),
    wrong=callables("no arguments", lambda a, b: a, lambda *, size: size, says="no arguments"),
    right=[threading.Lock],
)
argument(
    "Config.from_context_manager.worker_count",
    lambda world, value: Config.from_context_manager(threading.Lock, worker_count=value),
    wrong=[*whole(1), Bad(None, "whole number"), Bad(0, "whole number")],
    right=NUMBERS,
)
argument(
    "Config.from_context_manager.options",
    lambda world, value: Config.from_context_manager(
        threading.Lock, worker_count=1, max_retries=value
    ),
    wrong=whole(0),
    right=NUMBERS,
    called="max_retries",
)
argument(
    "unhealthy_on.exception_types",
    lambda world, value: unhealthy_on(value),
    lambda world, value: unhealthy_on(OSError, value),
    wrong=[
        *(
            Bad(value, "exception types")
            for value in (None, 1, "OSError", int, OSError(), (OSError, KeyError), [OSError])
        ),
        *unprintable("exception types"),
    ],
    right=[OSError, Exception, BaseException, KeyboardInterrupt],
    called="unhealthy_on",
)
argument(
    "Processes.grace",
    lambda world, value: Processes(grace=value),
    wrong=seconds("0 or more", finite=True),
    right=[0, 0.0, *TIMES],
)
argument(
    "Processes.kill_group",
    lambda world, value: Processes(kill_group=value),
    wrong=FLAGS,
    right=[True, False],
)
argument(
    "Processes.executable",
    lambda world, value: Processes(executable=value),
    wrong=[
        *(Bad(value, "path of a Python") for value in ("", 3, b"python", ["python"])),
        *unprintable("path"),
    ],
    right=[None, "/usr/bin/python3", Path("python3")],
)
argument(
    "Processes.environment",
    lambda world, value: Processes(environment=value),
    wrong=MAPPINGS,
    right=[None, {}, {"A": "1"}, lambda slot: {}],
)
argument(
    "Ray.grace",
    lambda world, value: Ray(grace=value),
    wrong=seconds("0 or more", finite=True),
    right=[0, 0.0, *TIMES],
)
argument(
    "Ray.address",
    lambda world, value: Ray(address=value),
    wrong=[
        *(Bad(value, "address of a cluster") for value in ("", 3, b"auto", ["auto"])),
        *unprintable("address"),
    ],
    right=[None, "auto", "10.0.0.1:6379"],
)
for _field in ("num_cpus", "num_gpus", "memory"):
    argument(
        f"Ray.{_field}",
        lambda world, value, field=_field: Ray(**{field: value}),
        wrong=AMOUNTS,
        right=[None, 0, 1, 0.5, Fraction(1, 2), sys.maxsize],
    )
argument(
    "Ray.resources",
    lambda world, value: Ray(resources=value),
    wrong=[
        *MAPPINGS,
        *(Bad(each, "map names to numbers") for each in ({3: 1}, {"disk": -1}, {"disk": "1"})),
    ],
    right=[None, {}, {"disk": 1, "special": 0.5}],
)
argument(
    "Ray.label_selector",
    lambda world, value: Ray(label_selector=value),
    wrong=MAPPINGS,
    right=[None, {"a": "b"}],
)
argument(
    "Ray.runtime_env",
    lambda world, value: Ray(runtime_env=value),
    wrong=MAPPINGS,
    right=[None, {"pip": ["x"]}, lambda slot: {}],
)
argument(
    "Ray.scheduling_strategy",  # at objects Ray looks, when a manager is made
    lambda world, value: Ray(scheduling_strategy=value),
    wrong=[Bad(value, "strategy of Ray's") for value in ("", "NEAR")],
    right=[None, "SPREAD", "DEFAULT", object()],
)
argument(
    "TaskManager.config",
    lambda world, value: TaskManager(value),
    wrong=[
        *(
            Bad(value, "must be a Config")
            for value in (None, {"worker_count": 1}, 1, "config", Config)
        ),
        *unprintable("must be a Config"),
    ],
)

# -- submitting

for _method in ("submit", "asubmit", *TWELVE, "run_task"):
    _extra = (
        (lambda world: (world.callback,)) if _method.endswith("callback") else (lambda world: ())
    )

    def _call(world, fn, *args, method=_method, extra=_extra, **options):
        done = getattr(world.manager, method)(fn, *extra(world), *args, **options)
        if inspect.iscoroutine(done):
            return asyncio.run(done)
        return done.result(PATIENCE) if isinstance(done, TaskFuture) else done

    argument(
        f"TaskManager.{_method}.fn",
        lambda world, value, call=_call: call(world, value),
        wrong=TASKS,
        right=[task, lambda ctx, resource: 0, lambda resource, a=1: 0, type],
        called="task",
    )
    argument(
        f"TaskManager.{_method}.args",
        lambda world, value, call=_call: call(world, task, *value),
        wrong=[Bad(tuple(range(n)), f"the resource and {n} more argument") for n in (1, 2, 9)],
        right=[()],
        called="argument",
        shows=task,
    )
    if _method != "run_task":
        for _time in ("timeout", "run_timeout"):
            argument(
                f"TaskManager.{_method}.{_time}",
                lambda world, value, call=_call, time=_time: call(world, task, **{time: value}),
                wrong=LIMITS,
                right=FOREVER,
            )
        argument(
            f"TaskManager.{_method}.ctx",
            lambda world, value, call=_call: call(world, task, ctx=value),
            wrong=PARENTS[1:],
            right=CONTEXTS,
        )
    argument(
        f"TaskManager.{_method}.queue_timeout",
        lambda world, value, call=_call: call(world, task, queue_timeout=value),
        wrong=seconds("0 or more"),
        right=[0, 0.0, timedelta(0), *FOREVER],
    )
    if _method in ("submit", "asubmit"):
        for _flag in ("priority", "once"):
            argument(
                f"TaskManager.{_method}.{_flag}",
                lambda world, value, call=_call, flag=_flag: call(world, task, **{flag: value}),
                lambda world, value, call=_call, flag=_flag: call(
                    world, task, timeout=PATIENCE, **{flag: value}
                ),
                wrong=FLAGS,
                right=[True, False],
            )
    if _method.endswith("callback"):
        argument(
            f"TaskManager.{_method}.callback",
            lambda world, value, method=_method: getattr(world.manager, method)(task, value),
            wrong=callables(
                "result, error", lambda: 0, lambda a: 0, lambda a, b, c: 0, lambda a, b, *, c: 0
            ),
            right=[lambda result, error: 0, lambda *both: 0, lambda result, error, more=0: 0, max],
        )

# -- mapping


def map_task(resource, item):
    return item


def mapped(world, *arguments, **options):
    return list(world.manager.map(*arguments, **options))


def amapped(world, *arguments, **options):
    results = world.manager.amap(*arguments, **options)  # which checks all at once

    async def collect():
        return [result async for result in results]

    return asyncio.run(collect())


for _method, _map in (("map", mapped), ("amap", amapped)):
    argument(
        f"TaskManager.{_method}.fn",
        lambda world, value, map=_map: map(world, value, range(2)),
        lambda world, value, map=_map: map(world, value, range(2), chunksize=2),
        wrong=[
            *callables(
                "cannot be called",
                *(lambda: 0, lambda r: 0, lambda c, r, i, a: 0, lambda r, i, *, key: 0),
                says="callable",
            ),
            Bad(WrongArity(), "cannot be called"),
        ],
        right=[
            map_task,
            lambda ctx, resource, item: 0,
            lambda resource, item, a=1: 0,
            lambda *all: 0,
            functools.partial(map_task),
        ],
        called="task",
    )
    argument(
        f"TaskManager.{_method}.items",
        lambda world, value, map=_map: map(world, map_task, value),
        lambda world, value, map=_map: map(world, map_task, value, chunksize=2),
        wrong=[
            *(
                Bad(value, "must be iterable")
                for value in (None, 5, 0.5, list, len, asynchronous_generator, object())
            ),
            *unprintable("must be iterable"),
        ],
        right=[[], "ab", {1: 2}, range(3), iter("ab")],
    )
    for _time in ("timeout", "run_timeout"):
        argument(
            f"TaskManager.{_method}.{_time}",
            lambda world, value, map=_map, time=_time: map(
                world, map_task, range(2), **{time: value}
            ),
            lambda world, value, map=_map, time=_time: map(
                world, map_task, range(2), chunksize=2, **{time: value}
            ),
            wrong=LIMITS,
            right=FOREVER,
        )
    argument(
        f"TaskManager.{_method}.ctx",
        lambda world, value, map=_map: map(world, map_task, range(2), ctx=value),
        wrong=PARENTS[1:],
        right=CONTEXTS,
    )
    for _number in ("max_in_flight", "chunksize"):
        argument(
            f"TaskManager.{_method}.{_number}",
            lambda world, value, map=_map, name=_number: map(
                world, map_task, range(2), **{name: value}
            ),
            wrong=[*whole(1), Bad(0, "1 or more")],
            right=NUMBERS,
        )
    for _flag in ("ordered", "return_exceptions", "priority", "once"):
        argument(
            f"TaskManager.{_method}.{_flag}",
            lambda world, value, map=_map, flag=_flag: map(
                world, map_task, range(2), **{flag: value}
            ),
            wrong=FLAGS,
            right=[True, False],
        )

for _option, _wrong, _right in (
    ("timeout", LIMITS, FOREVER),
    ("run_timeout", LIMITS, FOREVER),
    ("priority", FLAGS, [True, False]),
    ("once", FLAGS, [True, False]),
    ("ctx", PARENTS[1:], CONTEXTS),
):
    argument(
        f"TaskManager.executor.{_option}",
        lambda world, value, option=_option: world.manager.executor(**{option: value}),
        wrong=_wrong,
        right=_right,
    )

# -- waiting, closing

for _method in ("join", "wait_ready"):
    argument(
        f"TaskManager.{_method}.timeout",
        lambda world, value, method=_method: getattr(world.manager, method)(value),
        lambda world, value, method=_method: getattr(world.closed, method)(timeout=value),
        wrong=seconds("0 or more"),
        blocks=True,
    )
argument(
    "TaskManager.stop.timeout",
    lambda world, value: world.manager.stop(value),
    lambda world, value: world.closed.stop(value),
    wrong=seconds("0 or more"),
    blocks=True,
)
argument(
    "TaskManager.kill.timeout",
    lambda world, value: world.manager.kill(value),
    lambda world, value: world.closed.kill(value),
    wrong=[*seconds("0 or more", finite=True), Bad(None, "0 or more")],
    blocks=True,
)

# -- futures

for _method in ("result", "exception"):
    argument(
        f"TaskFuture.{_method}.timeout",
        lambda world, value, method=_method: getattr(world.running, method)(value),
        wrong=waits(),
        blocks=True,
    )
    argument(
        f"TaskFuture.{_method}.timeout",
        lambda world, value, method=_method: getattr(world.done, method)(timeout=value),
        wrong=waits(),
        right=[0, -1, -0.1, -math.inf, *FOREVER],
    )
argument(
    "TaskFuture.add_done_callback.fn",
    lambda world, value: world.running.add_done_callback(value),
    lambda world, value: world.done.add_done_callback(value),
    wrong=callables("the future", lambda: 0, lambda a, b: 0, lambda a, *, b: 0, says="the future"),
    right=[len, lambda future: 0, lambda *all: 0, lambda future, more=1: 0],
)
for _name in ("set_result.result", "set_exception.exception"):
    argument(f"TaskFuture.{_name}", wrong=ANYTHING)  # refused whatever it is, see test_future

# -- contexts

argument(
    "with_cancel.parent",
    lambda world, value: with_cancel(value),
    wrong=PARENTS,
    right=[background()],
)
argument(
    "with_timeout.parent",
    lambda world, value: with_timeout(value, 1),
    wrong=PARENTS,
    right=[background()],
)
argument(
    "with_deadline.parent",
    lambda world, value: with_deadline(value, 1e9),
    wrong=PARENTS,
    right=[background()],
)
argument(
    "with_value.parent",
    lambda world, value: with_value(value, "key", 1),
    wrong=PARENTS,
    right=[background()],
)
argument(
    "with_timeout.seconds",
    lambda world, value: with_timeout(world.context, value).cancel(),
    wrong=[*seconds("0 or more"), Bad(None, "0 or more")],
    right=[0, *FOREVER[:-1]],
)
argument(
    "with_deadline.monotonic",
    lambda world, value: with_deadline(world.context, value).cancel(),
    wrong=[
        *(
            Bad(value, "a time of time.monotonic()")
            for value in (
                None,
                "1",
                b"1",
                True,
                False,
                [1],
                1j,
                math.nan,
                Decimal(1),
                timedelta(1),
                len,
            )
        ),
        *unprintable("a time of time.monotonic()"),
    ],
    right=[0, -1, -1e308, -math.inf, sys.maxsize, 1e308, math.inf],
)
argument(
    "with_value.key",
    lambda world, value: with_value(world.context, value, 1).cancel(),
    wrong=[Bad(None, "must not be")],
    right=[0, "", [], UNPRINTABLE, Incomparable()],
)
argument(
    "with_value.value",
    lambda world, value: with_value(world.context, 1, value).cancel(),
    wrong=ANYTHING,
    right=[None],
)
argument(
    "Context.value.key",
    lambda world, value: world.context.value(value),
    wrong=ANYTHING,
    right=[None, [], UNPRINTABLE],
)
argument(
    "Context.wait.timeout",
    lambda world, value: world.context.wait(value),
    wrong=seconds("0 or more"),
    right=[0, 1e-9],
    blocks=True,
)
argument(
    "Context.on_done.callback",
    lambda world, value: world.context.on_done(value),
    lambda world, value: background().on_done(value),
    wrong=callables("no arguments", lambda a: 0, lambda *, a: 0, says="no arguments"),
    right=[lambda: 0, lambda *all: 0, lambda more=1: 0],
)
argument(
    "Context.cancel.cause",
    lambda world, value: world.context.cancel(value),
    wrong=[
        *(
            Bad(value, "an exception or None")
            for value in (0, 1, "why", OSError, [OSError()], True)
        ),
        *unprintable("an exception or None"),
    ],
    right=[None, OSError(), KeyboardInterrupt()],
)


# -- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(new_manager, factory):
    factory.any_thread = True  # those of the pool
    world = World(new_manager)
    yield world
    world.unblock()


def parameters():
    """Every field of what is configured, and every parameter of what is public and is called by users."""
    for settings in (Config, Processes, Ray):
        yield from (f"{settings.__name__}.{field.name}" for field in dataclasses.fields(settings))
    yield from (f"TaskManager.{name}" for name in inspect.signature(TaskManager).parameters)
    functions = {"Config.from_context_manager": Config.from_context_manager}
    functions |= {
        name: getattr(tasker, name)
        for name in tasker.__all__
        if inspect.isfunction(getattr(tasker, name))
    }
    for owner in (TaskManager, TaskFuture, Context):
        methods = inspect.getmembers(owner, inspect.isfunction)
        functions |= {
            f"{owner.__name__}.{name}": method
            for name, method in methods
            if not name.startswith("_")
        }
    for name, function in functions.items():
        for each in inspect.signature(function).parameters:
            if (name, each) == ("TaskManager.submit", "options"):
                yield from (f"{name}.{option}" for option in OPTIONS)
            elif each != "self":
                yield f"{name}.{each}"


@pytest.mark.slow
def test_every_field_and_every_argument_of_what_is_public_is_in_the_table():
    assert {argument.name for argument in ARGUMENTS} == set(parameters())


def fault(argument: Argument, call: Callable[[], object], bad: Bad) -> str | None:
    """What is wrong with how a call refuses a wrong value; `None` if nothing is."""
    try:
        call()
    except (ConfigError, TypeError) as error:
        message = str(error)
        if type(error) not in (ConfigError, TypeError):
            return f"raises {type(error).__name__}"
        for part in (
            argument.called,
            looks(bad.value if argument.shows is NOTHING else argument.shows),
            bad.says,
            # what must not be is a part of the value
            "None" if argument.takes_none and "must not" not in message else "",
        ):
            if part not in message:
                return f"does not say {part!r} but {message[:READABLE]!r}"
        return None if len(message) <= READABLE else f"says so in {len(message)} characters"
    except BaseException as error:
        return f"raises {type(error).__name__}"
    return "is taken"


def looks(value: object) -> str:
    try:
        return repr(value)[:100]
    except Exception:
        return type(value).__name__


def faults(world: World, argument: Argument) -> list[str]:
    found = []
    before = world.seen()
    for call in argument.calls:
        for bad in argument.wrong:
            timer = threading.Timer(PATIENCE / 4, world.unblock) if argument.blocks else None
            if timer:
                timer.start()
            said = fault(argument, lambda call=call, bad=bad: call(world, bad.value), bad)
            if timer:
                timer.cancel()
                timer.join()
            if (after := world.seen()) != before:
                changed = {
                    name: (before[name], after[name])
                    for name in before
                    if before[name] != after[name]
                }
                said, before = f"{said or 'is refused'} and changes {changed}", after
            if said:
                found.append(f"{argument.name}={looks(bad.value)} {said}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "argument", [pytest.param(each, id=each.name) for each in ARGUMENTS if each.wrong]
)
def test_a_wrong_value_is_refused_by_name_and_changes_nothing(world, argument):
    assert faults(world, argument) == []
    # and all that is there still works: every seat of the queue is free, the worker and the pool are
    manager = world.manager
    world.gate.set()
    assert world.running.result(PATIENCE) is True
    occupied, started = threading.Event(), threading.Barrier(3)
    occupying = [
        manager.submit(lambda resource: started.wait(PATIENCE) >= 0 and occupied.wait(PATIENCE))
        for _ in range(2)
    ]
    started.wait(PATIENCE)
    queued = [manager.submit(task, queue_timeout=0) for _ in range(3)]
    with pytest.raises(QueueFullError):
        manager.submit(task, queue_timeout=0)
    occupied.set()
    assert [future.result(PATIENCE) for future in (*queued, *occupying)] == ["done"] * 3 + [
        True
    ] * 2
    assert manager.run_task(task) == "done"


@pytest.mark.slow
@pytest.mark.parametrize(
    "argument", [pytest.param(each, id=each.name) for each in ARGUMENTS if each.right]
)
def test_a_right_value_is_taken_however_extreme(world, argument):
    for call in argument.calls:
        for value in argument.right:
            call(world, value)
            eventually(lambda: not world.manager._engine.queue.entries())
    world.unblock()
    assert world.manager.stop(PATIENCE).drained


WAITS = {  # what waits for so long, how to see that it does, and what ends it with which result
    "result": (lambda w, t: w.running.result(t), lambda w: w.running._waiting, True),
    "exception": (lambda w, t: w.running.exception(t), lambda w: w.running._waiting, None),
    "wait": (lambda w, t: w.context.wait(t), lambda w: told_by(w.context).sleepers, True),
    "join": (lambda w, t: w.manager.join(t), lambda w: w.manager._engine.watchers, True),
    "queue_timeout": (
        lambda w, t: w.manager.submit(task, queue_timeout=t).result(PATIENCE),
        lambda w: w.manager._engine.queue.room._line,
        "done",
    ),
    "stop": (
        lambda w, t: w.manager.stop(t).drained,
        lambda w: w.manager._engine.queue.closed,
        True,
    ),
}


@pytest.mark.parametrize("value", [sys.maxsize, 1e308, math.inf, 10**400, timedelta.max], ids=repr)
@pytest.mark.parametrize("name", WAITS)
def test_a_huge_time_is_waited_for_like_any_other(new_manager, factory, name, value):
    factory.any_thread = True
    wait, waits, result = WAITS[name]
    world = World(new_manager)
    if name == "queue_timeout":
        world.manager.submit(lambda resource: world.gate.wait(PATIENCE))
        eventually(lambda: world.manager.stats().running_tasks == 2)
        for _ in range(3):
            world.manager.submit(task)

    def unblock():
        eventually(lambda: waits(world))
        world.unblock()

    thread = threading.Thread(target=unblock)
    thread.start()
    assert wait(world, value) == result
    thread.join(PATIENCE)


def test_huge_deadlines_are_no_reason_to_wake_up_early(new_manager):
    for make_one in (
        lambda: with_timeout(background(), 1e308),
        lambda: with_deadline(background(), 1e308),
        lambda: with_timeout(background(), sys.maxsize),
    ):
        with make_one() as context:
            assert not context.cancelled()
            assert context.remaining() > 1e17
            assert "live" in repr(context)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(10**400, id="future"),
        pytest.param(-(10**400), id="past"),
    ],
)
def test_a_deadline_too_large_for_a_float_is_infinitely_far_away(value):
    context = with_deadline(background(), value)
    assert context.cancelled() == (value < 0)
    assert context.deadline() == (None if value > 0 else -math.inf)


def test_keywords_that_do_not_exist_are_refused_by_name(world):
    for name in ("submit", *TWELVE):
        extra = (world.callback,) if name.endswith("callback") else ()
        before = world.seen()
        with pytest.raises(TypeError, match="tiemout"):
            getattr(world.manager, name)(task, *extra, tiemout=1)
        assert world.seen() == before
    with pytest.raises(TypeError, match="tiemout"):
        config(tiemout=1)


@pytest.mark.parametrize("arguments", [(), (None,), (background(),), ("x",)], ids=repr)
def test_a_context_is_made_by_its_functions_alone(arguments):
    """One made from the class would be attached to nothing and never end with its parent."""
    with pytest.raises(TypeError):
        Context(*arguments)
    with pytest.raises(TypeError, match="with_cancel"):
        Context()


def test_a_task_that_cannot_be_compared_is_a_task(new_manager):
    assert new_manager().submit(Incomparable()).result(PATIENCE).alive
