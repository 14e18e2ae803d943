"""Wrong values for arguments of each kind, and what a refusal of them says."""

from __future__ import annotations

import dataclasses
import functools
import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from unittest.mock import AsyncMock

from tasker import Context, background
from tests.support.configs import Collector
from tests.support.recording import Log


@dataclasses.dataclass(frozen=True)
class Bad:
    """A wrong value, and what the message must say."""

    value: Any
    says: str


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no repr")


class Verbose:
    def __repr__(self):
        return "verbose " * 1_000_000


class NoNumber(float):
    def __float__(self):
        raise ZeroDivisionError


class Incomparable:
    """Callable with one argument, but may not be looked at too closely."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other):
        raise ZeroDivisionError

    def __call__(self, argument):
        return argument


async def coroutine(*_): ...


def generator(*_):
    yield


class CallsGenerator:
    def __call__(self, *_):
        yield


async def asynchronous_generator(*_):
    yield


class CallsCoroutine:
    async def __call__(self, *_): ...


class AsynchronousCollector(Collector):
    async def record_failure(self, stamps): ...


class AsynchronousLog(Log):
    async def error(self, msg, *args): ...


class WrongArity(Unprintable):
    def __call__(self, a, b, c, d, e): ...


UNPRINTABLE, VERBOSE = Unprintable(), Verbose()
TOO_LONG = -(10**5000)  # repr() refuses to print so many digits


def unprintable(says: str) -> list[Bad]:
    return [Bad(value, says) for value in (UNPRINTABLE, VERBOSE)]


def whole(least: int) -> list[Bad]:
    says = f"a whole number, {least} or more"
    values = (
        "3",
        b"3",
        2.0,
        2.5,
        math.nan,
        math.inf,
        Decimal(3),
        Fraction(3),
        True,
        False,
        [3],
        -1,
        -(10**400),
    )
    return [*(Bad(value, says) for value in values), *unprintable(says), Bad(TOO_LONG, says)]


def waits() -> list[Bad]:
    """Seconds as the standard library takes them: of negative numbers it says that their time is over."""
    return [
        bad
        for bad in seconds("0 or more")
        if bad.value not in (-1, -0.1, -math.inf, -(10**400), TOO_LONG)
    ]


def seconds(least: str, *, finite: bool = False) -> list[Bad]:
    says = f"a number of seconds or a timedelta, {least}"
    values = (
        "1",
        b"1",
        True,
        False,
        [1],
        {},
        1j,
        Decimal(1),
        len,
        -1,
        -0.1,
        -math.inf,
        math.nan,
        timedelta(seconds=-1),
    )
    return [
        *(Bad(value, says) for value in values),
        *(
            Bad(value, says)
            for value in (-(10**400), Fraction(-(10**400)), TOO_LONG, NoNumber(1.0))
        ),
        *unprintable(says),
        *(Bad(value, "finite") for value in (math.inf, 10**400) if finite),
    ]


GENERATORS = (generator, functools.partial(generator), CallsGenerator())


ASYNCHRONOUS = (
    coroutine,
    asynchronous_generator,
    functools.partial(coroutine),
    AsyncMock(),
    CallsCoroutine(),
)


def callables(arguments: str, *wrong_arity: object, says: str = "") -> list[Bad]:
    return [
        *(Bad(value, says) for value in (None, 3, "name", [], b"name")),
        *unprintable(says),
        *(Bad(value, arguments) for value in wrong_arity),
        *(Bad(value, "asyncio") for value in ASYNCHRONOUS),
        *(Bad(value, "generator function") for value in GENERATORS),
    ]


TASKS = [
    *callables(
        "cannot be called", lambda: 0, lambda c, r, a: 0, lambda r, *, key: 0, says="callable"
    ),
    Bad(WrongArity(), "cannot be called"),
]


FLAGS = [
    *(Bad(value, "True or False") for value in ("no", "", 0, 1, None, [], 0.5, math.nan)),
    *unprintable("True or False"),
]


# a limit of time
LIMITS = [
    *seconds("more than 0"),
    *(Bad(value, "more than 0") for value in (0, 0.0, timedelta(0))),
]


AMOUNTS = [
    *(
        Bad(value, "a number, 0 or more")
        for value in ("1", b"1", True, [1], {}, 1j, Decimal(1), len, -1, -0.1)
    ),
    *(
        Bad(value, "a number, 0 or more")
        for value in (math.nan, math.inf, 10**400, TOO_LONG, NoNumber(1.0))
    ),
    *unprintable("a number, 0 or more"),
]


MAPPINGS = [
    *(Bad(value, "must be None or a mapping") for value in (3, "a", ["a"], {"a"}, [("a", 1)])),
    *unprintable("must be None or a mapping"),
]


PARENTS = [
    *(Bad(value, "a Context") for value in (None, 0, "background", background, Context)),
    *unprintable("Context"),
]


ANYTHING: list[Bad] = []  # any value is right


NOTHING = object()
