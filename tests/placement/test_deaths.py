"""Children that die: nobody but the task that ran there notices, and it is tried again if it may be."""

from __future__ import annotations

import logging
import os
import signal
import threading
from functools import partial

import pytest

import tasker.placement.processes.proxy
from tasker import Processes, WorkerLostError
from tasker._sync.parking import Parker
from tests.support import deadly_tasks, remote_tasks
from tests.support.journal import Gate
from tests.support.placements import on_linux, on_posix
from tests.support.processes import is_alive
from tests.support.programs import run
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, on_posix]


@pytest.fixture
def placement():
    return Processes(grace=0.1)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def test_sixty_tasks_with_six_kills_all_complete(placed_manager, journal, tmp_path):
    manager = placed_manager(worker_count=2)
    gates = {number: Gate(tmp_path / f"gate{number}") for number in range(5, 60, 10)}
    futures = [
        manager.submit(deadly_tasks.stand_once, number, gates.get(number)) for number in range(60)
    ]
    killed = set()
    for gate in gates.values():
        killed.add(gate.await_reached())
        kill(gate.await_reached())
    assert [future.result(PATIENCE) for future in futures] == list(range(60))
    attempts = [future.attempts for future in futures]
    assert [number for number, tries in enumerate(attempts) if tries > 1] == list(gates)
    assert sum(attempts) == 66
    assert len(killed) == 6
    assert manager.stop().drained
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_arrived,
        metrics.total_tasks_completed,
        metrics.total_tasks_retried,
    ) == (60, 60, 6)
    created, destroyed = journal.of("created"), journal.of("destroyed")
    assert len(created) == len(destroyed) + 6
    assert set(destroyed) < set(created)


def test_a_poison_task_fails_alone_after_its_last_attempt(placed_manager):
    manager = placed_manager(worker_count=2, max_retries=2)
    before = [manager.submit(remote_tasks.square, number) for number in range(10)]
    poison = manager.submit(deadly_tasks.die, signal.SIGKILL)
    after = [manager.submit(remote_tasks.square, number) for number in range(10)]
    error = poison.exception(PATIENCE)
    assert type(error) is WorkerLostError
    assert (error.exit_code, error.began, poison.attempts) == (-signal.SIGKILL, True, 3)
    assert "was killed by SIGKILL while it ran die" in str(error)
    assert [future.result(PATIENCE) for future in (*before, *after)] == [
        n * n for n in range(10)
    ] * 2
    assert {future.attempts for future in (*before, *after)} == {1}


def test_a_check_health_that_takes_the_resource_is_not_asked_about_one_that_is_lost(
    placed_manager, journal
):
    manager = placed_manager(check_health=remote_tasks.is_whole, max_retries=1)
    future = manager.submit(deadly_tasks.die, signal.SIGKILL)
    assert type(future.exception(PATIENCE)) is WorkerLostError
    assert future.attempts == 2
    with pytest.raises(ValueError, match="whole"):
        manager.queue_task(remote_tasks.fail, ValueError("whole"))
    assert journal.of("asked") == ["True ValueError"]


def test_a_retry_gets_a_fresh_copy_of_an_iterator(placed_manager, tmp_path):
    future = placed_manager(worker_count=1).submit(
        deadly_tasks.read_and_die_once, iter([1, 2, 3]), tmp_path / "died"
    )
    assert (future.result(PATIENCE), future.attempts) == ([1, 2, 3], 2)


def test_a_task_whose_child_is_killed_is_tried_again_on_a_new_one(placed_manager, journal, gate):
    manager = placed_manager(worker_count=3)
    assert manager.wait_ready(PATIENCE)
    older = {worker.resource.pid for worker in manager._engine.crew.members}
    future = manager.submit(deadly_tasks.note_and_stand, gate)
    kill(gate.await_reached())
    eventually(lambda: len(journal.of("ran")) == 2)
    gate.open()
    assert future.result(PATIENCE) is None
    first, second = map(int, journal.of("ran"))
    assert first in older
    assert second not in older
    # a loss is no sign of a plague
    assert len(journal.of("created")) == 4


def test_a_once_task_whose_child_is_killed_ran_once(placed_manager, journal, gate):
    manager = placed_manager()
    future = manager.queue_task_once_async(deadly_tasks.note_and_stand, gate)
    kill(gate.await_reached())
    error = future.exception(PATIENCE)
    assert type(error) is WorkerLostError
    assert (error.exit_code, error.began, future.attempts) == (-signal.SIGKILL, True, 1)
    assert len(journal.of("ran")) == 1
    assert manager.queue_task(remote_tasks.square, 6) == 36


dies = partial(deadly_tasks.die, number=signal.SIGKILL)


