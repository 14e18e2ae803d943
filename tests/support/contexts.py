"""What contexts hold."""

from __future__ import annotations

import signal
import time

import pytest

import tasker._sync.timer
import tasker._tasks.context
from tasker import with_cancel, with_deadline, with_timeout, with_value
from tasker._tasks.context import _Followers
from tests.support.waiting import eventually


def told_by(ctx):
    """Whom it will tell of its end."""
    return ctx._followers or _Followers()


MAKERS = [
    pytest.param(with_cancel, id="with_cancel"),
    pytest.param(lambda parent: with_timeout(parent, 3600), id="with_timeout"),
    pytest.param(lambda parent: with_deadline(parent, time.monotonic() + 3600), id="with_deadline"),
    pytest.param(lambda parent: with_value(parent, "key", "value"), id="with_value"),
]
needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")


def pass_deadline(ctx):
    """Have the timer thread find that the deadline has passed: now, and not before all is prepared for it."""
    tasker._sync.timer.at(0.0, ctx._deadline_passed)


def live_entries():
    timer = tasker._sync.timer._timer
    eventually(lambda: not timer._incoming or timer._wakes_at > 0)
    return [entry for _, _, entry in [*timer._incoming, *timer._heap] if entry.is_set()]
