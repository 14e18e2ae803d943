"""`asubmit`: its outcomes and options, and how coroutines wait for room."""

from __future__ import annotations

import asyncio
import random
import threading
import traceback
from collections import Counter
from functools import partial

import pytest

from tasker import (
    ConfigError,
    QueueFullError,
    TaskManagerShutdownError,
    TaskTimeoutError,
)
from tests.support.errors import Sick
from tests.support.loops import double, fail_with, others, run, unhealed
from tests.support.waiting import PATIENCE, eventually


def test_asubmit_gives_the_result_or_raises_the_task_s_own_exception(new_manager):
    manager = new_manager()
    error = LookupError("mine")

    async def main():
        assert await manager.asubmit(lambda resource: resource.alive) is True
        assert await manager.asubmit(
            lambda context, resource, a, b: (context.err(), a, b), 1, "x"
        ) == (None, 1, "x")
        with pytest.raises(LookupError) as caught:
            await manager.asubmit(fail_with(error))
        assert caught.value is error

    run(main)


def test_asubmit_takes_the_options_of_submit(block, gate):
    manager = block(max_retries=3)
    order = []

    def note(resource, name):
        order.append(name)

    def break_resource(resource):
        order.append("sick")
        raise Sick

    async def main():
        tasks = [asyncio.create_task(manager.asubmit(note, "main"))]
        tasks += [asyncio.create_task(manager.asubmit(note, "priority", priority=True))]
        tasks += [asyncio.create_task(manager.asubmit(break_resource, once=True))]
        tasks += [asyncio.create_task(manager.asubmit(note, "never", timeout=0.001))]
        with pytest.raises(TaskTimeoutError):
            await tasks[3]
        gate.opened.set()
        with pytest.raises(Sick):
            await tasks[2]
        await asyncio.gather(*tasks[:2])
        assert order == ["priority", "main", "sick"]

    run(main)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda manager: manager.asubmit(double, 1, queue_timeout=-1),
            ConfigError,
            "queue_timeout",
        ),
        (
            lambda manager: manager.asubmit(double, 1, queue_timeout="soon"),
            ConfigError,
            "queue_timeout",
        ),
        (lambda manager: manager.asubmit(double, 1, timeout=0), ConfigError, "timeout"),
        (lambda manager: manager.asubmit(double, 1, priority="yes"), ConfigError, "priority"),
        (lambda manager: manager.asubmit(lambda a, b, c: 0), TypeError, "lambda"),
        (lambda manager: manager.asubmit(None), TypeError, "None"),
        (lambda manager: manager.asubmit(asyncio.sleep, 1), TypeError, "sleep"),
    ],
)
@pytest.mark.parametrize("queue_size", [0, 1])
def test_asubmit_refuses_what_submit_refuses(new_manager, queue_size, call, error, text):
    manager = new_manager(queue_size=queue_size)

    async def main():
        with pytest.raises(error, match=text):
            await call(manager)

    run(main)


def test_asubmit_awaits_room_and_is_served_first_come_first_served(block, gate):
    manager = block(queue_size=1)
    unhealed(manager)
    order = []

    async def main():
        tasks = [
            asyncio.create_task(manager.asubmit(lambda resource, i=i: order.append(i)))
            for i in range(300)
        ]
        await others()
        assert manager.stats().queued_tasks == 1
        gate.opened.set()
        await asyncio.gather(*tasks)
        assert order == list(range(300))

    run(main)


def test_who_comes_later_does_not_overtake_one_that_waits_for_room(block, gate):
    manager = block(queue_size=1)
    unhealed(manager)
    order = []

    async def main():
        async def submit(name):
            await manager.asubmit(lambda resource: order.append(name))

        filling = manager.submit(double, 1)
        early = [asyncio.create_task(submit(name)) for name in ("first", "second")]
        await others()
        gate.opened.set()
        assert filling.result(PATIENCE) == 2  # there is room, and the loop has yet to hear of it
        late = asyncio.create_task(submit("late"))
        await asyncio.gather(*early, late)
        assert order == ["first", "second", "late"]

    run(main)


def test_threads_and_coroutines_wait_for_room_in_one_line(block, gate):
    manager = block(queue_size=1)
    unhealed(manager)
    order, threads, line = [], [], manager._engine.queue.room._line

    async def main():
        filling = manager.submit(double, 1)
        tasks = []
        for i in range(9):
            if i % 3:
                note = partial(manager.queue_task, lambda resource, i=i: order.append(i))
                threads.append(threading.Thread(target=note))
                threads[-1].start()
            else:
                tasks.append(
                    asyncio.create_task(manager.asubmit(lambda resource, i=i: order.append(i)))
                )
                await others()
            eventually(lambda i=i: len(line) == i + 1)
        gate.opened.set()
        await asyncio.gather(*tasks, filling)

    run(main)
    for thread in threads:
        thread.join(PATIENCE)
    assert order == list(range(9))