@pytest.mark.parametrize(
    ("hooks", "says"),
    [
        ({}, "is broken and is replaced"),
        ({"max_retries": 1}, "is lost and is replaced"),
        ({"on_create": partial(deadly_tasks.die, None, signal.SIGKILL)}, "no resource was made"),
        ({"on_destroy": dies}, "the resource was not destroyed"),
        ({"on_reset": dies}, "the resource could not be reset and is replaced"),
        ({"on_check": dies, "keepalive": 0.05}, "did not pass its check and is replaced"),
    ],
    ids=["task", "retry", "create", "destroy", "reset", "check"],
)
def test_a_child_that_is_killed_is_a_line_in_the_log_and_no_traceback(
    placed_manager, caplog, hooks, says
):
    caplog.set_level(logging.DEBUG, "tasker")
    logger = logging.getLogger("tasker")
    manager = placed_manager(**{"logger": logger, "max_retries": 0, **hooks})

    def records():
        return [each for each in caplog.records if says in each.getMessage()]

    if "max_retries" in hooks or not hooks:
        manager.submit(deadly_tasks.die, signal.SIGKILL).exception(PATIENCE)
    elif "on_reset" in hooks:
        manager.queue_task(remote_tasks.give, 7)
    elif "on_destroy" in hooks:
        manager.wait_ready(PATIENCE)
        manager.stop(PATIENCE)
    eventually(records, says)
    first = records()[0]
    assert "was killed by SIGKILL while" in first.getMessage()
    assert "\n" not in first.getMessage()
    assert first.exc_info is None
    others = [each for each in records() if each.getMessage() == first.getMessage()]
    assert others == [first]


def test_a_child_that_run_task_loses_is_a_line_in_the_log_and_no_traceback(placed_manager, caplog):
    caplog.set_level(logging.DEBUG, "tasker")
    manager = placed_manager(logger=logging.getLogger("tasker"))
    with pytest.raises(WorkerLostError):
        manager.run_task(deadly_tasks.die, signal.SIGKILL)
    [record] = [each for each in caplog.records if "is replaced" in each.getMessage()]
    assert "was killed by SIGKILL while it ran die" in record.getMessage()
    assert record.exc_info is None


def test_children_that_are_lost_at_work_are_one_outage_if_no_caller_is_told(placed_manager, log):
    manager = placed_manager(worker_count=1, max_worker_count=1, max_retries=1)
    for _ in range(2):
        assert (
            manager.queue_task(remote_tasks.square, 6) == 36
        )  # so it was not the resource's first use
        assert (
            type(manager.submit(deadly_tasks.die, signal.SIGKILL, once=True).exception(PATIENCE))
            is WorkerLostError
        )
    assert log.loud() == []
    for _ in range(2):
        assert manager.queue_task(remote_tasks.square, 6) == 36
        assert (
            type(manager.submit(deadly_tasks.die, signal.SIGKILL).exception(PATIENCE))
            is WorkerLostError
        )
    eventually(log.loud, "the warning")
    manager.stop()
    lost, *end = log.loud()
    assert "-worker-" in lost
    assert ": the resource is lost and is replaced: tasker.errors.WorkerLostError: " in lost
    assert len(end) == 1
    assert " after " in end[0]


def test_a_once_task_that_was_never_sent_is_tried_on_another_child(placed_manager, monkeypatch):
    manager = placed_manager()
    first = manager.queue_task(remote_tasks.process_of)
    send, failed = tasker.placement.processes.proxy.Wire.send, []

    def failing(self, *args, **kwargs):
        if not failed:
            failed.append(kill(first))
            raise BrokenPipeError("nobody there")
        return send(self, *args, **kwargs)

    monkeypatch.setattr(tasker.placement.processes.proxy.Wire, "send", failing)
    future = manager.submit(remote_tasks.process_of, once=True)
    assert future.result(PATIENCE) != first
    assert future.attempts == 2


@pytest.mark.parametrize(
    ("task", "argument", "exit_code"),
    [
        (deadly_tasks.die, signal.SIGSEGV, -signal.SIGSEGV),
        (deadly_tasks.leave, 3, 3),
        (deadly_tasks.leave, 0, 0),
        (deadly_tasks.read_address, 0, -signal.SIGSEGV),
    ],
    ids=["signal", "exit 3", "exit 0", "null pointer"],
)
def test_a_child_that_ends_is_told_with_its_exit_code(placed_manager, task, argument, exit_code):
    manager = placed_manager(max_retries=0)
    error = manager.submit(task, argument).exception(PATIENCE)
    assert type(error) is WorkerLostError
    assert error.exit_code == exit_code
    assert manager.queue_task(remote_tasks.square, 6) == 36


