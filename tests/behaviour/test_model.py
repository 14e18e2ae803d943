"""Random programs against a sequential model: order, outcomes, runs and every count agree whenever all is quiet.

The tasks of a program wait at gates which the program opens one by one, so it is known what runs and what waits.
`TASKER_STRESS_SECONDS` sets about how long each of the two tests takes (default 2), `TASKER_STRESS_SEED` repeats a run.
The seed is printed."""

from __future__ import annotations

import math
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed; the extra `dev` brings it")

from hypothesis import Phase, configuration, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import tasker._pool.lifecycle
from tasker import (
    Config,
    Slot,
    TaskFuture,
    TaskManager,
    background,
    current_slot,
    with_cancel,
)
from tasker.testing import ManualClock
from tests.support.errors import Sick
from tests.support.recording import Factory, Log, Resource
from tests.support.waiting import PATIENCE, eventually

SECONDS = float(os.environ.get("TASKER_STRESS_SECONDS", "2"))
SEED = int(os.environ.get("TASKER_STRESS_SEED", str(random.SystemRandom().randrange(10**6))))
TOTALS = ("arrived", "completed", "failed", "retried", "cancelled")
TOLD = ("arrived", "completed", "failed", "retried")  # what a collector is told
FAR_AWAY = 3600.0  # seconds: deadlines pass when the program says so
IMPATIENCE = 1.0  # seconds for the programs that are tried once one has failed, in order to find a shorter one

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240 + 20 * SECONDS),  # making a failing program shorter takes a while
    pytest.mark.usefixtures("no_pauses"),
]


def quickly(examples_a_second: float) -> settings:
    phases = (Phase.generate, Phase.shrink)  # to explain a failure would take as long again
    return settings(
        max_examples=max(1, int(SECONDS * examples_a_second)),
        deadline=None,
        database=None,
        phases=phases,
    )


@pytest.fixture(autouse=True)
def hypothesis_writes_elsewhere(tmp_path) -> Iterator[None]:
    print(f"TASKER_STRESS_SEED={SEED}")
    configuration.set_hypothesis_home_dir(tmp_path)
    yield
    configuration.set_hypothesis_home_dir(None)


@dataclass
class Call:
    """The model's idea of a task. Its first `sick_runs` runs break their resource, the next one returns or fails."""

    number: int
    priority: bool
    once: bool
    sick_runs: int
    fails: bool
    timed: bool  # has a timeout
    with_context: bool
    state: str = "waiting"  # or "running"; at last the name of its outcome
    runs: int = 0
    breakage: int = 0  # the last one that it has met
    asked_to_end: bool = False  # cancelled while it ran, timed out, killed: not retried any more

    def live(self) -> bool:
        return self.state in ("waiting", "running")


