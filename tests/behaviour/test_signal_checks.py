"""Where CPython looks for signals and lets other threads run: the rules that tasker's code without locks rests on.

CPython looks when a Python function is entered, when a call of anything else has returned, and at a jump back, nowhere
else. A signal handler, an exception that another thread sends and (with the GIL) another thread may come in there. So a
stretch of code without a call is one step. `STRETCHES` are those of tasker's.

It is the running interpreter that is asked: with whatever it specializes or compiles (`PYTHON_JIT=1`)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dis
import functools
import inspect
import itertools
import re
import signal
import sys
import threading
from collections import Counter, deque
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace

import pytest

import tasker
from tasker import Context, background, with_timeout, with_value
from tasker._pool.engine import Engine
from tasker._pool.metrics import Counters, Shard
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ResourcePool
from tasker._pool.slots import Slots
from tasker._sync.guard import _call_each
from tasker._sync.handover import do_both, hand_on, move_all, set_from
from tasker._sync.locks import holds, new_lock
from tasker._sync.parking import gil_enabled
from tasker._tasks.context import _release
from tasker._tasks.future import TaskFuture
from tasker._tasks.run_limit import RunLimit
from tests.support.errors import Sick

PACKAGE = tasker.__path__[0]
ENOUGH = 3000  # signals, or looks of another thread: more than are needed to see what happens in one of a thousand

untraced = pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")
with_gil = pytest.mark.skipif(
    not gil_enabled(), reason="without the GIL threads run at the same time"
)

# a function, where in it the step begins, and the line that ends it: with its first call, or with its end
STRETCHES = [
    (TaskQueue._take_unlocked, "if self._priority:", "lane.popleft()"),
    (TaskFuture._take_start, "del self._may_start", "return True"),
    (TaskFuture._take_settle, "del self._may_settle", "return True"),
    (Engine._accept, "accepted, task._refused =", "task._refused = not accepted"),
    (Engine.run_task, "healthy, loan.context =", "loan.owner, loan.outer ="),
    (_call_each, "del calls[0]", "call()"),
    (_release, "del sleepers[0]", "sleeper.release()"),
    (
        Context._followed,
        "followers = self._followers  # again",
        "followers = self._followers = made",
    ),
    (
        Context._add_dependant,
        "error = self._error",
        "followers.dependants[dependant] = None",
    ),
    (RunLimit.end, "del self._may_end", "self._has_returned = True"),
    (RunLimit._time_is_up, "del self._may_end", "self._is_up = True"),
    (Shard._replace, "if self._published is not before", "self._published = after"),
    (Counters._count_queued, "if queued > self._queued", "self._queued = queued"),
    (Counters._forget_samples, "while self._samples[1][0]", "self._samples.popleft()"),
    (ResourcePool.borrow, "loan.resource, loan.slot, since = shelf[-1]", "self._kept -= 1"),
    (ResourcePool.discard, "loan.resource, loan.slot = idle, slot", "self._kept -= 1"),
    (ResourcePool.lend_due, "loan.resource, loan.slot, loan.since =", "self._kept -= 1"),
    (ResourcePool.hand_back, "idle = loan.resource, loan.slot", "loan.shelf.append(idle)"),
    (Slots._try, "if self._entries[index] is", "return slot"),
    (Slots.free, "slot = owner.slot", "owner.slot = None"),
]


# -- what the bytecode says --------------------------------------------------------------------------------------------


def looks(name: str) -> bool:
    """Whether CPython looks at the end of the bytecode with this name, or (the first of a function) in it."""
    calls = name.startswith(("CALL", "PRECALL")) and not name.startswith("CALL_INTRINSIC")
    jumps_back = "JUMP_BACKWARD" in name and not name.endswith("NO_INTERRUPT")
    return calls or jumps_back or name.startswith("RESUME")


@functools.cache
def places_of_looks(code: CodeType) -> set[int]:
    """The offsets of those bytecodes. A generator that begins has yet to come to its first one."""
    names = [(each.offset, each.opname) for each in dis.get_instructions(code)]
    begins = [before for (before, _), (_, name) in itertools.pairwise(names) if name == "RESUME"]
    return {offset for offset, name in names if looks(name)} | set(begins)


def inside(function, begin: str, end: str) -> dict[int, str]:
    """The bytecodes of a stretch by their offset, but for the last one: what looks there does so after the step.

    A return is not one of them: it ends the step. On 3.11 another thread may come in there, as the frame of a function
    that was looked at is kept when it ends, which needs memory, so that the garbage collector may run."""
    lines, first = inspect.getsourcelines(function)
    start = next(place for place, line in enumerate(lines) if begin in line)
    stop = next(place for place in range(start, len(lines)) if end in lines[place])
    found = {}
    for each in dis.get_instructions(function):
        line = (each.positions.lineno or first) - first
        if not found and line != start:
            continue
        if not start <= line <= stop:
            break
        if not each.opname.startswith("RETURN"):
            found[each.offset] = each.opname
        if line == stop and looks(each.opname):
            found.popitem()
            break
    return found


@pytest.mark.parametrize(
    ("function", "begin", "end"), STRETCHES, ids=lambda value: getattr(value, "__name__", "")
)
def test_there_is_no_call_inside_of_what_is_one_step(function, begin, end):
    bytecodes = inside(function, begin, end)
    assert len(bytecodes) > 1
    assert not [name for name in bytecodes.values() if looks(name)]


# -- what CPython does -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def the_handler_of_before():
    """Set again when all is over: a signal that is on its way must find a handler."""
    before = signal.getsignal(signal.SIGALRM) if hasattr(signal, "SIGALRM") else None
    yield
    if before is not None:
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def signals(handler):
    """The handler is called again and again, at any moment."""
    signal.signal(signal.SIGALRM, lambda _, frame: handler(frame))
    signal.setitimer(signal.ITIMER_REAL, 3e-5, 3e-5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, lambda *_: None)


@contextlib.contextmanager
def observer(note):
    """Another thread is given to as often as can be, and notes where the others stand then, by their frames."""
    over, interval = [], sys.getswitchinterval()

    def observe():
        own = threading.get_ident()
        while not over:
            for thread, frame in sys._current_frames().items():
                if thread != own:
                    note(frame)

    thread = threading.Thread(target=observe)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        yield
    finally:
        over.append(True)
        thread.join()
        sys.setswitchinterval(interval)


def fail(_):
    raise ValueError


def break_it(_):
    raise Sick


def remaining(ctx, resource, number):
    return ctx.remaining()


def work(manager):
    """A bit of everything."""
    futures = [
        manager.submit(id),
        manager.submit(id, priority=True, timeout=60),
        manager.submit(fail),
        manager.submit(remaining, 1, timeout=60),
    ]
    manager.submit(id).cancel()
    for future in concurrent.futures.as_completed(futures):
        future.exception()
    manager.run_task(id)
    manager.run_task(remaining, 1)
    for function in (fail, break_it):
        with contextlib.suppress(ValueError, Sick):
            manager.run_task(function)
    assert list(manager.map(lambda _, item: item, range(3))) == [0, 1, 2]
    with manager.executor() as view:
        assert list(view.map(int, "12")) == [1, 2]
    with with_timeout(background(), 60) as ctx:
        ctx.on_done(int)
        assert with_value(ctx, "key", 1).value("key") == 1
    manager.metrics()
    manager.stats()


@pytest.mark.slow
@untraced
@needs_signals
def test_cpython_looks_for_signals_at_calls_and_jumps_back_and_nowhere_else(new_manager):
    seen: Counter[tuple[CodeType, int]] = Counter()

    def note(frame: FrameType):
        if frame.f_code.co_filename.startswith(PACKAGE):
            seen[frame.f_code, frame.f_lasti] += 1

    manager = new_manager(worker_count=1, resource_pool_size=1, queue_size=100)
    with signals(note):
        while seen.total() < ENOUGH:
            work(manager)
    elsewhere = [
        (code.co_qualname, place) for code, place in seen if place not in places_of_looks(code)
    ]
    assert elsewhere == []


@pytest.mark.slow
@with_gil
@untraced
def test_no_other_thread_comes_into_what_is_one_step(new_manager):
    steps = {
        function.__code__: set(inside(function, begin, end)) for function, begin, end in STRETCHES
    }
    seen: Counter[CodeType] = Counter()
    inside_of_steps: set[tuple[str, int]] = set()

    def note(frame):
        code, place = frame.f_code, frame.f_lasti
        if code in steps:
            seen[code] += 1
            if place in steps[code]:
                inside_of_steps.add((code.co_qualname, place))

    queue, hand = TaskQueue("queue", locked=False), SimpleNamespace(task=None)
    tasks = [SimpleNamespace() for _ in range(100)]
    manager = new_manager(worker_count=1, resource_pool_size=1)
    with observer(note):
        while seen[TaskQueue._take_unlocked.__code__] < ENOUGH:
            for lane in (queue._main, queue._priority):
                lane.extend(tasks)
            while queue._take_unlocked(hand) is not None:
                pass
        while seen.total() < 2 * ENOUGH:
            work(manager)
    assert inside_of_steps == set()


# -- locks -------------------------------------------------------------------------------------------------------------


class Struck(Exception):
    """What a signal handler raises."""


@untraced
@needs_signals
def test_a_signal_leaves_no_lock_taken():
    """Which it does with one of `threading`'s on 3.14."""
    struck: Counter[int] = Counter()
    lock = new_lock()

    def take():
        with lock:
            pass

    def strike(frame):
        if frame.f_code is take.__code__:
            struck[frame.f_lasti] += 1
            raise Struck

    with signals(strike):
        while struck.total() < ENOUGH // 10:
            with contextlib.suppress(Struck):
                take()
            assert not holds(lock)
    assert len(struck) > 1  # when it begins, and when the lock is released


