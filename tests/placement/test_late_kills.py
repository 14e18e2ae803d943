"""Processes that are killed at the moment when they answer, or when their manager has almost closed."""

from __future__ import annotations

import threading
import time

import pytest

from tasker import Processes
from tasker._sync import timer
from tasker.placement.processes.proxy import ProcessProxy
from tasker.placement.remote import protocol
from tests.support import remote_tasks
from tests.support.placements import on_posix
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, on_posix]


@pytest.fixture
def placement():
    return Processes(grace=30.0)


def forget_slowly(resource):
    if threading.current_thread().name.endswith("-caller"):  # as a child's main thread is called
        time.sleep(PATIENCE)


def test_a_child_that_is_killed_as_its_task_answers_gets_no_other_task(
    placed_manager, journal, gate, monkeypatch, log
):
    answer, killed = ProcessProxy._answer, []

    def answer_then_kill(self, progress):
        answered = answer(self, progress)
        if self._order and not killed:
            killed.append(self)
            self._kill_call(self._number)
        return answered

    monkeypatch.setattr(ProcessProxy, "_answer", answer_then_kill)
    manager = placed_manager(max_retries=0)
    future = manager.submit(remote_tasks.until_cancelled, gate, journal)
    process = gate.await_reached()
    following = manager.submit(remote_tasks.process_of, once=True)
    future.cancel()
    assert following.result(PATIENCE) != process
    assert killed
    assert future.exception(PATIENCE) is None  # it had answered
    assert following.attempts == 1
    assert any("the resource is lost and is replaced" in line for line in log.loud())


def test_a_child_that_dies_as_its_run_task_answers_is_not_lent_again(placed_manager, monkeypatch):
    answer, died = ProcessProxy._answer, []

    def answer_then_die(self, progress):
        answered = answer(self, progress)
        if self._number and not died:
            died.append(self.pid)
            self._kill_now()
            for thread in threading.enumerate():
                if thread.name == f"{self.name}-child":
                    thread.join(PATIENCE)  # it reports the loss
        return answered

    manager = placed_manager(resource_pool_size=1)
    assert manager.wait_ready(PATIENCE)
    monkeypatch.setattr(ProcessProxy, "_answer", answer_then_die)
    assert [manager.run_task(remote_tasks.process_of)] == died
    assert manager.run_task(remote_tasks.process_of) not in died


def test_a_child_that_is_killed_as_its_creation_answers_is_made_again(
    placed_manager, journal, monkeypatch
):
    ask, killed = ProcessProxy._ask, []

    def ask_then_kill(self, kind, what, progress):
        answer = ask(self, kind, what, progress)
        if kind == protocol.SETUP and not killed:
            killed.append(self)
            self.kill()
        return answer

    monkeypatch.setattr(ProcessProxy, "_ask", ask_then_kill)
    manager = placed_manager()
    assert manager.submit(remote_tasks.process_of, once=True).result(PATIENCE) != killed[0].pid
    assert len(journal.of("created")) == 2


def test_a_create_timeout_that_was_cancelled_as_it_fired_kills_no_child(
    placed_manager, monkeypatch
):
    after, fired = timer.after, []

    def noting_after(seconds, fire):
        if isinstance(getattr(fire, "__self__", None), ProcessProxy):
            fired.append(fire)
        return after(seconds, fire)

    monkeypatch.setattr(timer, "after", noting_after)
    manager = placed_manager()
    process = manager.queue_task(remote_tasks.process_of)
    assert fired
    for fire in fired:
        fire()
    assert manager.queue_task(remote_tasks.process_of) == process


@pytest.mark.parametrize("timeout", [600.0, 0.0])
def test_kill_ends_a_resource_of_run_task_whose_destruction_blocks_for_ever(
    placed_manager, timeout
):
    manager = placed_manager(
        on_create=remote_tasks.nothing,
        on_destroy=forget_slowly,
        resource_pool_size=1,
        placement=Processes(grace=0.1),
    )
    assert manager.wait_ready(PATIENCE)
    manager._engine.lifecycle.request_stop()
    eventually(lambda: not manager._engine.crew.members, "the worker to have left")
    assert manager.kill(timeout).abandoned == ()
