"""What there is only on Ray: actors that die, or do not listen, and what a cluster cannot give."""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from functools import partial
from unittest.mock import create_autospec

import pytest

import tasker.placement.ray.cluster
from tasker import (
    ConfigError,
    ContextCancelledError,
    Ray,
    ResourceCreationError,
    Slot,
    TaskManagerKilledError,
    TaskTimeoutError,
    WorkerLostError,
    current_slot,
)
from tasker._sync import timer
from tasker.placement.ray.cluster import RayBackend
from tasker.placement.ray.proxy import ActorProxy
from tasker.testing import ManualClock
from tests.support import deadly_tasks, remote_tasks
from tests.support.journal import Gate
from tests.support.placements import with_ray
from tests.support.processes import is_alive
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, with_ray]


@pytest.fixture
def placement():
    return Ray(address=None, grace=0.1)


def kill(process):
    os.kill(process, signal.SIGKILL)


def until_dead(process):
    eventually(lambda: not is_alive(process), "the process to be gone")


# -- without a connection --------------------------------------------------------------------------------------------


def test_an_actor_ends_without_a_question_to_ray_where_the_cluster_is_not_connected():
    cluster = create_autospec(RayBackend, instance=True)
    cluster.is_connected.return_value = False
    cluster.ray = None
    proxy = ActorProxy("worker", 0.1, remote_tasks.forget, cluster, Slot(index=0, worker="worker"))
    with pytest.raises(WorkerLostError, match="not connected to Ray any more"):
        proxy.check()
    proxy.destroy()
    assert proxy.is_lost()


# -- actors that die -------------------------------------------------------------------------------------------------


def test_thirty_tasks_with_three_kills_all_complete(placed_manager, journal, tmp_path):
    manager = placed_manager(worker_count=2)
    gates = {number: Gate(tmp_path / f"gate{number}") for number in range(5, 30, 10)}
    futures = [
        manager.submit(deadly_tasks.stand_once, number, gates.get(number)) for number in range(30)
    ]
    killed = set()
    for gate in gates.values():
        killed.add(gate.await_reached())
        kill(gate.await_reached())
    assert [future.result(PATIENCE) for future in futures] == list(range(30))
    assert [number for number, future in enumerate(futures) if future.attempts > 1] == list(gates)
    assert sum(future.attempts for future in futures) == 33
    assert len(killed) == 3
    assert manager.stop().drained
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_arrived,
        metrics.total_tasks_completed,
        metrics.total_tasks_retried,
    ) == (30, 30, 3)
    created, destroyed = journal.of("created"), journal.of("destroyed")
    assert len(created) == len(destroyed) + 3
    assert set(destroyed) < set(created)


def test_a_poison_task_fails_alone_after_its_last_attempt(placed_manager):
    manager = placed_manager(max_retries=1)
    poison = manager.submit(deadly_tasks.leave, 3)
    after = [manager.submit(remote_tasks.square, number) for number in range(10)]
    error = poison.exception(PATIENCE)
    assert type(error) is WorkerLostError
    assert (error.exit_code, error.began, poison.attempts) == (None, True, 2)
    assert "while it ran leave" in str(error)
    assert "its worker process has died" in str(error)
    assert [future.result(PATIENCE) for future in after] == [n * n for n in range(10)]
    assert {future.attempts for future in after} == {1}


def test_a_once_task_whose_actor_is_killed_ran_once(placed_manager, journal, gate):
    manager = placed_manager()
    future = manager.queue_task_once_async(deadly_tasks.note_and_stand, gate)
    kill(gate.await_reached())
    assert type(future.exception(PATIENCE)) is WorkerLostError
    assert future.attempts == len(journal.of("ran")) == 1


def test_an_idle_actor_that_is_killed_is_replaced_without_any_task(placed_manager, journal, log):
    manager = placed_manager()
    process = manager.queue_task(remote_tasks.process_of)
    eventually(lambda: manager.stats().idle_workers == 1, "the worker to be idle")
    kill(process)
    eventually(lambda: len(journal.of("created")) == 2, "another resource")
    assert manager.queue_task(remote_tasks.process_of) != process
    assert any("lost an idle resource" in line for line in log.loud())
    assert manager.metrics().total_tasks_retried == 0


