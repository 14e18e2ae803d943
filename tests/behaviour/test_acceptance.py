"""A task is accepted if and only if its submission returns, whatever strikes the submission, and wherever.

A signal handler may raise between any two bytecodes of the calling thread, and any call may find no room on the stack.
A tracing function raises one exception here, at each bytecode in turn that the submission runs in tasker's modules.
Then the call has raised and the task never runs, or the call has returned and the task runs once.

What strikes when the submission has returned and the future is on its way to the caller is left out (`_hands_out`).
"""

from __future__ import annotations

import dis
import functools
import signal
import sys
import threading
from pathlib import Path

import pytest

import tasker
from tasker import TaskManager, background, with_cancel
from tasker._sync.interrupts import deliver_later
from tasker.threadpool import ThreadPoolExecutor
from tests.support.bytecodes import PACKAGE, StruckError, in_a_with, takes_lock
from tests.support.contexts import told_by
from tests.support.stack import at_depth, room
from tests.support.waiting import PATIENCE, eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
    ),
    pytest.mark.usefixtures("no_collection"),
]


class Striker:
    """Traces the calling thread, and raises at the bytecode with this number."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.count = 0
        self.struck: str | None = None

    def __enter__(self) -> Striker:
        sys._getframe().f_trace_opcodes = True  # from 3.12 on, looked at when tracing begins
        sys.settrace(self._trace_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace_call(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(PACKAGE) or takes_lock(frame):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._trace

    def _trace(self, frame, event, arg):
        code = frame.f_code
        if event == "opcode" and self.struck is None:
            if frame.f_lasti in in_a_with(code) or frame.f_lasti in _hands_out(code):
                return self._trace
            self.count += 1
            if self.count == self.place:
                self.struck = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}, {frame.f_lasti}"
                raise StruckError(self.struck)
        return self._trace


# those that end by handing out what another of them has accepted
OUTERMOST = {"submit", "method", "accept", "_accept", "_accept_task"}
MOVES = ("LOAD_FAST", "LOAD_CONST", "POP_TOP", "NOP", "NOT_TAKEN")


@functools.cache
def _hands_out(code) -> frozenset[int]:
    """The bytecodes that take the future from an inner return to an outer one: nothing but this test can strike there,
    as CPython looks for signals when a call begins and when one into C has returned."""
    if code.co_name not in OUTERMOST:
        return frozenset()
    instructions = list(dis.get_instructions(code))
    found: set[int] = set()
    for this, following in zip(instructions[::-1], [None, *instructions[:0:-1]], strict=True):
        jumps = this.opname.startswith("JUMP_") and this.argval in found
        moves = (
            this.opname.startswith(MOVES) and following is not None and following.offset in found
        )
        is_named = this.opname.startswith("STORE_FAST") and "future" in str(this.argval)
        if this.opname.startswith("RETURN_") or jumps or moves or is_named:
            found.add(this.offset)
    return frozenset(found)


def with_callback(manager, task, number):
    manager.queue_task_with_callback(task, lambda result, error: None, number)


PARENT = with_cancel(background())
SUBMISSIONS = {
    "submit": ({}, lambda manager, task, number: manager.submit(task, number)),
    "with limits": (
        {},
        lambda manager, task, number: manager.submit(task, number, priority=True, timeout=PATIENCE),
    ),
    "bounded": ({"queue_size": 3}, lambda manager, task, number: manager.submit(task, number)),
    "bounded, with limits": (
        {"queue_size": 3},
        lambda manager, task, number: manager.submit(
            task, number, timeout=PATIENCE, queue_timeout=PATIENCE
        ),
    ),
    "with a parent": (
        {"queue_size": 3},
        lambda manager, task, number: manager.submit(
            task, number, ctx=PARENT, run_timeout=PATIENCE
        ),
    ),
    "callback": ({}, with_callback),
    "executor": ({}, lambda manager, task, number: manager.executor().submit(task, None, number)),
    "drop-in": (None, lambda pool, task, number: pool.submit(task, None, number)),
}


class World:
    """Something to submit to, with one worker, and what has run there."""

    def __init__(self, name: str, new_manager) -> None:
        options, self._submit = SUBMISSIONS[name]
        self.ran: list[int] = []
        if options is None:
            self.target = ThreadPoolExecutor(1)
            self.engine = self.target._task_engine
        else:
            self.target = new_manager(
                worker_count=1, max_worker_count=1, burst_interval=0.005, **options
            )
            self.engine = self.target._engine
        self.submit(-1)
        self.settle()
        assert self.ran == [-1]

    def _run(self, resource, number):
        self.ran.append(number)

    def submit(self, number: int) -> None:
        self._submit(self.target, self._run, number)

    def settle(self) -> None:
        assert self.engine.watchers.join(PATIENCE)

    def close(self) -> None:
        figures = self.engine.metrics()
        if isinstance(self.target, TaskManager):
            assert self.target.stop(PATIENCE).drained
        else:
            self.target.shutdown()
        ended = (
            figures.total_tasks_completed
            + figures.total_tasks_failed
            + figures.total_tasks_cancelled
        )
        assert figures.total_tasks_arrived == ended
        assert figures.total_tasks_completed == len(self.ran)
        assert not told_by(PARENT).dependants


def bytecodes(world: World, number: int) -> int:
    """How many a submission runs. From 3.12 on a function's first call tells of none."""
    with Striker(-1) as striker:
        world.submit(number)
    world.settle()
    return striker.count


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 14),
    reason="CPython crashes where one of several threads is traced by bytecodes",
)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SUBMISSIONS)
def test_struck_at_any_bytecode_a_submission_raises_or_its_task_runs_once(name, new_manager):
    world = World(name, new_manager)
    wrong, number, struck = [], 0, True
    total = max(bytecodes(world, number) for number in (-2, -3, -4))
    assert total > 20
    while struck or number < total:
        number += 1
        striker, raised = Striker(number), False
        try:
            with striker:
                world.submit(number)
        except Exception:  # or what was made of it on its way out
            raised = True
        struck = striker.struck is not None
        world.settle()
        runs = world.ran.count(number)
        if runs != (not raised):
            wrong.append((striker.struck, "raised" if raised else "returned", runs))
        assert world.engine.queue.room.used() == 0, striker.struck
        world.submit(-10 - number)
        world.settle()
        assert world.ran[-1] == -10 - number, striker.struck
    assert wrong == []
    world.close()


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_near_the_recursion_limit_a_submission_raises_or_its_task_runs_once(name, new_manager):
    world = World(name, new_manager)
    wrong, depth = [], room()
    refused = accepted = 0
    for left in range(60):
        raised = False
        try:
            at_depth(depth - left, functools.partial(world.submit, left))
        except RecursionError:
            raised = True
        refused, accepted = refused + raised, accepted + (not raised)
        world.settle()
        runs = world.ran.count(left)
        if runs != (not raised):
            wrong.append((left, "raised" if raised else "returned", runs))
        assert world.engine.queue.room.used() == 0
    assert wrong == []
    assert refused
    assert accepted
    world.close()


