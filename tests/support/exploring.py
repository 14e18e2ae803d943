"""How these tests drive `frontrun`: every interleaving of a small world, or seeded random ones of a larger.

A `World` is what a few threads share, made afresh for each interleaving. Its parts are tasker's own classes; replaced
are only those on which frontrun (0.7) would be blind or stuck:

- sleepers: a raw lock acquired by its own holder is a deadlock to frontrun, so threads sleep on a bounded semaphore;
- deques: frontrun sees that a list is read or changed, but not that a deque is, so lanes are lists here;
- slots: frontrun does not follow an attribute that is a slot, so `Parker`, `ParkingLot` and `Shard` go without;
- locks: frontrun tries the order in which two threads take one only if it sees them change something before;
- events: frontrun's own now and then get stuck;
- locks made on import: frontrun replaces those that are made while it explores.

Time is virtual: it passes when nobody can run, or, where a test says so, whenever a schedule wants it to."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

import tasker._pool.engine
import tasker._pool.housekeeper
import tasker._pool.lifecycle
import tasker._pool.metrics
import tasker._pool.queue
import tasker._pool.worker
import tasker._sync.parking
import tasker._sync.room
import tasker._tasks.abort
import tasker._tasks.future
from tasker import Config, Context
from tasker._pool.engine import Engine
from tasker._pool.lifecycle import CLOSED, OPEN
from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.clock import monotonic
from tasker._tasks.future import TaskFuture

NEEDED = "needs frontrun 0.7, which is in the extra dev and has no build for free-threaded Python"
frontrun = pytest.importorskip("frontrun", reason=NEEDED)
if not hasattr(frontrun, "explore"):  # an old one, which every Python can install
    pytest.skip(NEEDED, allow_module_level=True)

SEED = int(os.environ.get("TASKER_STRESS_SEED", str(random.SystemRandom().randrange(10**6))))
TURNS = 10_000  # of threads in a random schedule: 80,000 instructions, and few worlds have 10,000
TOO_MANY = 2_000  # interleavings after which an exploration is given up as not exhaustible

_OPTIONS: dict[str, Any] = {
    "detect_io": False,
    "reproduce_on_failure": 0,
    "trace_packages": ["tasker", "tasker.*"],  # in case it is installed
}

_PATIENT = {
    "timeout_per_run": 40.0,
    "deadlock_timeout": 40.0,
}  # seconds of real time, on a machine that is busy


class World:
    """What the threads share: `threads` names the methods that run at once, `check` asserts what holds in the end."""

    threads: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.errors: list[Exception] = []  # raised by the threads

    def check(self) -> None:
        raise NotImplementedError


def exhaust(world: type[World], clock: str = "virtual", preemptions: int | None = None) -> None:
    """Play every interleaving that differs in more than the order of independent steps.

    With `preemptions`, those in which so many times at most a thread that could go on is interrupted."""
    result = _explore(world, clock, preemptions, **_PATIENT)
    result.assert_holds()
    assert result.num_explored < TOO_MANY, "not exhausted"
    print(f"{world.__name__}: {result.num_explored} interleavings")


def sample(world: type[World], schedules: int, clock: str = "virtual") -> None:
    """Play random schedules, in which threads switch between any two instructions."""
    if sys.version_info >= (3, 12):
        schedules = -(
            -schedules // 4
        )  # frontrun uses sys.monitoring there, which makes it four times as slow
    _sample(world, schedules, clock, **_PATIENT).assert_holds()


def catches(
    world: type[World],
    clock: str = "virtual",
    preemptions: int | None = None,
    schedules: int | None = None,
) -> bool:
    """Whether the same exploration finds fault with a world: random schedules, if their number is given."""
    result = (
        _explore(world, clock, preemptions)
        if schedules is None
        else _sample(world, schedules, clock)
    )
    print(f"{world.__name__}: caught by number {result.num_explored}: {result.explanation}")
    if schedules is None:
        return result.property_holds is False
    return (
        result.property_holds is not True
    )  # None: threads that sleep for ever have used up their turns


def _explore(world: type[World], clock: str, preemptions: int | None, **more: Any) -> Any:
    return _play(
        frontrun.explore,
        world,
        clock=clock,
        preemption_bound=preemptions,
        max_executions=TOO_MANY,
        **more,
    )


def _sample(world: type[World], schedules: int, clock: str, **more: Any) -> Any:
    from frontrun import bytecode

    print(f"TASKER_STRESS_SEED={SEED}")
    options = {"max_attempts": schedules, "seed": SEED}
    with mock.patch.object(bytecode, "random_round_robin_schedule", _drawn):
        return _play(frontrun.explore_random, world, clock=clock, **options, **more)


def _drawn(rng: random.Random, threads: int, _: int) -> list[int]:
    """A random schedule: turns of a few instructions, now and then of many.

    frontrun's own takes longer to draw than most worlds to play, and may be too short to be played to the end."""
    turns = [[thread] * length for thread in range(threads) for length in (*range(1, 9), 16, 32)]
    return list(chain.from_iterable(rng.choices(turns, k=TURNS)))