@pytest.mark.usefixtures(
    "short_pauses"
)  # half of the children have done no task before they are killed
def test_once_tasks_that_a_dead_child_has_not_read_have_not_begun(placed_manager):
    """They come when it is dead and nobody knows it yet: the pipe to it takes them all the same."""
    manager = placed_manager(worker_count=4)
    for _ in range(8):
        assert manager.wait_ready(PATIENCE)
        eventually(lambda: manager.stats().idle_workers == 4, "all workers to be idle")
        processes = {worker.resource.pid for worker in manager._engine.crew.members}
        for process in processes:
            kill(process)
        futures = [manager.submit(remote_tasks.process_of, once=True) for _ in range(4)]
        assert processes.isdisjoint(future.result(PATIENCE) for future in futures)


def test_a_once_task_too_large_for_the_pipe_that_a_dead_child_has_not_read_has_not_begun(
    placed_manager,
):
    manager = placed_manager()
    process = manager.queue_task(remote_tasks.process_of)
    os.kill(process, signal.SIGSTOP)
    future = manager.submit(remote_tasks.give, "x" * 3_000_000, once=True)
    eventually(lambda: manager.stats().running_tasks == 1, "the task to be sent")
    kill(process)
    assert len(future.result(PATIENCE)) == 3_000_000
    assert future.attempts == 2


