"""Checks of arguments that several modules take.

Each error names the field, the value and what is allowed.
"""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard

from tasker.errors import ConfigError, shown

if TYPE_CHECKING:
    from numbers import Real

__all__ = ["flag", "is_amount", "patience", "seconds", "whole_number"]


def seconds(
    field: str,
    value: object,
    *,
    zero: bool = True,
    infinite: bool = False,
    or_none: bool = False,
) -> float:
    """`value` as float seconds, from a real number or a `timedelta`.

    Raises `ConfigError` for another type (a bool is no number here), NaN, a negative
    value, zero unless `zero`, and infinity unless `infinite`. With `or_none` the error
    says that `None` is allowed; the caller has looked for that."""
    allowed = (
        f"{'None, ' if or_none else ''}a number of seconds or a timedelta, "
        f"{'0 or more' if zero else 'more than 0'}"
    )
    given = _in_seconds(value)
    if not _is_real(given):
        raise ConfigError(f"{field} must be {allowed}, not {shown(value)}")

    try:
        number = float(given)
    except OverflowError:
        number = -math.inf if given < 0 else math.inf
    except Exception:
        # A type of the user's that is no number after all.
        raise ConfigError(f"{field} must be {allowed}, not {shown(value)}") from None

    if (
        math.isnan(number)
        or number < 0
        or (number == 0 and not zero)
        or (math.isinf(number) and not infinite)
    ):
        raise ConfigError(
            f"{field} must be {allowed}{'' if infinite else ', finite'}, not {shown(value)}"
        )

    return number


def limit(field: str, value: object, *, zero: bool = True) -> float | None:
    """Seconds, as by `seconds`; `None` and infinity both mean no limit."""
    if value is None:
        return None
    number = seconds(field, value, zero=zero, infinite=True, or_none=True)
    return None if number == math.inf else number


def patience(field: str, value: object, *, negative: bool = False) -> float:
    """How many seconds to wait for a lock; -1 for `None` (no limit).

    They are at most as many as a lock takes. Raises as `seconds` does.

    `negative`: as in the standard library, a negative number means not to wait."""
    if value is None:
        return -1.0

    if negative and _is_real(value) and value < 0:
        return 0.0

    return min(seconds(field, value, infinite=True, or_none=True), threading.TIMEOUT_MAX)


def whole_number(field: str, value: object, *, least: int, or_none: bool = False) -> int:
    """`value`, an int of at least `least`.

    Raises `ConfigError` otherwise (a bool is no number here). `or_none`: as for
    `seconds`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{field} must be {'None or ' if or_none else ''}a whole number, {least} or more, "
            f"not {shown(value)}"
        )
    return value


def is_amount(value: object) -> bool:
    """Whether `value` is a finite number of at least 0 (a bool is no number here)."""
    try:
        return _is_real(value) and 0 <= float(value) < math.inf
    except Exception:
        # Too large, or a type of the user's that is no number after all.
        return False


def flag(field: str, value: object) -> bool:
    """`value`, a bool.

    Raises `ConfigError` otherwise: as a condition, the string "no" is true."""
    if not isinstance(value, bool):
        raise ConfigError(f"{field} must be True or False, not {shown(value)}")
    return value


def _in_seconds(value: object) -> Any:
    """The seconds of a `timedelta`; anything else as it is."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def _is_real(value: object) -> TypeGuard[Real]:
    """Whether `value` is a real number (a bool is none here)."""
    if isinstance(value, (float, int)):
        return not isinstance(value, bool)

    from numbers import Real

    return isinstance(value, Real)