def _play(explore: Callable[..., Any], world: type[World], **options: Any) -> Any:
    with _seams():
        return explore(_made(world), _threads(world), _holds, **options, **_OPTIONS)


def _made(world: type[World]) -> Callable[[], World]:
    def make() -> World:
        plain = threading.Lock  # frontrun's

        def lock() -> SeenLock:
            return SeenLock(plain())

        def reentrant_lock() -> SeenLock:
            inner: Any = threading._RLock()  # type: ignore[attr-defined]  # the one written in Python
            inner._block = plain()
            return SeenLock(inner)

        with mock.patch.multiple(threading, Lock=lock, RLock=reentrant_lock, Event=Gate):
            tasker._tasks.future._first_waiter = threading.RLock()
            Context._lock = threading.RLock()
            return world()

    return make


def _threads(world: type[World]) -> list[Callable[[World], None]]:
    return [_guarded(getattr(world, name)) for name in world.threads]


def _guarded(method: Callable[[World], None]) -> Callable[[World], None]:
    def run(world: World) -> None:
        try:
            method(world)
        except Exception as error:
            if type(error).__module__.startswith("frontrun"):
                raise
            world.errors.append(error)

    return run


def _holds(world: World) -> bool:
    assert world.errors == []
    world.check()
    return True


# -- the seams -----------------------------------------------------------------------------------------------------


class Sleeper:
    """As a raw lock that is taken, but any thread may wait for it."""

    def __init__(self) -> None:
        self.gate = threading.BoundedSemaphore(1)
        self.gate.acquire()

    def acquire(self, blocking: bool = True, timeout: float = -1.0) -> bool:
        return self.gate.acquire(timeout=None if timeout < 0 else timeout)

    def release(self) -> None:
        try:
            self.gate.release()
        except ValueError:
            raise RuntimeError("release unlocked lock") from None


class Lane(list[Any]):
    """As a deque, each method one indivisible step."""

    def popleft(self) -> Any:
        return self.pop(0)

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)

    def extendleft(self, items: Any) -> None:
        self[:0] = [*items][::-1]


class SeenLock:
    """A lock; who is about to take it changes it."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def acquire(self, blocking: bool = True, timeout: float = -1.0) -> bool:
        self.wanted = True
        return bool(self.lock.acquire(blocking, timeout))

    def release(self) -> None:
        self.lock.release()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def _is_owned(self) -> bool:
        return bool(self.lock._is_owned())


class Gate:
    """As an event: who has passed lets the next one pass."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)

    def set(self) -> None:
        self.gate.release()

    def wait(self, timeout: float | None = None) -> bool:
        passed = self.gate.acquire(timeout=timeout)
        if passed:
            self.gate.release()
        return passed

    def is_set(self) -> bool:
        return False  # asked of threads, and none of a world's is one of the pool's own


def without_slots(cls: type) -> type:
    """The class again, its instances' attributes in a dictionary."""
    left_out = {*cls.__dict__["__slots__"], "__slots__", "__dict__", "__weakref__"}
    return type(
        cls.__name__, cls.__bases__, {k: v for k, v in cls.__dict__.items() if k not in left_out}
    )


def _explored_monotonic() -> float:
    return time.monotonic()  # frontrun's, while it explores


@contextmanager
def _seams() -> Iterator[None]:
    parker, parking, shard = map(
        without_slots,
        (tasker._sync.parking.Parker, tasker._sync.parking.ParkingLot, tasker._pool.metrics.Shard),
    )
    with ExitStack() as stack:
        for module in (tasker._sync.parking, tasker._tasks.future):
            stack.enter_context(mock.patch.object(module, "new_sleep_lock", Sleeper))
        # frontrun says who runs when, and by a clock a schedule could not be run again
        stack.enter_context(mock.patch.object(tasker._sync.parking, "_yield", None))
        for module in (
            tasker._sync.room,
            tasker._pool.worker,
            tasker._pool.housekeeper,
            tasker._pool.lifecycle,
            tasker._tasks.abort,
        ):
            stack.enter_context(mock.patch.object(module, "Parker", parker))
        stack.enter_context(
            mock.patch.object(tasker._tasks.future, "_first_waiter", None)
        )  # see _made
        stack.enter_context(mock.patch.object(Context, "_lock", None))  # see _made
        stack.enter_context(mock.patch.object(tasker._pool.queue, "ParkingLot", parking))
        stack.enter_context(mock.patch.object(tasker._pool.metrics, "Shard", shard))
        for module in (tasker._sync.parking, tasker._pool.queue, tasker._sync.room):
            stack.enter_context(mock.patch.object(module, "deque", Lane))
        for name, module in list(sys.modules.items()):
            if name.startswith("tasker.") and vars(module).get("monotonic") is monotonic:
                stack.enter_context(mock.patch.object(module, "monotonic", _explored_monotonic))
        # frontrun lets the next thread go just before a step is done: the GIL must not change hands in between
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1.0)
        # nor must a collection run code of ours, a forgotten manager's finalizer say, inside of frontrun's own locks
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        # frontrun wants to be run by its own command, which would replace the locks of the whole test session
        stack.enter_context(mock.patch.dict(os.environ, FRONTRUN_ACTIVE="1"))
        yield