def test_a_chunk_whose_actor_is_killed_goes_on_where_it_was(placed_manager, journal, gate):
    manager = placed_manager()
    stream = manager.map(deadly_tasks.StandAt(3, gate, journal), range(6), chunksize=6)
    process = gate.await_reached()
    [chunk] = stream._results.gi_frame.f_locals["window"].flying.values()
    eventually(
        lambda: len(chunk.results) == 3, "the results of the steps before"
    )  # they come a little later
    kill(process)
    assert list(stream) == list(range(6))
    assert journal.of("item") == ["0", "1", "2", "3", "3", "4", "5"]


# -- actors that do not listen ---------------------------------------------------------------------------------------


def test_a_deaf_task_is_ended_at_its_deadline_with_its_actor(placed_manager, journal, gate):
    manager = placed_manager()
    with ManualClock() as clock:
        future = manager.submit(deadly_tasks.note_and_stand, gate, timeout=1000)
        process = gate.await_reached()
        clock.advance(1000)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    until_dead(process)
    assert manager.queue_task(remote_tasks.process_of) != process
    assert future.attempts == len(journal.of("ran")) == 1
    metrics = manager.metrics()
    assert (metrics.total_tasks_failed, metrics.total_tasks_retried) == (1, 0)


def test_a_deaf_task_that_is_cancelled_is_ended_and_not_tried_again(placed_manager, journal, gate):
    manager = placed_manager()
    future = manager.submit(deadly_tasks.note_and_stand, gate)
    process = gate.await_reached()
    assert not future.cancel()
    error = future.exception(PATIENCE)
    assert type(error) is ContextCancelledError
    assert "was killed; whether its code has stopped is not known" in str(error)
    assert future.attempts == len(journal.of("ran")) == 1
    until_dead(process)


def test_a_frozen_actor_frees_its_caller_at_the_deadline(placed_manager, gate):
    manager, clock = placed_manager(), ManualClock()
    with clock:
        future = manager.submit(deadly_tasks.note_and_stand, gate, timeout=1000)
        process = gate.await_reached()
        os.kill(process, signal.SIGSTOP)
        clock.advance(1000)
    try:
        assert type(future.exception(PATIENCE)) is TaskTimeoutError
        assert manager.queue_task(remote_tasks.process_of) != process
    finally:
        kill(process)


@pytest.mark.parametrize("timeout", [600.0, 0.0])
def test_kill_ends_a_deaf_task_and_its_actor(placed_manager, gate, timeout):
    manager = placed_manager()
    future = manager.submit(remote_tasks.pass_deaf, gate)
    process = gate.await_reached()
    report = manager.kill(timeout)
    assert (report.drained, report.abandoned, report.failed) == (False, (), 1)
    assert type(future.exception(0)) is TaskManagerKilledError
    until_dead(process)


def test_kill_ends_an_actor_whose_creation_blocks_for_ever(placed_manager, gate, log):
    manager = placed_manager(on_create=gate.create, on_destroy=remote_tasks.forget)
    waiting = manager.submit(remote_tasks.square, 6)
    process = gate.await_reached()
    report = manager.kill(PATIENCE)
    assert (report.abandoned, report.cancelled) == ((), 1)
    assert log.loud() == []  # nobody's failure, and nothing is tried again
    assert type(waiting.exception(0)) is TaskManagerKilledError
    until_dead(process)


def test_a_creation_that_takes_longer_than_create_timeout_is_given_up_and_tried_again(
    placed_manager, journal, gate, log, monkeypatch
):
    after, entries = timer.after, []
    monkeypatch.setattr(timer, "after", lambda *given: entries.append(after(*given)) or entries[-1])
    block = deadly_tasks.BlockFirst(gate, journal)
    manager = placed_manager(
        on_create=block, on_destroy=remote_tasks.forget, create_timeout=2 * PATIENCE
    )
    process = gate.await_reached()
    [overdue] = [entry for entry in entries if entry.is_set()]
    overdue.fire()
    until_dead(process)
    eventually(lambda: manager.stats().idle_workers == 1, "the second creation")
    assert manager.queue_task(remote_tasks.process_of) != process
    assert any(
        "on_create has not returned" in line and "create_timeout" in line for line in log.loud()
    )


# -- what is an actor's own ------------------------------------------------------------------------------------------


def test_a_resource_is_made_used_and_destroyed_in_one_thread(placed_manager, journal):
    manager = placed_manager(on_create=journal.create, on_destroy=deadly_tasks.note_where_destroyed)
    made, used = manager.queue_task(deadly_tasks.threads_of)
    manager.stop()
    assert [str(made), str(used)] == journal.of("thread") * 2