def test_every_lock_is_made_by_new_lock():
    made = re.compile(r"\bR?Lock\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(PACKAGE).rglob("*.py")
        if path.parent.name != "testing"
        for line in path.read_text().splitlines()
        if made.search(line)
    ]
    # those that a thread sleeps on, which are not taken by `with`, and one that is only taken without the GIL
    others = (
        "parking.py: lock = ",
        "context.py: sleeper = ",
        "threads.py: self._bell = ",
        "queue.py: self._take_lock: Any = ",
        "locks.py: ",
    )
    assert [line for line in found if not line.startswith(others)] == []


# -- what is handed on (see handover) ----------------------------------------------------------------------------------


def give_and_take(things, kept):
    hand_on(things.popleft, kept.append)


def give_and_set(things, kept):
    holder = SimpleNamespace(thing=None)
    try:
        set_from(holder, "thing", things.popleft)
    finally:
        if holder.thing is not None:
            kept.append(holder.thing)


def insert_and_drop(things, kept):
    do_both(functools.partial(kept.append, things[0]), things.popleft)


def move(things, kept):
    some = list(things)
    things.clear()
    try:
        move_all(some, kept)
    finally:
        things.extend(sorted(some))


@pytest.mark.slow
@untraced
@needs_signals
@pytest.mark.parametrize(
    "step", [give_and_take, give_and_set, insert_and_drop, move], ids=lambda step: step.__name__
)
def test_what_is_handed_on_is_lost_and_doubled_by_no_signal(step):
    codes = {function.__code__ for function in (hand_on, set_from, do_both, move_all)}
    struck: Counter[int] = Counter()

    def strike(frame):
        if frame.f_code in codes:
            struck[frame.f_lasti] += 1
            raise Struck

    with signals(strike):
        while struck.total() < ENOUGH // 10:
            things, kept = deque(range(1, 101)), deque()
            while things:
                with contextlib.suppress(Struck):
                    step(things, kept)
            assert list(kept) == list(range(1, 101))
    assert len(struck) > 1