class Model:
    """A manager without threads: what must be the case after each step."""

    def __init__(
        self, workers: int, queue_size: int, max_retries: int, pool_size: int | None
    ) -> None:
        self.workers = workers
        self.queue_size = queue_size
        self.max_retries = max_retries
        self.pool_size = workers if pool_size is None else pool_size
        self.shares = pool_size is not None  # what run_task keeps: among threads
        # what waits for run_task, the next one last: "well", "suspect" or "condemned"
        self.shelf = ["well"] * (pool_size or 0)
        self.breakages = 0
        self.counted = 0  # those that count
        self.phase = "open"  # then "stopping" or "killing", then "closed"
        self.killed = False
        self.abandoned = 0
        self.calls: list[Call] = []
        self.lanes: dict[bool, list[Call]] = {True: [], False: []}  # by priority
        self.running: list[
            Call
        ] = []  # also those that were settled from outside and have not returned
        self.starts: list[int] = []
        self.totals: Counter[str] = Counter()

    def submit(self, call: Call) -> str:
        if self.phase != "open":
            return "TaskManagerShutdownError"
        if (
            self.queue_size
            and sum(not waiting.runs for waiting in self.waiting()) == self.queue_size
        ):
            return "QueueFullError"
        self.totals["arrived"] += 1
        self.calls.append(call)
        self.lanes[call.priority].append(call)
        self.go_on()
        return "accepted"

    def waiting(self) -> list[Call]:
        return self.lanes[True] + self.lanes[False]

    def go_on(self, proof: float = math.inf) -> None:
        """Free workers take what waits; a manager that is closing and has nothing left to do is closed.

        `proof`: the breakages before the resource was made of a worker that has become free. If there are only
        retries which are not for that, it is replaced."""
        while self.waiting() and len(self.running) < self.workers:
            suitable = [call for call in self.waiting() if call.breakage <= proof]
            call = (suitable or self.waiting())[0]
            self.lanes[call.priority].remove(call)
            call.state = "running"
            call.runs += 1
            self.running.append(call)
            self.starts.append(call.number)
        if self.phase != "open" and not self.running:
            self.phase = "closed"

    def end(self, call: Call, made_after: int) -> None:
        """A run comes to its end, on a resource that was made after so many breakages."""
        self.running.remove(call)
        sick = call.runs <= call.sick_runs
        if sick:
            self.broke(counts=call.runs == 1)
            call.breakage = self.breakages
        if call.state != "running":
            pass  # settled from outside: the run's own outcome comes too late
        elif sick and not call.once and not call.asked_to_end and call.runs <= self.max_retries:
            self.totals["retried"] += 1
            call.state = "waiting"
            self.lanes[call.priority].insert(0, call)
        elif sick or call.fails:
            self.settle(
                call, f"{'Sick' if sick else 'ValueError'}({call.number}, {call.runs})", "failed"
            )
        else:
            self.settle(call, f"returned {call.number}", "completed")
        self.go_on(math.inf if sick else made_after)

    def settle(self, call: Call, state: str, total: str) -> None:
        if call.state == "waiting":
            self.lanes[call.priority].remove(call)
            self.totals["never_started"] += call.runs == 0
        call.state = state
        self.totals[total] += 1

    def cancel(self, call: Call) -> bool:
        if call.state == "waiting":
            self.settle(call, "cancelled", "cancelled")
        if call.state == "running":
            call.asked_to_end = True
        return call.state == "cancelled"

    def expire(self, call: Call) -> None:
        if call.live():
            call.asked_to_end = True
            self.settle(call, "TaskTimeoutError", "failed")

    def run_task(self, how: str) -> str:
        if self.phase != "open":
            return "TaskManagerShutdownError"
        self.totals["arrived"] += 1
        while self.shelf and self.shelf[-1] == "condemned":
            self.shelf.pop()
        if how == "no resource" and not self.shelf:
            self.totals["failed"] += 1
            return "ResourceCreationError"
        del self.shelf[-1:]  # one that is there, or a new one
        if how == "sick":
            self.broke(counts=True)
            self.totals["failed"] += 1
            return "Sick"
        if len(self.shelf) < self.pool_size:
            self.shelf.append("well")
        self.totals["failed" if how == "fails" else "completed"] += 1
        return "ValueError" if how == "fails" else "returned"

    def broke(self, *, counts: bool) -> None:
        """A resource broke. Time stands still, so the second one that counts begins a plague without an end."""
        self.breakages += 1
        self.counted += counts
        begins = counts and self.counted == 2
        for place, state in enumerate(self.shelf):
            if state == "well":
                self.shelf[place] = "suspect"
            elif begins:
                self.shelf[place] = "condemned"

    def stop(self) -> None:
        if self.phase == "open":
            self.phase = "stopping"
            self.shelf = []
        self.go_on()

    def kill(self, *, at_once: bool) -> None:
        if self.phase == "closed":
            return
        self.phase = "killing"
        self.killed = True
        self.shelf = []
        for call in self.waiting():
            self.settle(call, "TaskManagerKilledError", "cancelled")
        for call in self.running:
            call.asked_to_end = True
        if at_once:
            for call in self.running:
                if call.live():
                    self.settle(call, "TaskManagerKilledError", "failed")
            self.abandoned = len(self.running)
            self.phase = "closed"
        self.go_on()

    def picture(self) -> dict[str, Any]:
        """All that can be seen; `Programs.picture()` must see the same."""
        active = self.workers if self.phase == "open" else len(self.running)
        return {
            "starts": self.starts,
            "calls": [(call.state, call.runs) for call in self.calls],
            "called back": [call.number for call in self.calls if not call.live()],
            "asked to end": sorted(call.number for call in self.running if call.asked_to_end),
            "totals": {name: self.totals[name] for name in TOTALS},
            "told": {name: self.totals[name] for name in TOLD},
            "stats": {
                "base_workers": active,
                "active_workers": active,
                "burst_workers": 0,
                "idle_workers": active - len(self.running),
                "creating_workers": 0,
                "queued_tasks": len(self.lanes[False]),
                "priority_tasks": len(self.lanes[True]),
                "running_tasks": len(self.running),
                "available_resources": len(self.shelf),
                "abandoned_workers": 0,
            },
            "live resources": active + len(self.shelf),
            "to be replaced": [],
            "misuses": [],
            "report": None
            if self.phase != "closed"
            else {
                "drained": not self.killed,
                "completed": self.totals["completed"],
                "failed": self.totals["failed"],
                "cancelled": self.totals["cancelled"],
                "never_started": self.totals["never_started"],
                "destroy_errors": 0,
                "abandoned": self.abandoned,
            },
        }


