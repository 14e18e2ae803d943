"""freezegun: the clocks of a program stand still, or jump, and its limits pass all the same."""

from __future__ import annotations

import pytest

from tests.clients.programs import run

pytest.importorskip("freezegun", reason="needs freezegun (extra `clients`)")

BEGIN = """
    import threading, time
    from freezegun import freeze_time
    from tasker import *

    def config(**options):
        return Config(on_create=object, on_destroy=lambda r: None, worker_count=1, max_worker_count=1, **options)

    def stuck(**options):
        manager = TaskManager(config(**options))
        running = threading.Event()
        manager.submit(lambda resource: running.set() or never.wait())
        running.wait()
        return manager

    never = threading.Event()
"""

# what `time.monotonic` then says: the seconds since 1970
frozen = pytest.mark.parametrize("day", ["1970-01-01", "2038-01-19"])


@frozen
def test_what_hangs_is_given_up(day):
    run(
        f"day = {day!r}",
        BEGIN,
        """
        import tasker._pool.closing
        tasker._pool.closing.KILL_TIMEOUT_S = 0.05
        with freeze_time(day):
            assert len(stuck().kill(0.05).abandoned) == 1
            assert len(stuck().stop(0.05).abandoned) == 1
        manager = stuck()
        with freeze_time(day):
            assert len(manager.kill(0.05).abandoned) == 1
        """,
    )


@frozen
def test_timeouts_and_deadlines_pass(day):
    run(
        f"day = {day!r}",
        BEGIN,
        """
        with freeze_time(day):
            manager = stuck(queue_size=1)
            assert isinstance(manager.submit(len, timeout=0.05).exception(), TaskTimeoutError)
            waiting = manager.submit(len, timeout=1000)
            try:
                manager.submit(len, queue_timeout=0.05)
            except QueueFullError:
                assert not manager.join(0.05)
            assert with_timeout(background(), 0.05).wait()
            assert with_deadline(background(), time.monotonic() + 0.05).wait()
            assert 0 < with_deadline(background(), time.monotonic() + 60).remaining() <= 60
            with ThreadPoolExecutor(1) as pool:
                done = threading.Event()
                results = pool.map(lambda _: done.wait(), [0], timeout=0.05)
                try:
                    next(results)
                except TimeoutError:
                    done.set()
            assert not waiting.done()
        never.set()
        assert manager.stop().completed == 1
        """,
    )


@frozen
def test_nothing_is_late_because_the_clock_is_stopped_moved_or_released(day):
    run(
        f"day = {day!r}",
        BEGIN,
        """
        manager = stuck(create_timeout=1000)
        housekeeper = manager._engine.housekeeper

        def some_ticks():
            before = housekeeper._beats
            while housekeeper._beats < before + 3:
                housekeeper.wake()
                time.sleep(0.001)

        waiting = [manager.submit(lambda resource: 1, timeout=1000)]
        with freeze_time(day) as clock:
            some_ticks()
            waiting.append(manager.submit(lambda resource: 1, timeout=1000))
            clock.tick(100_000)
            some_ticks()
            waiting.append(manager.submit(lambda resource: 1, timeout=1000))
        some_ticks()
        assert not any(future.done() for future in waiting)
        never.set()
        assert [future.result() for future in waiting] == [1, 1, 1]
        assert manager.stop().drained
        """,
    )


@frozen
def test_a_tasker_that_is_imported_while_the_clocks_are_stopped_goes_by_the_real_one(day):
    run(
        f"""
        from freezegun import freeze_time
        import time
        times = [time.monotonic()]
        with freeze_time({day!r}):
            import tasker._sync.clock
            times.append(tasker._sync.clock.monotonic())
        with freeze_time({day!r}):
            times.append(tasker._sync.clock.monotonic())
        times += [tasker._sync.clock.monotonic(), time.monotonic()]
        assert times == sorted(times), times
        """
    )
