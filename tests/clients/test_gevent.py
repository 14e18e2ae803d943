"""gevent: threads become greenlets, before tasker is imported or after it."""

from __future__ import annotations

import pytest

from tests.clients import greenlets
from tests.clients.programs import run

pytest.importorskip("gevent", reason="needs gevent (extra `clients`)")

EARLY = """
    from gevent import monkey
    monkey.patch_all()
    import tasker
"""
LATE = """
    import tasker
    from gevent import monkey
    monkey.patch_all()
"""
SOON = """
    import gevent

    def soon(fn):
        gevent.spawn_later(0.01, fn)
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
def test_a_thread_of_the_system_submits_to_greenlets(patch):
    run(
        patch,
        greenlets.BEGIN,
        SOON,
        """
        with TaskManager(config()) as manager:
            for _ in range(100):
                assert gevent.get_hub().threadpool.apply(lambda: manager.queue_task(lambda resource: 1)) == 1
        """,
    )


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
    assert "gevent has made greenlets of threads" in run(
        patch, greenlets.BEGIN, SOON, greenlets.ELSEWHERE
    )


def test_processes_work_where_gevent_leaves_threads_and_programs_alone():
    run(
        """
        from gevent import monkey
        monkey.patch_all(thread=False, subprocess=False)
        from tasker import *
        with TaskManager(Config(on_create=list, on_destroy=len, worker_count=1, placement=Processes())) as manager:
            assert manager.queue_task(len) == 0
        """
    )
