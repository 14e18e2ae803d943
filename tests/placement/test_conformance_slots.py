"""A resource knows its slot wherever it lives. Each test has its manager."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest

from tasker import Config, Reason
from tests.support import remote_tasks
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def slotted_manager(placed_manager, journal):
    """`slotted_manager(**options)`: one whose `on_create` takes the slot."""

    def make(**options):
        manager = placed_manager(
            on_create=partial(remote_tasks.create_in_slot, journal),
            on_destroy=remote_tasks.destroy_in_slot,
            **options,
        )
        assert manager.wait_ready(PATIENCE)
        return manager

    return make


def indices(journal):
    return [int(line.split()[0]) for line in journal.of("slot")]


def test_on_create_gets_its_slot(slotted_manager, journal):
    manager = slotted_manager(worker_count=2)
    name = manager._engine.name
    assert sorted(indices(journal)) == [0, 1]
    assert {line.split(" ", 1)[1] for line in journal.of("slot")} == {
        f"0 hired {name}-worker-1",
        f"0 hired {name}-worker-2",
    }
    manager.stop()
    assert sorted(journal.of("freed")) == ["0", "1"]


def test_a_task_knows_its_slot_however_it_runs(slotted_manager):
    manager = slotted_manager()
    assert manager.submit(remote_tasks.slot_of).result(PATIENCE).index == 0
    assert manager.executor().submit(remote_tasks.index_of_slot).result(PATIENCE) == 0
    assert [slot.index for slot in manager.map(remote_tasks.slot_of, range(2), chunksize=2)] == [
        0,
        0,
    ]
    called = manager.run_task(remote_tasks.slot_of)
    assert (called.index, called.reason) == (1, Reason.CALL)


@pytest.mark.usefixtures("no_pauses")
def test_a_check_and_a_destruction_know_the_slot_of_the_broken_one(slotted_manager, journal):
    manager = slotted_manager(max_retries=0, check_health=remote_tasks.judge_in_slot)
    with pytest.raises(ValueError, match="broken"):
        manager.run_task(remote_tasks.fail, ValueError("broken"))
    assert (journal.of("judged"), journal.of("freed")) == (["1"], ["1"])
    failed = manager.submit(remote_tasks.fail, ValueError("broken"))
    assert isinstance(failed.exception(PATIENCE), ValueError)
    assert manager.submit(remote_tasks.slot_of).result(PATIENCE).generation == 1
    assert (journal.of("judged"), journal.of("freed")) == (["1", "0"], ["1", "0"])
    assert [line.split()[:3] for line in journal.of("slot")] == [
        ["0", "0", "hired"],
        ["1", "0", "call"],
        ["0", "1", "broken"],
    ]


def test_checks_and_resets_know_the_slot(slotted_manager, journal):
    manager = slotted_manager(
        resource_pool_size=1,
        on_check=partial(remote_tasks.note_slot, "checked"),
        check_after=0,
        on_reset=partial(remote_tasks.note_slot, "reset"),
    )
    # The pool of `run_task` is filled first.
    assert manager.run_task(remote_tasks.slot_of).index == 0
    assert (journal.of("checked"), journal.of("reset")) == (["0"], ["0"])
    assert manager.submit(remote_tasks.slot_of).result(PATIENCE).index == 1
    eventually(lambda: journal.of("reset") == ["0", "1"], "the reset")
    assert journal.of("checked") == ["0", "1"]


def test_an_abort_knows_the_slot(slotted_manager, journal, gate):
    manager = slotted_manager(on_abort=partial(remote_tasks.abort_in_slot, gate))
    future = manager.submit(remote_tasks.pass_deaf, gate)
    gate.await_reached()
    future.cancel()
    assert future.result(PATIENCE) == "passed"
    assert journal.of("aborted") == ["0"]


def test_an_abort_of_run_task_knows_the_slot(slotted_manager, journal, gate):
    manager = slotted_manager(on_abort=partial(remote_tasks.abort_in_slot, gate))
    caller = threading.Thread(target=lambda: manager.run_task(remote_tasks.pass_deaf, gate))
    caller.start()
    gate.await_reached()
    manager.kill(PATIENCE)
    caller.join(PATIENCE)
    assert journal.of("aborted") == ["1"]


def test_a_context_manager_is_made_with_its_slot(placed_manager, journal):
    opened = Config.from_context_manager(
        partial(remote_tasks.entered_in_slot, journal), worker_count=1
    )
    manager = placed_manager(on_create=opened.on_create, on_destroy=opened.on_destroy)
    assert manager.submit(remote_tasks.give, "given").result(PATIENCE) == "given"
    manager.stop()
    assert journal.lines() == ["entered 0", "left 0"]


def test_a_lost_one_is_replaced_in_its_slot_when_its_process_is_gone(
    placed_manager, journal, is_remote
):
    if not is_remote:
        pytest.skip("a thread is not lost")
    manager = placed_manager(on_create=partial(remote_tasks.create_in_slot, journal))
    process = manager.queue_task(remote_tasks.process_of)
    os.kill(process, signal.SIGKILL)
    eventually(lambda: len(journal.of("slot")) == 2, "another resource")
    assert [line.split()[:3] for line in journal.of("slot")] == [
        ["0", "0", "hired"],
        ["0", "1", "lost"],
    ]
