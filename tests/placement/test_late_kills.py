"""Processes that are killed at the moment when they answer, or when their manager has almost closed."""

from __future__ import annotations

import threading
import time

import pytest

from tasker import Processes, timer
from tasker.placement import protocol
from tasker.placement.child import Child
from tests.placement import hooks
from tests.placement.conftest import on_posix
from tests.placement.hooks import PATIENCE

pytestmark = on_posix


@pytest.fixture
def placement():
    return Processes(grace=30.0)


def forget_slowly(resource):
    if threading.current_thread().name.endswith("-caller"):  # as a child's main thread is called
        time.sleep(PATIENCE)


def test_a_child_that_is_killed_as_its_task_answers_gets_no_other_task(make, journal, gate, monkeypatch, log):
    answer, killed = Child._answer, []

    def answer_then_kill(self, progress):
        answered = answer(self, progress)
        if self._order and not killed:
            killed.append(self)
            self._kill_call(self._number)
        return answered

    monkeypatch.setattr(Child, "_answer", answer_then_kill)
    manager = make(max_retries=0)
    future = manager.submit(hooks.until_cancelled, gate, journal)
    process = gate.await_reached()
    following = manager.submit(hooks.process_of, once=True)
    future.cancel()
    assert following.result(PATIENCE) != process
    assert killed
    assert future.exception(PATIENCE) is None  # it had answered
    assert following.attempts == 1
    assert any("the resource is lost and is replaced" in line for line in log.loud())


def test_a_child_that_dies_as_its_run_task_answers_is_not_lent_again(make, monkeypatch):
    answer, died = Child._answer, []

    def answer_then_die(self, progress):
        answered = answer(self, progress)
        if self._number and not died:
            died.append(self.pid)
            self._kill_now()
            for thread in threading.enumerate():
                if thread.name == f"{self.name}-child":
                    thread.join(PATIENCE)  # which tells of it
        return answered

    manager = make(resource_pool_size=1)
    assert manager.wait_ready(PATIENCE)
    monkeypatch.setattr(Child, "_answer", answer_then_die)
    assert [manager.run_task(hooks.process_of)] == died
    assert manager.run_task(hooks.process_of) not in died


def test_a_child_that_is_killed_as_its_creation_answers_is_made_again(make, journal, monkeypatch):
    ask, killed = Child._ask, []

    def ask_then_kill(self, kind, what, progress):
        answer = ask(self, kind, what, progress)
        if kind == protocol.SETUP and not killed:
            killed.append(self)
            self.kill()
        return answer

    monkeypatch.setattr(Child, "_ask", ask_then_kill)
    manager = make()
    assert manager.submit(hooks.process_of, once=True).result(PATIENCE) != killed[0].pid
    assert len(journal.of("created")) == 2


def test_a_create_timeout_that_was_cancelled_as_it_fired_kills_no_child(make, monkeypatch):
    after, fired = timer.after, []

    def noting_after(seconds, fire):
        if isinstance(getattr(fire, "__self__", None), Child):
            fired.append(fire)
        return after(seconds, fire)

    monkeypatch.setattr(timer, "after", noting_after)
    manager = make()
    process = manager.queue_task(hooks.process_of)
    assert fired
    for fire in fired:
        fire()
    assert manager.queue_task(hooks.process_of) == process


@pytest.mark.parametrize("timeout", [600.0, 0.0])
def test_kill_ends_a_resource_of_run_task_whose_destruction_blocks_for_ever(make, timeout):
    manager = make(
        on_create=hooks.nothing, on_destroy=forget_slowly, resource_pool_size=1, placement=Processes(grace=0.1)
    )
    assert manager.wait_ready(PATIENCE)
    manager._engine.lifecycle.request_stop()
    hooks.until(lambda: not manager._engine.crew.members, "the worker to have left")
    assert manager.kill(timeout).abandoned == ()