class HandlerError(BaseException):
    """What a signal handler raises."""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, HandlerError])
def test_an_interrupt_whose_task_was_taken_already_is_raised_a_moment_later(
    new_manager, monkeypatch, kind
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert manager.wait_ready(PATIENCE)
    put = manager._engine.queue.put
    began, gate = threading.Event(), threading.Event()

    def put_and_be_struck(task):
        put(task)
        assert began.wait(PATIENCE)  # a worker has it
        raise kind("struck")

    def run(resource):
        began.set()
        gate.wait(PATIENCE)
        return "ran"

    monkeypatch.setattr(manager._engine.queue, "put", put_and_be_struck)
    future = None
    with pytest.raises(kind) as caught:  # noqa: PT012  # it comes somewhere in here
        future = manager.submit(run)
        assert future is not None
        eventually(lambda: False, "the interrupt")
    assert future is not None
    if kind is HandlerError:
        assert caught.value.args == ("struck",)
    gate.set()
    assert future.result(PATIENCE) == "ran"


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_an_interrupt_whose_task_waits_is_raised_at_once_and_the_task_never_runs(
    new_manager, monkeypatch
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, ran = threading.Event(), []
    held = manager.submit(lambda _: gate.wait(PATIENCE))
    eventually(held.running)
    put = manager._engine.queue.put

    def put_and_be_struck(task):
        put(task)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(manager._engine.queue, "put", put_and_be_struck)
    previous = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            manager.submit(lambda _: ran.append(1))
    finally:
        signal.signal(signal.SIGINT, previous)
    gate.set()
    assert manager.join(PATIENCE)
    assert ran == []
    assert manager.metrics().total_tasks_cancelled == 1


@pytest.mark.parametrize("kind", [RecursionError, MemoryError, OSError])
@pytest.mark.parametrize("name", ["submit", "executor", "drop-in"])
def test_what_strikes_when_a_worker_has_the_task_already_is_no_refusal(
    name, new_manager, monkeypatch, kind
):
    world = World(name, new_manager)
    queue, began = world.engine.queue, threading.Event()
    place = (world.engine, "wake_or_hire") if name == "drop-in" else (queue, "put")
    original = getattr(*place)

    def struck(*task):
        original(*task)
        assert began.wait(PATIENCE)
        raise kind

    def run(number):
        began.set()
        world.ran.append(number)

    monkeypatch.setattr(*place, struck)
    if name == "submit":
        future = world.target.submit(lambda _: run(1))
    else:
        future = (world.target if name == "drop-in" else world.target.executor()).submit(run, 1)
    assert future.result(PATIENCE) is None
    assert world.ran == [-1, 1]
    monkeypatch.undo()
    world.close()


def test_what_is_no_interrupt_is_not_delivered_later(monkeypatch):
    told: list[float] = []
    monkeypatch.setattr(tasker._sync.timer, "after", lambda seconds, fire: told.append(seconds))
    deliver_later(MemoryError())
    deliver_later(RecursionError())
    assert told == []
    deliver_later(KeyboardInterrupt())
    assert told
