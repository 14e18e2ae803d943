"""eventlet: threads become greenlets, before tasker is imported or after it."""

from __future__ import annotations

import importlib.util

import pytest

from tests.clients import greenlets
from tests.clients.programs import run

if (
    importlib.util.find_spec("eventlet") is None
):  # not imported here, where it would warn of its age
    pytest.skip("needs eventlet (extra `clients`)", allow_module_level=True)

PATCH = """
    import contextlib, io
    import eventlet
    with contextlib.redirect_stderr(io.StringIO()):  # it says of which locks of others it does not know
        eventlet.monkey_patch()
"""
EARLY = f"{PATCH}\n    import tasker"
LATE = f"    import tasker\n{PATCH}"
SOON = """
    def soon(fn):
        eventlet.spawn_after(0.01, fn)
"""

patched = pytest.mark.parametrize(
    "patch", [pytest.param(EARLY, id="early"), pytest.param(LATE, id="late")]
)


@patched
def test_whoever_waits_for_a_manager_lets_other_greenlets_run(patch):
    run(patch, greenlets.BEGIN, SOON, greenlets.MANAGER)


@patched
def test_greenlets_share_what_run_task_keeps_and_have_their_turns(patch):
    run(patch, greenlets.BEGIN, SOON, greenlets.DIRECT)


@patched
def test_the_drop_in_works_as_the_standard_pool_does(patch):
    run(patch, greenlets.BEGIN, SOON, greenlets.DROP_IN)


@patched
def test_timeouts_pass_and_what_does_not_listen_is_given_up(patch):
    run(patch, greenlets.BEGIN, SOON, greenlets.LIMITS)


def test_a_timer_of_before_does_not_keep_callbacks_from_running():
    run(greenlets.TIMER, LATE, greenlets.BEGIN, SOON, greenlets.CALLBACKS)


@patched
def test_what_is_left_open_closes_as_the_program_ends(patch):
    assert run(patch, greenlets.BEGIN, SOON, greenlets.LEFT_OPEN) == 18 * "."


@patched
def test_processes_are_refused_as_greenlets_would_wait_for_one_in_vain(patch):
    assert "eventlet has made greenlets of threads" in run(
        patch, greenlets.BEGIN, SOON, greenlets.ELSEWHERE
    )