def test_nothing_is_left_when_a_manager_has_closed(placed_manager):
    manager = placed_manager(worker_count=2)
    processes = {manager.queue_task(remote_tasks.process_of) for _ in range(10)}
    manager.stop()
    for process in processes:
        until_dead(process)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tasker-ray")]


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resources": {"CPU": 1}}, "CPU"),
        ({"label_selector": {"zone": 3}}, "label_selector"),
        ({"runtime_env": {"pip": 3}}, "pip"),
    ],
    ids=repr,
)
def test_options_that_ray_refuses_are_named(placed_manager, options, says):
    with pytest.raises(ConfigError, match=says):
        placed_manager(placement=Ray(address=None, **options))


@pytest.mark.parametrize(
    "options", [{"num_gpus": 1}, {"resources": {"special": 2}}, {"num_cpus": 1000}], ids=repr
)
def test_what_the_cluster_can_never_give_is_named_after_create_timeout(placed_manager, options):
    manager = placed_manager(placement=Ray(address=None, **options), create_timeout=0.5)
    error = manager.submit(remote_tasks.square, 6).exception(PATIENCE)
    assert type(error) is ResourceCreationError
    assert "no worker has held a resource for 0.5 s (create_timeout)" in str(error)
    assert f"the cluster has given no actor {options}" in str(error)
    assert "'CPU': 4.0" in str(error)
    with pytest.raises(ResourceCreationError) as caught:
        manager.run_task(remote_tasks.square, 6)
    assert type(caught.value.__cause__) is TimeoutError
    assert f"the cluster has given no actor {options}" in str(caught.value.__cause__)


def test_an_environment_that_cannot_be_made_is_told(placed_manager):
    runtime_env = {"working_dir": "/nowhere/at/all"}
    with pytest.raises((ConfigError, ResourceCreationError), match="nowhere"):
        placed_manager(placement=Ray(address=None, runtime_env=runtime_env), resource_pool_size=1)


def test_a_runtime_environment_may_be_a_function_of_the_slot(placed_manager):
    def environment(slot):
        assert current_slot() == slot
        return {"env_vars": {"DEVICE": str(slot.index)}}

    manager = placed_manager(placement=Ray(address=None, runtime_env=environment), worker_count=2)
    assert manager.wait_ready(PATIENCE)
    device = partial(os.getenv, "DEVICE")
    for slot, seen in manager.map(remote_tasks.slot_and_call, [device] * 4):
        assert seen == str(slot.index)


@pytest.mark.usefixtures("no_pauses")
def test_a_function_that_makes_no_environment_fails_like_a_creation(placed_manager):
    made = [3, {"pip": 3}]
    manager = placed_manager(
        placement=Ray(address=None, runtime_env=lambda slot: made.pop(0) if made else {})
    )
    assert manager.submit(remote_tasks.square, 6).result(PATIENCE) == 36
    assert made == []


def test_a_constructor_that_fails_lets_go_of_the_connection(placed_manager):
    users = tasker.placement.ray.cluster._connection._users
    assert users == set()
    for options in (
        {"on_create": remote_tasks.cannot_create, "resource_pool_size": 1},
        {"on_create": print, "name": 3},
    ):
        with pytest.raises((ResourceCreationError, ConfigError)):
            placed_manager(**options)
        assert users == set()


def test_a_second_cluster_is_refused(placed_manager):
    with pytest.raises(
        ConfigError,
        match=r"address: this process is connected to .*, it cannot use '10.0.0.7:6379'",
    ):
        placed_manager(placement=Ray(address="10.0.0.7:6379"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_is_refused(placed_manager, placement):
    code, child = 1, os.fork()
    if child == 0:
        try:
            placed_manager()
        except ConfigError as error:
            code = 7 if "forked" in str(error) else 8
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_the_address_of_the_cluster_may_be_given(placed_manager):
    import ray

    manager = placed_manager(placement=Ray(address=ray.get_runtime_context().gcs_address))
    assert manager.queue_task(remote_tasks.square, 6) == 36


def test_hooks_that_cannot_be_sent_are_refused(placed_manager):
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="on_create cannot be sent"):
        placed_manager(on_create=partial(remote_tasks.give, lock))


def test_a_missing_extra_is_named(placed_manager, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"tasker-pool\[ray\]"):
        placed_manager()


def test_a_version_that_is_too_old_is_named(placed_manager, monkeypatch):
    old = types.ModuleType("ray")
    old.__version__ = "2.9.3"
    monkeypatch.setitem(sys.modules, "ray", old)
    with pytest.raises(ConfigError, match=r"needs Ray 2\.50 or later, not 2\.9\.3"):
        placed_manager()
