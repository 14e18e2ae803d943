"""The load on the manager of a round, and the watching of it.

The load comes from threads, an event loop, a signal handler and the main thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from types import FrameType
from typing import Any

from tasker import TaskFuture
from tests.soak import patience
from tests.soak.children import kill_at_random
from tests.soak.faults import fail, steal_wake_up
from tests.soak.signalling import can_suspend, suspend
from tests.soak.submitting import AT_ONCE, FORMS, HASTY, PATIENT, UNHURRIED, Submitter

__all__ = ["Load"]


class Load:
    """The load of one round, from `run()` until it is `over` and joined."""

    def __init__(self, submitter: Submitter, rng: random.Random, seed: str) -> None:
        self.submitter = submitter
        self.chaos = submitter.chaos
        self.ledger = submitter.ledger
        self.rng = rng  # the main thread's
        self.over = threading.Event()
        self._seed = seed  # for the other threads
        self._threads: list[threading.Thread] = []
        self._alarm_after = 0.0  # seconds; 0: no more alarms
        self._process = os.getpid()

    def run(self, seconds: float) -> None:
        """Start all threads, and load the manager from this one too.

        Signal handlers run on this thread.
        """
        deadline = time.monotonic() + seconds
        for number in range(self.rng.randint(1, 3)):
            self._start(
                f"producer-{number}",
                partial(self._produce, random.Random(f"{self._seed}/{number}")),
            )
        self._start(
            "asyncio", lambda: asyncio.run(self._produce_and_await(random.Random(self._seed)))
        )
        self._start("looker", partial(self._look, random.Random(f"{self._seed}/look")))
        if self.ledger.loses:
            killer = partial(
                kill_at_random,
                self.chaos,
                self.ledger,
                random.Random(f"{self._seed}/kill"),
                self.over,
            )
            self._start("killer", killer)

        if self.rng.random() < 0.3:
            self.chaos.begin_outage(0.5, late=random.Random(f"{self._seed}/outage").random() < 0.5)
        if can_suspend() and self.rng.random() < 0.1:
            suspend(self.chaos)
        while time.monotonic() < deadline:
            self._burst(self.rng, HASTY)
            if self.rng.random() < 0.1:
                self.chaos.begin_plague()
            time.sleep(self.rng.random() * 0.005)

    def join(self) -> None:
        """End the load; its threads have to notice. The manager may go on."""
        self.over.set()
        for thread in self._threads:
            if not self.ledger.hangs:
                thread.join(patience.SECONDS)
            if thread.is_alive() and not self.ledger.hangs:
                self.ledger.hung(
                    f"{thread.name} still waits {patience.SECONDS:g} s after the load ended"
                )

    def _start(self, name: str, target: Callable[[], object]) -> None:
        thread = threading.Thread(target=target, name=f"harness-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- producers ---------------------------------------------------------------------

    def _produce(self, rng: random.Random) -> None:
        while not self.over.is_set():
            self._burst(rng, PATIENT)
            if rng.random() < 0.1:
                self.submitter.map(rng)
            self.over.wait(rng.choice([0, 0.001, 0.01]))

    def _burst(self, rng: random.Random, waits: Sequence[float | None]) -> None:
        """Submit some, then wait for some of them."""
        # With child processes, run_task may start one for each call.
        most = 30 if self.ledger.loses else 200
        jobs = [
            self.submitter.submit(rng, rng.choice(FORMS), waits)
            for _ in range(rng.choice([1, 5, 30, most]))
        ]
        if rng.random() < 0.3:
            self.submitter.cancel_one(rng)
        futures = [job.future for job in jobs if job is not None and job.future is not None]
        if futures and rng.random() < 0.5:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                self._wait(futures[: rng.choice([1, 10, 100])], rng)

    def _wait(self, futures: list[TaskFuture[Any]], rng: random.Random) -> None:
        if rng.random() < 0.5:
            concurrent.futures.wait(
                futures, 0.05, rng.choice(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
            )
            return

        seen = list(concurrent.futures.as_completed(futures, 0.1))
        if len(seen) != len(futures) or set(seen) != set(futures):
            self.ledger.broken(f"as_completed() gave {len(seen)} futures for {len(futures)}")

    async def _produce_and_await(self, rng: random.Random) -> None:
        while not self.over.is_set():
            jobs = [
                self.submitter.submit(rng, "async", AT_ONCE) for _ in range(rng.choice([1, 5, 30]))
            ]
            # Awaiting a GeneratorExit closes the awaiting coroutine, because Python
            # throws it there.
            gentle = [job for job in jobs if job is not None and job.act != "raises GeneratorExit"]
            futures = [job.future for job in gentle if job.future is not None]
            if rng.random() < 0.5:
                await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
            else:
                for future in futures:
                    await _awaited(future)

            await asyncio.sleep(rng.random() * 0.005)

    # -- signals -----------------------------------------------------------------------

    @contextlib.contextmanager
    def alarms(self) -> Iterator[None]:
        """A signal handler that submits, cancels, and stops the manager now and then.

        It does nothing on platforms without such signals.
        """
        if (
            not hasattr(signal, "setitimer")
            or threading.current_thread() is not threading.main_thread()
        ):
            yield
            return

        signal.signal(signal.SIGALRM, self._on_alarm)
        self._alarm_after = self.rng.choice([0.002, 0.01, 0.05])
        signal.setitimer(signal.ITIMER_REAL, 0.002)

        try:
            yield
        finally:
            self._alarm_after = 0.0
            signal.setitimer(signal.ITIMER_REAL, 0)
            # one that is on its way must find a handler
            signal.signal(signal.SIGALRM, lambda *_: None)

    def _on_alarm(self, _: int, frame: FrameType | None) -> None:
        """Act, then set the next alarm.

        An interval would leave a slow machine nothing but alarms.
        """
        # Without the GIL CPython may call this in a child before the child knows that
        # it was forked.
        if os.getpid() != self._process:
            return
        if self._alarm_after and self.chaos.strikes("a signal in a signal handler", 0.1):
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
        # If the stack is nearly full, a RecursionError of the handler's own would look
        # like a fault of the manager.
        if frame is None or frame.f_code is not fail.__code__:
            self._interfere()
        signal.setitimer(signal.ITIMER_REAL, self._alarm_after)

    def _interfere(self) -> None:
        self.chaos.note("a signal")
        self.submitter.submit(self.chaos.rng, self.chaos.rng.choice(UNHURRIED), AT_ONCE)
        self.submitter.cancel_one(self.chaos.rng)
        self.ledger.engine.stats()
        self.ledger.engine.metrics()
        if (
            self.chaos.strikes("a signal handler stops the manager", 0.0005)
            and self.submitter.manager is not None
        ):
            self.submitter.manager.stop()

    # -- watching ----------------------------------------------------------------------

    def _look(self, rng: random.Random) -> None:
        """Watch the figures, steal wake-ups, collect garbage, join for a moment."""
        before = dict.fromkeys(("arrived", "completed", "failed", "retried", "cancelled"), 0)
        while not self.over.wait(rng.random() * 0.003):
            self._check_figures(before)
            if rng.random() < 0.3:
                steal_wake_up(self.chaos, self.ledger.engine)
            if rng.random() < 0.01:
                self.chaos.note("garbage is collected")
                gc.collect()

            if rng.random() < 0.02 and (manager := self.submitter.manager) is not None:
                (manager.join if rng.random() < 0.5 else manager.wait_ready)(0.01)
                del manager

    def _check_figures(self, before: dict[str, int]) -> None:
        stats, metrics = self.ledger.engine.stats(), self.ledger.engine.metrics()
        for field in fields(stats):
            if getattr(stats, field.name) < 0:
                self.ledger.broken(f"stats().{field.name} is {getattr(stats, field.name)}")

        if stats.active_workers > self.ledger.most_workers:
            self.ledger.broken(
                f"{stats.active_workers} workers, {self.ledger.most_workers} are the most"
            )
        if stats.abandoned_workers > self.ledger.most_workers:
            self.ledger.broken(
                f"{stats.abandoned_workers} abandoned, {self.ledger.most_workers} are the most"
            )

        for name, least in before.items():
            now = getattr(metrics, f"total_tasks_{name}")
            if now < least:
                self.ledger.broken(f"metrics().total_tasks_{name} fell from {least} to {now}")
            before[name] = now


async def _awaited(future: TaskFuture[Any]) -> None:
    """Await a future.

    The traceback of an error keeps this frame, which must not know the manager.
    """
    with contextlib.suppress(BaseException):
        await future