@on_linux
def test_the_status_of_a_child_that_others_have_reaped_is_not_known(tmp_path):
    done = run(
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with manager(max_retries=0, on_destroy=len) as m:
            for code in (7, 0):
                error = m.submit(lambda resource, code: os._exit(code), code).exception()
                print(type(error).__name__, error.exit_code, "how is not known" in str(error))
        """,
        tmp_path,
    )
    assert done.stdout.splitlines() == ["WorkerLostError None True"] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_child_that_nothing_watches_any_more_is_ended(placed_manager, monkeypatch):
    struck, follow = [], tasker.placement.processes.proxy.Stderr.follow

    def follow_later(self, process):
        if len(struck) < 2:
            struck.append(process)
            raise MemoryError
        follow(self, process)

    monkeypatch.setattr(tasker.placement.processes.proxy.Stderr, "follow", follow_later)
    manager = placed_manager(max_retries=0)
    futures = [manager.submit(remote_tasks.process_of) for _ in range(2)]
    for future in futures:
        assert future.exception(PATIENCE) is None or type(future.exception()) is WorkerLostError
    assert manager.submit(remote_tasks.square, 6).exception(PATIENCE) is None
    assert len(struck) == 2


@pytest.mark.parametrize("lowest", [0, 3])
def test_a_task_that_closes_all_low_descriptors_does_no_harm(placed_manager, lowest):
    manager = placed_manager()
    process = manager.queue_task(remote_tasks.process_of)
    manager.queue_task(deadly_tasks.close_descriptors, lowest, 256)
    assert manager.queue_task(remote_tasks.process_of) == process


def test_a_task_that_closes_all_descriptors_is_lost_though_a_thread_of_its_own_goes_on(
    placed_manager,
):
    manager = placed_manager(max_retries=0)
    process = manager.queue_task(deadly_tasks.start_thread_that_stays)
    error = manager.submit(deadly_tasks.close_descriptors, 3, 1024).exception(PATIENCE)
    assert type(error) is WorkerLostError
    assert error.exit_code == 1
    assert "closed this child process's descriptors" in str(error)
    assert manager.queue_task(remote_tasks.process_of) != process


@pytest.mark.usefixtures("endless_pauses")
def test_a_child_that_dies_before_it_has_done_a_task_is_not_replaced_at_once(
    placed_manager, journal, log
):
    manager = placed_manager(worker_count=1)
    worker = manager._engine.crew.members[0]
    eventually(lambda: manager.stats().idle_workers == 1, "the worker to be idle")
    kill(worker.resource.pid)
    eventually(lambda: worker.pausing, "the pause")
    for _ in range(10):
        manager._engine.crew.wake_all(manager._engine.queue.idle)
    assert worker.pausing
    assert len(journal.of("created")) == 1


@pytest.mark.usefixtures("endless_pauses")
def test_a_child_that_dies_after_it_has_done_a_task_is_replaced_at_once(
    placed_manager, journal, log
):
    manager = placed_manager(worker_count=1)
    first = manager.queue_task(remote_tasks.process_of)
    eventually(lambda: manager.stats().idle_workers == 1, "the worker to be idle")
    kill(first)
    eventually(lambda: len(journal.of("created")) == 2, "another child")
    assert manager.queue_task(remote_tasks.process_of) != first


def test_an_idle_child_that_is_killed_is_replaced_without_any_task(placed_manager, journal, log):
    manager = placed_manager()
    process = manager.queue_task(remote_tasks.process_of)
    eventually(lambda: manager.stats().idle_workers == 1, "the worker to be idle")
    kill(process)
    eventually(lambda: len(journal.of("created")) == 2, "another resource")
    eventually(lambda: manager.stats().idle_workers == 1, "another worker to be idle")
    assert any("lost an idle resource" in line for line in log.loud())
    assert manager.queue_task(remote_tasks.process_of) != process
    assert manager.metrics().total_tasks_retried == 0


def test_an_idle_resource_of_run_task_that_is_killed_is_let_go(placed_manager):
    manager = placed_manager(resource_pool_size=1)
    process = manager.run_task(remote_tasks.process_of)
    assert manager.stats().available_resources == 1
    kill(process)
    eventually(lambda: manager.stats().available_resources == 0, "the pool to let go of it")
    assert manager.run_task(remote_tasks.process_of) != process
    error = None
    try:
        manager.run_task(deadly_tasks.die, signal.SIGKILL)
    except WorkerLostError as lost:
        error = lost
    assert error is not None
    assert manager.run_task(remote_tasks.square, 6) == 36


def test_a_chunk_whose_child_is_killed_goes_on_where_it_was(placed_manager, journal, gate):
    manager = placed_manager()
    stream = manager.map(deadly_tasks.StandAt(3, gate, journal), range(6), chunksize=6)
    kill(gate.await_reached())
    assert list(stream) == list(range(6))
    assert journal.of("item") == ["0", "1", "2", "3", "3", "4", "5"]


@on_linux
def test_a_task_that_needs_too_much_memory_fails_with_memory_error(placed_manager):
    manager = placed_manager(on_create=deadly_tasks.limit_memory, on_destroy=remote_tasks.forget)
    process = manager.queue_task(remote_tasks.process_of)
    assert type(manager.submit(deadly_tasks.allocate, 1 << 32).exception(PATIENCE)) is MemoryError
    assert manager.queue_task(remote_tasks.process_of) == process


@on_linux
def test_a_death_is_noticed_though_a_grandchild_holds_the_connection(placed_manager, log):
    manager = placed_manager(max_retries=0)
    grandchild, _ = manager.queue_task(deadly_tasks.start_heir)
    try:
        error = manager.submit(deadly_tasks.die, signal.SIGKILL).exception(PATIENCE)
        assert type(error) is WorkerLostError
        assert is_alive(grandchild)
        second, process = manager.queue_task(deadly_tasks.start_heir)
        try:
            kill(process)  # while it is idle
            eventually(
                lambda: log.telling(of=f"lost an idle resource, <process {process} "), "the news"
            )
            assert manager.queue_task(remote_tasks.square, 6) == 36
        finally:
            kill(second)
    finally:
        kill(grandchild)


def test_what_a_child_said_before_it_died_counts(placed_manager):
    manager = placed_manager()
    future = manager.submit(deadly_tasks.Last())
    assert future.result(PATIENCE) == "said"
    assert future.attempts == 1
    assert manager.queue_task(remote_tasks.square, 6) == 36


def test_a_task_may_fork_and_its_child_says_nothing(placed_manager, capfd):
    manager = placed_manager()
    assert [manager.queue_task(deadly_tasks.fork_and_exit) for _ in range(3)] == [5, 5, 5]
    assert [manager.queue_task(deadly_tasks.fork_and_return) for _ in range(3)] == [
        "the child's own"
    ] * 3
    assert manager.queue_task(remote_tasks.square, 6) == 36
    assert manager.stop().drained
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), (SystemExit(7), 7), (SystemExit(), 0), (ValueError("there"), 1)],
    ids=repr,
)
def test_what_a_task_forks_ends_as_a_program_does_where_the_task_ends(
    placed_manager, journal, capfd, error, status
):
    manager = placed_manager()
    process = manager.queue_task(remote_tasks.process_of)
    assert manager.queue_task(deadly_tasks.fork_and_leave, error) == status
    assert manager.queue_task(remote_tasks.process_of) == process
    assert manager.stop().drained
    assert len(journal.of("destroyed")) == 1
    assert ("ValueError: there" in capfd.readouterr().err) == (status == 1)


def test_a_task_that_comes_as_an_idle_child_is_found_dead_is_not_sent_to_it(
    placed_manager, monkeypatch
):
    wake, late = Parker.wake, []

    def wake_late(self):
        if threading.current_thread().name.endswith("-child"):  # which has found out
            late.append(manager.submit(remote_tasks.process_of))
        wake(self)

    manager = placed_manager(max_retries=0)
    process = manager.queue_task(remote_tasks.process_of)
    eventually(lambda: manager.stats().idle_workers == 1, "the worker to be idle")
    monkeypatch.setattr(Parker, "wake", wake_late)
    kill(process)
    eventually(lambda: late, "the news")
    assert late[0].result(PATIENCE) != process
