"""What else there is only where each resource has a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from functools import partial

import pytest

import tasker.placement.processes.launch
import tasker.placement.processes.proxy
from tasker import Processes
from tasker._sync.parking import ParkingLot, gil_enabled
from tasker.placement.processes.proxy import ProcessProxy
from tests.support import deadly_tasks, remote_tasks
from tests.support.errors import Faithful
from tests.support.placements import on_linux, on_posix
from tests.support.processes import children, descriptors, is_alive
from tests.support.waiting import PATIENCE, eventually

pytestmark = on_posix


@pytest.fixture
def placement():
    return Processes(grace=0.1)


@pytest.mark.slow
def test_a_child_whose_exit_functions_block_after_its_destruction_is_killed(placed_manager):
    manager = placed_manager()
    process = manager.queue_task(deadly_tasks.register_at_exit, None)
    report = manager.stop()
    assert (report.drained, report.abandoned) == (True, ())
    assert process not in children()


@pytest.mark.slow
def test_at_its_end_a_child_runs_exit_functions_but_does_not_wait_for_threads(
    placed_manager, journal, gate
):
    manager = placed_manager(placement=Processes(grace=PATIENCE))
    process = manager.queue_task(deadly_tasks.register_at_exit, journal)
    manager.queue_task(deadly_tasks.start_thread_at, gate, journal)
    opening = threading.Timer(1.0, gate.open)  # or it would be waited for eventually the test fails
    opening.start()
    manager.stop()
    assert journal.of("exits") == [str(process)]
    opening.join()
    assert journal.of("passed") == []


@pytest.mark.slow
def test_at_its_end_a_child_writes_what_was_printed(placed_manager, tmp_path):
    manager = placed_manager()
    manager.queue_task(deadly_tasks.print_to, tmp_path / "printed")
    manager.stop()
    assert sorted((tmp_path / "printed").read_text().splitlines()) == ["by Python", "by a library"]


@pytest.mark.slow
def test_a_resource_is_made_used_and_destroyed_in_the_main_thread(placed_manager, journal):
    manager = placed_manager(
        on_create=partial(deadly_tasks.note_thread, journal), on_destroy=deadly_tasks.note_thread
    )
    manager.queue_task(deadly_tasks.note_thread)
    manager.stop()
    assert journal.of("thread") == ["True tasker-worker-1"] * 3


@pytest.mark.slow
def test_an_interrupt_of_run_task_costs_its_child(placed_manager, gate):
    class Interrupt(BaseException):
        pass

    def interrupt(number, frame):
        raise Interrupt

    def interrupt_when_it_runs():
        gate.await_reached()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    manager = placed_manager(resource_pool_size=1)
    process = manager.run_task(remote_tasks.process_of)
    interrupting = threading.Thread(target=interrupt_when_it_runs)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        interrupting.start()
        with pytest.raises(Interrupt):
            manager.run_task(remote_tasks.pass_deaf, gate)
    finally:
        interrupting.join()
        signal.signal(signal.SIGUSR1, before)
    assert process not in children()
    assert manager.run_task(remote_tasks.process_of) != process


@pytest.mark.slow
def test_a_task_may_have_children_of_its_own(placed_manager):
    squared, child, grandchild = placed_manager().queue_task(
        deadly_tasks.square_in_a_child_of_its_own, 6
    )
    assert squared == 36
    assert len({os.getpid(), child, grandchild}) == 3
    eventually(lambda: not is_alive(grandchild), "the grandchild to end")


@pytest.mark.slow
@on_linux
def test_a_child_inherits_no_descriptor_but_its_own(placed_manager, tmp_path):
    with (tmp_path / "inheritable").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        opened = placed_manager(worker_count=2).queue_task(deadly_tasks.descriptors)
    assert opened.pop("0") == "/dev/null"
    opened.pop("1")
    opened.pop("2")
    # a newer libffi opens its own file in each process that imports ctypes, and maps code from it for callbacks
    kinds = sorted(
        target.partition(":")[0] for target in opened.values() if "/libffi.so" not in target
    )
    tracks = (
        "multiprocessing.resource_tracker" in sys.modules
    )  # of which a child has a descriptor, too
    assert kinds == ["/memfd"] + ["pipe"] * (4 + tracks)  # mark; calls, answers, orders, lifeline


@pytest.mark.slow
@on_linux
def test_twenty_managers_leak_no_descriptor(placed_manager, gate):
    gate.open()
    placed_manager().kill(0)  # what is made once for all
    before = descriptors()
    for number in range(20):
        manager = placed_manager()
        if number % 4 == 0:
            assert manager.queue_task(remote_tasks.square, 6) == 36
            manager.stop()
        else:
            manager.kill(0)
    eventually(lambda: descriptors() <= before, f"{descriptors() - before} to be closed")


@on_linux
def test_a_child_that_cannot_be_started_leaves_no_descriptor(monkeypatch):
    tasker.placement.processes.launch.lifeline()  # which stays
    before = descriptors()

    def refuse(*descriptors, **options):
        raise OSError("no more processes")

    monkeypatch.setattr(tasker.placement.processes.proxy, "launch", refuse)
    with pytest.raises(OSError, match="no more processes"):
        ProcessProxy("worker", 0.1, print)
    assert descriptors() == before


@pytest.mark.slow
@pytest.mark.usefixtures("no_collection")
def test_an_exception_of_a_task_is_freed_without_the_collector(placed_manager):
    manager = placed_manager(resource_pool_size=1)
    # without the GIL what two threads have held is freed some time later
    for run in (manager.run_task, manager.queue_task)[: 2 if gil_enabled() else 1]:
        with pytest.raises(Faithful) as caught:
            run(remote_tasks.square_unless_seven, 7)
        gone = weakref.ref(caught.value)
        del caught
        eventually(lambda gone=gone: gone() is None, "the exception to be freed")


@pytest.mark.slow
def test_a_submission_that_raises_when_its_task_was_put_is_not_accepted(
    placed_manager, monkeypatch
):
    manager = placed_manager(worker_count=1, max_worker_count=1)
    before = manager.queue_task(remote_tasks.process_of)
    eventually(lambda: manager.stats().idle_workers == 1, "the worker is idle")
    wake_one, raised = ParkingLot.wake_one, []

    def fail_once(parking):
        if threading.current_thread() is threading.main_thread() and not raised:
            raised.append(1)
            raise RecursionError("no room on the stack")
        wake_one(parking)

    monkeypatch.setattr(ParkingLot, "wake_one", fail_once)
    with pytest.raises(RecursionError):
        manager.submit(remote_tasks.process_of)
    assert manager.queue_task(remote_tasks.process_of) == before
    assert manager.join(PATIENCE)
    metrics = manager.metrics()
    assert (metrics.total_tasks_completed, metrics.total_tasks_cancelled) == (2, 1)