@pytest.mark.parametrize("at", ["first", "middle", "all but the last"])
def test_those_that_are_cancelled_while_they_wait_for_room_hold_up_nobody(block, gate, at):
    manager = block(queue_size=1)
    unhealed(manager)
    order = []

    async def main():
        filling = manager.submit(double, 1)
        tasks = [
            asyncio.create_task(manager.asubmit(lambda resource, i=i: order.append(i)))
            for i in range(9)
        ]
        await others()
        leaving = {"first": tasks[:1], "middle": tasks[4:5], "all but the last": tasks[:-1]}[at]
        gate.opened.set()
        assert (
            filling.result(PATIENCE) == 2
        )  # the first has been woken, and is cancelled before it knows
        for task in leaving:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == len(
            leaving
        )
        assert order == [i for i, task in enumerate(tasks) if task not in leaving]

    run(main)
    assert not manager._engine.queue.room.is_wanted()


@pytest.mark.usefixtures("hasty")
def test_none_is_lost_of_threads_loops_and_cancelled_ones_that_wait_for_room(new_manager):
    manager = new_manager(queue_size=2, worker_count=2)
    unhealed(manager)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    ran, expected, trouble = Counter(), Counter(), []

    def note(resource, name):
        ran[name] += 1  # each name is one task's own

    async def submit_some(number):
        rng = random.Random(seed + number)
        for turn in range(8):
            names = [(number, turn, i) for i in range(25)]
            tasks = [asyncio.create_task(manager.asubmit(note, name)) for name in names]
            for task in rng.sample(tasks, 8):
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            expected.update(
                name for name, outcome in zip(names, outcomes, strict=True) if outcome is None
            )

    def program(number):
        try:
            if number == 0:
                for i in range(100):
                    manager.queue_task(note, (0, i))
                    expected[(0, i)] += 1
            else:
                asyncio.run(asyncio.wait_for(submit_some(number), PATIENCE))
        except BaseException:
            trouble.append(traceback.format_exc())

    threads = [threading.Thread(target=program, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert trouble == []
    assert manager.join(PATIENCE)
    assert expected - ran == Counter()
    assert max(ran.values()) == 1
    assert manager._engine.queue.room.used() == 0


def test_queue_timeout_bounds_the_wait_for_room(block):
    manager = block(queue_size=1)
    manager.submit(double, 1)

    async def main():
        for queue_timeout in (0, 0.001):
            with pytest.raises(
                QueueFullError, match="queue full: 1 of 1 waiting, 1 of 1 workers busy"
            ):
                await manager.asubmit(double, 4, queue_timeout=queue_timeout)
        patient = asyncio.create_task(manager.asubmit(double, 4, queue_timeout=float("inf")))
        await others()
        with pytest.raises(QueueFullError):  # though it is not the first in the line
            await manager.asubmit(double, 4, queue_timeout=0.001)
        assert not patient.done()
        patient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await patient

    run(main)


def test_a_task_that_meets_its_own_manager_s_full_queue_is_refused_at_once(new_manager):
    manager = new_manager(queue_size=1, worker_count=1, max_worker_count=1)

    def task(resource):
        waiting = manager.submit(double, 1)
        with pytest.raises(QueueFullError):
            asyncio.run(manager.asubmit(double, 2))
        with pytest.raises(QueueFullError):
            asyncio.run(anext(manager.amap(double, [2])))
        return waiting

    assert manager.queue_task(task).result(PATIENCE) == 2


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_those_that_wait_for_room_are_refused_when_the_manager_closes(block, gate, how):
    manager = block(queue_size=1)
    manager.submit(double, 1)

    async def main():
        tasks = [asyncio.create_task(manager.asubmit(double, i)) for i in range(50)]
        await others()
        if how == "stop":
            manager._engine.lifecycle.request_stop()
        else:
            manager._engine.lifecycle.request_kill(PATIENCE)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        gate.opened.set()
        kinds = {type(outcome) for outcome in outcomes[1:]}
        assert kinds == {TaskManagerShutdownError}

    run(main)


@pytest.mark.slow
def test_a_loop_that_does_not_run_holds_up_no_other(block, gate):
    manager = block(queue_size=1)
    manager.submit(double, 1)
    idle = asyncio.new_event_loop()
    stuck = idle.create_task(manager.asubmit(double, 2))
    idle.run_until_complete(others())

    async def main():
        tasks = [asyncio.create_task(manager.asubmit(double, i)) for i in range(5)]
        await others()
        gate.opened.set()
        return await asyncio.gather(*tasks)

    assert run(main) == [0, 2, 4, 6, 8]
    assert idle.run_until_complete(stuck) == 4
    idle.close()
