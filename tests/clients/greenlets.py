"""What must work where threads are greenlets, by gevent or by eventlet: programs that follow a `BEGIN`.

A program waits for what another greenlet does `soon`: it ends only if whoever waits lets the others run."""

from __future__ import annotations

BEGIN = """
    import concurrent.futures, threading, time
    from tasker import *

    def config(**options):
        return Config(on_create=object, on_destroy=lambda r: None, check_health=lambda error: True,
                      **{"worker_count": 2, "max_worker_count": 2, **options})
"""
MANAGER = """
    manager = TaskManager(config(queue_size=2))
    go = threading.Event()

    def task(resource):
        return go.wait() and current_resource() is resource

    soon(go.set)
    assert manager.queue_task(task)

    go.clear()
    soon(go.set)
    assert list(manager.map(lambda resource, n: go.wait() and n, range(9))) == [*range(9)]

    go.clear()
    soon(go.set)
    futures = [manager.submit(task) for _ in range(5)]  # which waits for room
    assert {future.result() for future in concurrent.futures.as_completed(futures)} == {True}

    go.clear()
    soon(go.set)
    assert manager.queue_task(lambda resource: manager.submit(task).result())  # a task that waits for another
    assert manager.run_task(task)
    try:
        current_resource()  # which other greenlets of the same thread have
    except RuntimeError:
        assert manager.join(5) and manager.stop().drained
"""
DIRECT = """
    import sqlite3
    made = []

    def connect():
        made.append(sqlite3.connect(":memory:"))
        return made[-1]

    def select(connection):
        time.sleep(0.001)
        return connection.execute("select 1").fetchone()

    limits = {"worker_count": 2, "run_task_limit": 3}
    with TaskManager(Config(on_create=connect, on_destroy=sqlite3.Connection.close, **limits)) as manager:
        assert manager.wait_ready(5)
        for _ in range(5):
            threads = [threading.Thread(target=manager.run_task, args=(select,)) for _ in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            # greenlets of one thread, which share what it keeps and leave nothing behind
            assert manager.stats().available_resources == 2
            assert len(manager._engine.pool._shelves) == 1
    assert manager.stop().destroy_errors == 0
"""
DROP_IN = """
    go = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        soon(go.set)
        assert list(pool.map(lambda n: go.wait() and n, range(6))) == [*range(6)]
        futures = [pool.submit(pow, 2, n) for n in range(4)]
        assert concurrent.futures.wait(futures).not_done == set()
        assert sorted(future.result() for future in futures) == [1, 2, 4, 8]
"""
LIMITS = """
    manager = TaskManager(config(worker_count=1, max_worker_count=1))
    never = threading.Event()
    stuck = manager.submit(lambda resource: never.wait(), timeout=0.05)
    assert isinstance(stuck.exception(), TaskTimeoutError)
    assert isinstance(manager.submit(len, timeout=0.05).exception(), TaskTimeoutError)
    with with_timeout(background(), 0.05) as context:
        assert context.wait()
    try:
        manager.submit(len).result(0.05)
    except TimeoutError:
        assert manager.kill(0.05).abandoned == ("tasker-worker-1",)
"""
TIMER = """
    from tasker import *
    with_timeout(background(), 0.01).wait()  # by a thread of the system
"""
CALLBACKS = """
    with TaskManager(config()) as manager:
        called = threading.Event()
        future = manager.submit(lambda ctx, resource: ctx.wait(), timeout=0.05)
        future.add_done_callback(lambda future: time.sleep(0.01) or called.set())
        assert isinstance(future.exception(), TaskTimeoutError)
        assert called.wait(10)
"""
LEFT_OPEN = """
    manager, pool = TaskManager(config()), ThreadPoolExecutor(2)
    for number in range(9):
        manager.submit(lambda resource: time.sleep(0.01) or print(end="."))
        pool.submit(lambda: time.sleep(0.01) or print(end="."))
"""
ELSEWHERE = """
    try:
        TaskManager(config(placement=Processes()))
    except ConfigError as error:
        print(error)
"""