class Collector:
    """Counts what it is told, and leaves the figures to the manager."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.told = dict.fromkeys(TOLD, 0)

    def count(self, what: str) -> None:
        with self.lock:
            self.told[what] += 1

    def record_arrival(self) -> None:
        self.count("arrived")

    def record_completion(self, stamps: object) -> None:
        self.count("completed")

    def record_failure(self, stamps: object) -> None:
        self.count("failed")

    def record_retry(self) -> None:
        self.count("retried")

    def metrics(self) -> None:
        return None


def state_of(future: TaskFuture[Any]) -> str:
    """As the model names it."""
    if not future.done():
        return "running" if future.running() else "waiting"
    if future.cancelled():
        return "cancelled"
    error = future.exception(0)
    if isinstance(error, (Sick, ValueError)):
        return repr(error)
    return f"returned {future.result(0)}" if error is None else type(error).__name__


def totals_of(manager: TaskManager[Any]) -> dict[str, int]:
    metrics = manager.metrics()
    return {name: getattr(metrics, f"total_tasks_{name}") for name in TOTALS}


def end_run(factory: Factory, resource: Resource, sick: bool, fails: bool, *args: object) -> None:
    """Raise what a run is to end with, if anything; the arguments tell its error from others."""
    if resource.broken:
        factory.misuses.append(f"{resource.number} used although it is broken")
    if sick:
        resource.broken = True
        raise Sick(*args)
    if fails:
        raise ValueError(*args)


def outcome_of(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:
        return error


indices = st.integers(0, 99)  # of something in a list, modulo its length
scripts = st.fixed_dictionaries(
    {
        "priority": st.booleans(),
        "once": st.sampled_from([False, False, True]),
        "sick_runs": st.sampled_from([0, 0, 1, 2, 99]),
        "fails": st.booleans(),
        "timed": st.booleans(),
        "with_context": st.booleans(),
    }
)
several_scripts = st.lists(scripts, min_size=1, max_size=4)


@seed(SEED)
class Programs(RuleBasedStateMachine):
    """Each rule does the same to a manager and to a model of it, and then the two must agree."""

    patience = PATIENCE
    manager: Any = None
    over = False  # gates stay open from now on

    @initialize(
        workers=st.sampled_from([1, 1, 2, 3]),
        queue_size=st.sampled_from([0, 1, 2]),
        max_retries=st.integers(0, 3),
        pool_size=st.sampled_from([None, 0, 1, 2]),
        collects=st.booleans(),
        open_for=st.integers(0, 15),
        scripts=several_scripts,
    )
    def begin(self, workers, queue_size, max_retries, pool_size, collects, open_for, scripts):
        self.model = Model(workers, queue_size, max_retries, pool_size)
        self.factory = Factory()
        self.factory.any_thread = pool_size != 0
        self.collector = Collector() if collects else None
        self.open_for = open_for  # submissions before the first rule may close the manager
        self.lock = threading.Lock()  # guards the next five, which tasks write
        self.failed_at: dict[int, int] = {}  # by task: the resources that were made until then
        # by task: the breakages before its resource was made
        self.made_after: dict[int, int] = {}
        self.starts: list[int] = []
        self.gates: dict[int, SimpleQueue[Callable[[], object] | None]] = {}
        self.contexts: dict[int, Any] = {}
        # the indices of resources: of those that live, of those that lived when all was quiet, and
        # of those that were made and destroyed since
        self.living: set[int] = set()
        self.before: set[int] = set()
        self.made: set[int] = set()
        self.ended: set[int] = set()
        self.futures: list[TaskFuture[Any]] = []
        self.called_back: list[int] = []
        self.parent = with_cancel(background())
        self.manager = TaskManager(
            Config(
                on_create=self.create,
                on_destroy=self.destroy,
                worker_count=workers,
                max_worker_count=workers,
                burst_interval=0,
                ctx=self.parent,
                check_health=lambda error: not isinstance(error, Sick),
                max_retries=max_retries,
                queue_size=queue_size,
                resource_pool_size=pool_size,
                collector=self.collector,
                logger=Log(),
            )
        )
        self.agree()
        self.submit_all(scripts, inside=False)

    # -- resources ---------------------------------------------------------------------------------------------------

    def create(self, slot: Slot) -> Resource:
        with self.lock:
            if slot.index in self.living:
                self.factory.misuses.append(f"{slot} is another one's")
            self.living.add(slot.index)
            self.made.add(slot.index)
        try:
            made = self.factory.create()
        except BaseException:
            self.end(slot)
            raise
        made.slot = slot
        # the model is told of a breakage before the workers are
        made.made_after = self.model.breakages
        return made

    def destroy(self, resource: Resource) -> None:
        if current_slot() is not resource.slot:
            self.factory.misuses.append(f"{current_slot()} is not {resource.slot}")
        self.factory.destroy(resource)
        self.end(resource.slot)

    def end(self, slot: Slot) -> None:
        with self.lock:
            self.living.discard(slot.index)
            self.ended.add(slot.index)

    def left_out(self) -> set[int]:
        """The indices that were free since all was quiet, while a larger one was given."""
        with self.lock:
            smaller = {free for index in self.made for free in range(index)}
            left_out = smaller - self.before - self.made - self.ended
            self.before, self.made, self.ended = set(self.living), set(), set()
        return left_out

    # -- what tasks do ---------------------------------------------------------------------------------------------

    def body(self, resource: Resource, number: int, sick_runs: int, fails: bool) -> int:
        gate: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        with self.lock:
            self.gates[number] = gate
            self.starts.append(number)
            run = self.starts.count(number)
            self.made_after[number] = resource.made_after
            # time stands still, so each wave lasts, and nothing else is a proof
            if resource.number < self.failed_at.get(number, 0):
                self.factory.misuses.append(f"retry {number} on the suspect {resource.number}")
        while not self.over and (job := gate.get()) is not None:
            job()
        if run <= sick_runs:
            with self.lock:
                self.failed_at[number] = len(self.factory.created)
        end_run(self.factory, resource, run <= sick_runs, fails, number, run)
        return number

    def call(self, fn: Callable[[], Any], *, inside: bool) -> Any:
        """What `fn` returns or raises, called here, or `inside` one of the running tasks if there is one."""
        if not inside or not self.model.running:
            return outcome_of(fn)
        answers: SimpleQueue[Any] = SimpleQueue()
        self.gates[self.model.running[0].number].put(lambda: answers.put(outcome_of(fn)))
        return answers.get(timeout=self.patience)

    # -- the rules -------------------------------------------------------------------------------------------------

    @rule(scripts=several_scripts)
    def submit(self, scripts):
        self.submit_all(scripts, inside=False)

    @precondition(lambda self: self.model.running)
    @rule(scripts=several_scripts)
    def submit_from_a_task(self, scripts):
        self.submit_all(scripts, inside=True)

    def submit_all(self, scripts: list[dict[str, Any]], *, inside: bool) -> None:
        for script in scripts:
            self.submit_one(Call(len(self.futures), **script), inside)
            self.agree()

    def submit_one(self, call: Call, inside: bool) -> None:
        task = self.factory.use(self.body)

        def task_with_context(ctx, resource, number, sick_runs, fails):
            self.contexts[number] = ctx
            return task(resource, number, sick_runs, fails)

        answer = self.call(
            lambda: self.manager.submit(
                task_with_context if call.with_context else task,
                *(call.number, call.sick_runs, call.fails),
                priority=call.priority,
                once=call.once,
                timeout=FAR_AWAY if call.timed else None,
                queue_timeout=0,
            ),
            inside=inside,
        )
        accepted = isinstance(answer, TaskFuture)
        self.same("accepted" if accepted else type(answer).__name__, self.model.submit(call))
        if accepted:
            self.futures.append(answer)
            answer.add_done_callback(lambda _: self.called_back.append(call.number))

    @precondition(lambda self: self.model.running)
    @rule(which=st.lists(indices, min_size=1, max_size=4))
    def let_end(self, which):
        for index in which:
            if self.model.running:
                call = self.model.running[index % len(self.model.running)]
                self.model.end(call, self.made_after[call.number])
                self.gates[call.number].put(None)
                self.agree()

    @precondition(lambda self: self.model.calls)
    @rule(index=indices, among=st.sampled_from(["waiting", "running", "any"]))
    def cancel(self, index, among):
        calls = [call for call in self.model.calls if call.state == among] or self.model.calls
        call = calls[index % len(calls)]
        self.same(self.futures[call.number].cancel(), self.model.cancel(call))

    @precondition(lambda self: any(call.timed for call in self.model.calls))
    @rule(index=indices, among=st.sampled_from(["waiting", "running", "any"]))
    def pass_a_deadline(self, index, among):
        timed = [call for call in self.model.calls if call.timed]
        calls = [call for call in timed if call.state == among] or timed
        call = calls[index % len(calls)]
        self.futures[call.number]._expire()
        self.model.expire(call)

    @rule(
        how=st.sampled_from(["returns", "fails", "sick", "no resource"]),
        with_context=st.booleans(),
        inside=st.booleans(),
    )
    def run_task(self, how, with_context, inside):
        def body(resource):
            end_run(self.factory, resource, how == "sick", how == "fails")
            return "returned"

        task = self.factory.use(body)
        fn = (lambda ctx, resource: task(resource)) if with_context else task
        if how == "no resource":
            self.factory.fail_next.append(OSError("no resource"))
        # a thread keeps what it has made where that is not shared, and the model knows of one thread
        inside = inside and self.model.shares
        expected = self.model.run_task(how)
        answer = self.call(lambda: self.manager.run_task(fn), inside=inside)
        self.factory.fail_next.clear()
        self.same(answer if isinstance(answer, str) else type(answer).__name__, expected)

    @precondition(lambda self: len(self.model.calls) >= self.open_for)
    @rule(how=st.sampled_from(["stop", "cancel the parent context", "kill", "kill at once"]))
    def close(self, how):
        if how == "stop":
            self.call(
                self.manager.stop, inside=True
            )  # from inside it does not wait, and there is nothing to wait for
            self.model.stop()
        elif how == "cancel the parent context":
            self.parent.cancel()
            self.model.stop()
        elif how == "kill":
            self.call(lambda: self.manager.kill(PATIENCE), inside=True)
            self.model.kill(at_once=False)
        else:
            self.manager.kill(0)
            self.model.kill(at_once=True)

    # -- the comparison ----------------------------------------------------------------------------------------------

    def same(self, seen: object, expected: object) -> None:
        if seen != expected:
            Programs.patience = IMPATIENCE
        assert seen == expected

    @invariant()
    def agree(self) -> None:
        """Wait until all is quiet, which is when the picture is as expected."""
        expected = self.model.picture()
        deadline = time.monotonic() + self.patience
        while (seen := self.picture()) != expected and time.monotonic() < deadline:
            if seen["starts"] != expected["starts"][: len(seen["starts"])]:
                break  # no waiting will change that
            time.sleep(0.0005)
        self.same(seen, expected)
        self.same(self.left_out(), set())

    def picture(self) -> dict[str, Any]:
        running = [call.number for call in self.model.running]
        with self.lock:
            starts = list(self.starts)
        report = None
        if self.model.phase == "closed":
            report = asdict(self.manager.stop(self.patience))
            # what is still called back at that moment is named as well
            report["abandoned"] = sum("worker" in name for name in report["abandoned"])
        return {
            "starts": starts,
            "calls": [(state_of(future), future.attempts) for future in self.futures],
            "called back": sorted(self.called_back),
            "asked to end": sorted(number for number in running if self.asked_to_end(number)),
            "totals": totals_of(self.manager),
            "told": self.collector.told if self.collector else self.model.picture()["told"],
            "stats": asdict(self.manager.stats()),
            "live resources": self.factory.live,
            "to be replaced": [
                worker.name
                for worker in self.manager._engine.crew.members
                if worker.proof() < worker._condemned
            ],
            "misuses": list(self.factory.misuses),
            "report": report,
        }

    def asked_to_end(self, number: int) -> bool:
        if number in self.contexts:
            return self.contexts[number].cancelled()
        return self.futures[
            number
        ]._cancel_asked  # of a task without a context nothing public says so

    def teardown(self) -> None:
        if self.manager is None:
            return
        try:
            if sys.exception() is None:  # the program has not failed
                while self.model.running:
                    self.let_end([0])
                self.close("stop")
                self.agree()
                self.same(self.factory.live, 0)
        finally:
            self.over = True
            for gate in list(self.gates.values()):
                gate.put(None)
            self.manager.kill(PATIENCE)


def test_random_programs_do_what_a_sequential_model_says(monkeypatch):
    monkeypatch.setattr(
        tasker._pool.lifecycle, "_JOIN_S", PATIENCE
    )  # a kill waits for idle workers, however slow they are
    Programs.patience = PATIENCE
    with ManualClock():
        run_state_machine_as_test(Programs, settings=quickly(20))


def test_workers_that_run_freely_come_to_the_outcomes_and_counts_of_a_sequential_model():
    @seed(SEED)
    @quickly(50)
    @given(
        workers=st.integers(1, 4),
        queue_size=st.sampled_from([0, 1, 5]),
        max_retries=st.integers(0, 3),
        calls=st.lists(scripts, max_size=100),
    )
    def check(workers, queue_size, max_retries, calls):
        model = Model(workers, queue_size, max_retries, 0)
        with ManualClock():
            run_freely(model, [Call(number, **script) for number, script in enumerate(calls)])

    check()


def run_freely(model: Model, calls: list[Call]) -> None:
    factory = Factory()
    lock = threading.Lock()  # guards what is below
    runs: Counter[int] = Counter()

    def body(resource, number, sick_runs, fails):
        with lock:
            runs[number] += 1
            run = runs[number]
        end_run(factory, resource, run <= sick_runs, fails, number, run)
        return number

    task = factory.use(body)
    config = Config(
        on_create=factory.create,
        on_destroy=factory.destroy,
        worker_count=model.workers,
        max_worker_count=model.workers,
        check_health=lambda error: not isinstance(error, Sick),
        max_retries=model.max_retries,
        queue_size=model.queue_size,
        resource_pool_size=0,
        logger=Log(),
    )
    with TaskManager(config) as manager:
        futures = [
            manager.submit(
                *(task, call.number, call.sick_runs, call.fails),
                priority=call.priority,
                once=call.once,
                queue_timeout=PATIENCE,
            )
            for call in calls
        ]
        for call in calls:  # one after the other: their order changes nothing of what is compared
            model.submit(call)
            while model.running:
                model.end(model.running[0], model.breakages)
        assert manager.join(PATIENCE)
        outcomes = [(state_of(future), future.attempts) for future in futures]
        assert outcomes == [(call.state, call.runs) for call in calls]
        assert runs == {call.number: call.runs for call in calls}
        assert totals_of(manager) == model.picture()["totals"]
        eventually(lambda: asdict(manager.stats()) == model.picture()["stats"])
        broken = sum(min(call.runs, call.sick_runs) for call in calls)
        others = len(factory.created) - model.workers - broken
        # a plague may have cost each other worker one, and a tick those for which retries waited
        assert 0 <= others <= (model.workers - 1 + broken if broken > 1 else 0)
    assert factory.misuses == []
    assert factory.live == 0
