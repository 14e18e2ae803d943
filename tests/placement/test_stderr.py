"""What children write on standard error: it arrives as it did, and its end is in the error when they die of it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess

import pytest

from tasker import Processes, ResourceCreationError, WorkerLostError
from tasker.placement.processes import launch
from tests.support import deadly_tasks, remote_tasks
from tests.support.placements import on_linux, on_posix
from tests.support.programs import PRELUDE, command, environment, run
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, on_posix, on_linux]


@pytest.fixture
def placement():
    return Processes(grace=0.1)


def test_the_last_words_of_a_child_are_in_the_error_of_its_task(placed_manager, capfd):
    manager = placed_manager(max_retries=0)
    error = manager.submit(
        deadly_tasks.say_and_leave, "out of licences\nßee the manual\n"
    ).exception(PATIENCE)
    assert type(error) is WorkerLostError
    assert "ended with exit code 3 while it ran say_and_leave" in str(error)
    assert str(error).endswith(":\nout of licences\nßee the manual")
    eventually(lambda: "ßee the manual\n" in capfd.readouterr().err, "the words on standard error")


def test_words_from_before_a_task_are_not_taken_for_its_own(placed_manager, capfd):
    manager = placed_manager(max_retries=0)
    manager.queue_task(deadly_tasks.say, "of another task\n")
    eventually(lambda: "of another task" in capfd.readouterr().err, "the words on standard error")
    error = manager.submit(deadly_tasks.say_and_leave, "").exception(PATIENCE)
    assert "of another task" not in str(error)
    assert "standard error" not in str(error)


def test_the_last_words_of_an_on_create_that_ends_its_process_reach_those_who_wait(
    placed_manager, log
):
    manager = placed_manager(
        on_create=deadly_tasks.die_creating, on_destroy=remote_tasks.forget, create_timeout=3.0
    )
    error = manager.submit(remote_tasks.square, 6).exception(PATIENCE)
    assert type(error) is ResourceCreationError
    assert "ended with exit code 4 while on_create ran" in str(error)
    assert "no such library" in str(error)
    assert any("no such library" in line for line in log.loud())


def test_the_last_words_of_a_child_that_cannot_start_reach_those_who_wait(
    placed_manager, monkeypatch
):
    monkeypatch.setattr(launch, "_PROGRAM", "import no_such_module  # {}")
    error = placed_manager(create_timeout=3.0).submit(remote_tasks.square, 6).exception(PATIENCE)
    assert type(error) is ResourceCreationError
    assert "before on_create ran" in str(error)
    assert "No module named 'no_such_module'" in str(error)


def test_the_last_words_of_an_on_create_that_takes_too_long_are_in_its_error(
    placed_manager, log, gate
):
    placed_manager(
        on_create=deadly_tasks.SayAndWait(gate), on_destroy=remote_tasks.forget, create_timeout=3.0
    )
    gate.await_reached()
    eventually(
        lambda: any("on_create has not returned within 3 s" in line for line in log.loud()),
        "the error",
    )
    assert any("waiting for the licence server" in line for line in log.loud())


def test_a_long_text_arrives_whole_and_is_quoted_in_part(placed_manager, capfd):
    text = "".join(f"line {number}\n" for number in range(50_000))
    error = (
        placed_manager(max_retries=0).submit(deadly_tasks.say_and_leave, text).exception(PATIENCE)
    )
    assert len(str(error)) < 2500
    assert str(error).endswith("\nline 49999")
    arrived = []

    def all_has_arrived():
        arrived.append(capfd.readouterr().err)
        return "".join(arrived) == text

    eventually(all_has_arrived, "the whole text")


def test_what_is_written_arrives_while_the_task_runs(placed_manager, gate, capfd):
    future = placed_manager().submit(deadly_tasks.SayAndWait(gate))
    eventually(
        lambda: "waiting for the licence server\n" in capfd.readouterr().err,
        "the words on standard error",
    )
    assert not future.done()
    gate.open()
    future.result(PATIENCE)


def test_a_task_that_closes_its_standard_error_goes_on_and_its_death_is_noticed(placed_manager):
    manager = placed_manager()
    process = manager.queue_task(remote_tasks.process_of)
    manager.queue_task(deadly_tasks.close_descriptors, 2, 3)
    assert manager.queue_task(remote_tasks.process_of) == process
    os.kill(process, signal.SIGKILL)
    eventually(lambda: manager.queue_task(remote_tasks.process_of) != process, "another child")


def test_a_standard_error_that_takes_nothing_more_hides_no_death_and_no_timeout(tmp_path):
    done = run(
        """
        import logging
        logging.disable(logging.CRITICAL)  # a handler for standard error would wait for it
        full = os.pipe()
        os.set_blocking(full[1], False)
        try:
            while True:
                os.write(full[1], b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(full[1], True)
        kept = os.dup(2)
        os.dup2(full[1], 2)
        def say_and_leave(resource):
            os.write(2, b"the last words")
            os._exit(3)
        def flood(resource):
            while True:
                os.write(2, b"x" * 4096)
        m = manager(max_retries=0, on_destroy=len)
        for error in m.submit(say_and_leave).exception(), m.submit(flood, timeout=0.5).exception():
            print(type(error).__name__, "the last words" in str(error))
        print(m.stop().drained)
        os.dup2(kept, 2)
        os.close(full[0])
        """,
        tmp_path,
    )
    assert done.stdout.splitlines() == ["WorkerLostError True", "TaskTimeoutError False", "True"]


def test_on_a_terminal_children_have_it_as_their_standard_error(tmp_path):
    code = (
        PRELUDE
        + "with manager(on_destroy=len) as m: print(m.queue_task(lambda resource: os.isatty(2)))\n"
    )
    arguments, _ = command("script", code, tmp_path)
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            arguments,
            env=environment(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            timeout=50,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.stdout, done.returncode) == ("True\n", 0)


def test_what_may_outlive_its_child_keeps_a_standard_error_that_is_read(
    placed_manager, capfd, gate
):
    manager = placed_manager(placement=Processes(grace=0.1, kill_group=False))
    manager.queue_task(deadly_tasks.leave_a_speaker, gate)
    manager.stop()
    gate.open()
    eventually(lambda: "still here\n" in capfd.readouterr().err, "the words on standard error")
