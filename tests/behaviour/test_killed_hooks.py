"""`kill()` meets a hook that runs: that is aborted, and gets no more time than a running task."""

from __future__ import annotations

import threading

import pytest

import tasker._pool.lifecycle
from tests.support.errors import Sick
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually


class Stuck:
    """A hook that does not return until it is let go."""

    def __init__(self):
        self.inside, self.gate = threading.Event(), threading.Event()
        self.aborts = []

    def __call__(self, resource):
        self.inside.set()
        assert self.gate.wait(PATIENCE)

    def await_inside(self):
        assert self.inside.wait(PATIENCE)

    def abort(self, resource):
        self.aborts.append(resource)
        self.gate.set()


@pytest.fixture
def stuck():
    stuck = Stuck()
    yield stuck
    stuck.gate.set()


@pytest.fixture(autouse=True)
def all_time_to_leave(monkeypatch):
    """What has only to leave may take as long as it likes."""
    monkeypatch.setattr(tasker._pool.lifecycle, "_JOIN_S", 10 * PATIENCE)


@pytest.fixture
def manager_stuck_in(new_manager, factory, stuck):
    """`manager_stuck_in(hook)`: a manager whose only worker is in that hook."""

    def destroys(resource):
        stuck(resource)
        factory.destroy(resource)

    def creates():
        if factory.created:
            stuck(None)
        return factory.create()

    hooks = {
        "on_check": {"on_check": stuck, "check_after": 0, "check_timeout": 10 * PATIENCE},
        "on_reset": {"on_reset": stuck},
        "on_destroy": {"on_destroy": destroys},
        "on_create": {"on_create": creates},
    }

    def manager_stuck_in(hook, **options):
        manager = new_manager(worker_count=1, max_worker_count=1, **hooks[hook], **options)
        eventually(lambda: manager.stats().idle_workers == 1, "an idle worker")
        manager.submit(breaks if hook in ("on_destroy", "on_create") else len, once=True)
        stuck.await_inside()
        return manager

    return manager_stuck_in


def breaks(resource):
    raise Sick


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("hook", ["on_check", "on_reset", "on_destroy", "on_create"])
def test_a_kill_without_time_waits_for_no_hook_and_names_its_thread(
    manager_stuck_in, stuck, factory, hook
):
    manager = manager_stuck_in(hook)
    assert in_another_thread(lambda: manager.kill(0)).abandoned == ("tasker-worker-1",)
    stuck.gate.set()
    eventually(lambda: factory.live == 0, "the end of the resource")


@pytest.mark.parametrize("hook", ["on_check", "on_reset"])
def test_a_kill_aborts_the_hook_which_returns_in_time(manager_stuck_in, stuck, factory, hook):
    manager = manager_stuck_in(hook, on_abort=stuck.abort)
    assert manager.kill(PATIENCE).abandoned == ()
    assert stuck.aborts == [factory.created[0]]


@pytest.mark.parametrize("hook", ["on_check", "on_reset"])
def test_a_kill_without_time_aborts_it_as_well(manager_stuck_in, stuck, factory, hook):
    manager = manager_stuck_in(hook, on_abort=stuck.abort)
    in_another_thread(lambda: manager.kill(0))
    eventually(lambda: factory.live == 0, "the end of the resource")
    assert stuck.aborts == [factory.created[0]]


@pytest.mark.parametrize("hook", ["on_check", "on_reset"])
def test_a_kill_aborts_a_hook_of_run_task(new_manager, stuck, factory, hook):
    factory.any_thread = True
    options = {"check_after": 0, "check_timeout": 10 * PATIENCE} if hook == "on_check" else {}
    manager = new_manager(
        worker_count=1, resource_pool_size=1, on_abort=stuck.abort, **{hook: stuck}, **options
    )
    results = []
    caller = threading.Thread(target=lambda: results.append(manager.run_task(lambda resource: 7)))
    caller.start()
    stuck.await_inside()
    assert manager.kill(PATIENCE).abandoned == ()
    caller.join(PATIENCE)
    assert results == [7]
    assert len(stuck.aborts) == 1


def test_a_hook_that_has_returned_is_not_aborted(new_manager, stuck):
    manager = new_manager(
        worker_count=1, on_abort=stuck.abort, on_check=id, on_reset=id, check_after=0
    )
    assert manager.queue_task(lambda resource: 7) == 7
    assert manager.kill(PATIENCE).abandoned == ()
    assert stuck.aborts == []


def test_a_hook_is_not_called_once_the_manager_is_killed(new_manager, stuck):
    manager = new_manager(worker_count=1, on_abort=stuck.abort)
    supervisor = manager._engine.supervisor
    manager.kill(PATIENCE)
    supervisor.call_hook(None, "resource", stuck, timeout=None)
    assert not stuck.inside.is_set()
    assert supervisor._contexts == set()


def test_a_worker_that_frees_its_resource_for_the_kill_gets_the_time_to_do_so(
    new_manager, factory, stuck
):
    def destroys(resource):
        stuck(resource)
        factory.destroy(resource)

    manager = new_manager(worker_count=1, on_destroy=destroys)
    eventually(lambda: manager.stats().idle_workers == 1, "an idle worker")
    reports = []
    killer = threading.Thread(target=lambda: reports.append(manager.kill(0)))
    killer.start()
    stuck.await_inside()
    assert not manager.closed
    stuck.gate.set()
    killer.join(PATIENCE)
    assert reports[0].abandoned == ()


def test_a_kill_that_overtakes_a_stop_does_not_wait_for_what_is_freed_already(
    new_manager, factory, stuck
):
    def destroys(resource):
        stuck(resource)
        factory.destroy(resource)

    manager = new_manager(worker_count=1, on_destroy=destroys)
    manager._engine.lifecycle.request_stop()
    stuck.await_inside()
    assert in_another_thread(lambda: manager.kill(0)).abandoned == ("tasker-worker-1",)
    stuck.gate.set()
    eventually(lambda: factory.live == 0, "the end of the resource")