# -- what worlds are made of -----------------------------------------------------------------------------------------


class Quiet:
    """A logger that keeps what is louder than information."""

    def __init__(self) -> None:
        self.loud: list[str] = []

    def debug(self, msg: str, /, *args: object) -> None:
        pass

    def info(self, msg: str, /, *args: object) -> None:
        pass

    def warning(self, msg: str, /, *args: object, **_: object) -> None:
        self.loud.append(msg % args)

    error = outage = warning


class Silent:
    """News that are not told: that would take a thread that is none of the world's."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: False


class Queued(World):
    """A world around a queue: it owns the tasks, and counts what they tell their owner."""

    has_collector = False
    orphaned = None
    locked: bool | None = None
    user: Any = SimpleNamespace(checks=False)

    def __init__(self) -> None:
        super().__init__()
        self.logger: Any = Quiet()
        self.queue = tasker._pool.queue.TaskQueue("queue", locked=self.locked)
        self.settling: set[TaskFuture[Any]] = set()
        self.died = 0
        self.cancelled = 0
        self.failed = 0

    def task(self) -> TaskFuture[Any]:
        return tasker._tasks.future.new_task(self, len, (), False, 0.0)

    def worker(self) -> Any:
        """A worker whose thread is one of the world's."""
        return tasker._pool.worker.Worker(
            "worker", self, tasker._pool.metrics.Shard(), lambda worker: None
        )  # type: ignore[arg-type]

    def entry_died(self, future: TaskFuture[Any]) -> None:
        self.died += 1
        self.queue.entry_died(future)

    def record_cancelled(self) -> None:
        self.cancelled += 1

    def record_failure(
        self, future: TaskFuture[Any], error: BaseException, *, was_waiting: bool
    ) -> None:
        self.failed += 1

    def run_in_other_thread(self, jobs: list[Callable[[], object]]) -> None:
        for job in jobs:
            job()

    def let_go(self, things: list[Any]) -> None:
        things.clear()


class InPlace(CallbackRunner):
    """Runs jobs, and drops what is let go of, in the thread that asks for it: a world has no threads but its own."""

    def run_all(self, jobs: list[Callable[[], object]]) -> None:
        for job in jobs:
            job()
        jobs.clear()

    def let_go(self, things: list[Any]) -> None:
        things.clear()


class Still(Engine[int]):
    """An engine none of whose threads run: the world's threads do their work."""

    def _start(self) -> None:
        self.runner = InPlace("aside", self.logger)
        self.news: Any = Silent()

    def _ensure_housekeeper(self) -> None:
        pass

    def tasks_need_this_thread(self) -> bool:
        return False  # no thread of a world is interrupted by another one's code


class Managed(World):
    """A world around an engine, whose resources are numbers."""

    workers = 1

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.created = 0
        self.destroyed: list[int] = []
        self.log = Quiet()
        config = {
            "worker_count": 1,
            "resource_pool_size": 0,
            "burst_interval": 0,
            "logger": self.log,
            **options,
        }
        self.engine = Still(
            Config(on_create=self.create, on_destroy=self.destroyed.append, **config)
        )
        self.queue, self.crew, self.lifecycle = (
            self.engine.queue,
            self.engine.crew,
            self.engine.lifecycle,
        )
        self.worker = self.crew._enlist(lambda: True) if self.workers else None

    def create(self) -> int:
        self.created += 1
        return self.created

    def task(self) -> TaskFuture[Any]:
        return tasker._tasks.future.new_task(self.engine, lambda resource: 42, (), False, 0.0)

    def work(self) -> None:
        """What the worker's thread does."""
        self.worker._work()

    def closing(self) -> None:
        """What the burst thread does once it is woken."""
        while not (
            self.lifecycle.state != OPEN and self.lifecycle.step(tasker._pool.lifecycle.monotonic())
        ):
            self.engine.housekeeper._parker.sleep(0.5)

    def check(self) -> None:
        """What holds of every engine that was closed."""
        totals = self.engine.counters.totals()
        assert self.log.loud == []
        assert self.destroyed == [*range(1, self.created + 1)]
        assert self.queue.waiting() == (0, 0)
        assert (
            self.engine.counters._count_arrived()
            == totals.completed + totals.failed + totals.cancelled
        )
        assert self.lifecycle.state == CLOSED
