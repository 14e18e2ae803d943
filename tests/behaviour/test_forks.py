"""Code of the user's forks where tasker calls it: the child ends as a program ends, and leaves all else alone.

A program prints a line for all that is called, and says if that is in a child: there only the child's own code prints.
"""

from __future__ import annotations

import os

import pytest

from tests.support.snippets import run_python

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]

PROGRAM = """
    import logging, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
    parent = os.getpid()
    ended = threading.Event()

    def note(*what):
        where = "" if os.getpid() == parent else "IN THE CHILD "
        os.write(1, (where + " ".join(map(str, what)) + chr(10)).encode())

    def fork(end):
        child = os.fork()
        if child == 0:
            return end()
        note("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        ended.set()

    class Everything:
        # collector and logger
        def __getattr__(self, name):
            if name.startswith("record"):
                return lambda *args: note(name)
            return lambda *args: os.getpid() == parent or note("logged", args)
        def metrics(self):
            return None

    def make(**options):
        return TaskManager(Config(**{
            "on_create": object, "on_destroy": lambda r: note("destroyed"), "worker_count": 1, "max_worker_count": 1,
            "resource_pool_size": 1, "logger": Everything(), "collector": Everything(), "burst_interval": 0,
            **options}))
"""

ENDS = {
    "returns": ("lambda: None", 0, ""),
    "sys.exit(3)": ("lambda: sys.exit(3)", 3, ""),
    "sys.exit()": ("sys.exit", 0, ""),
    "sys.exit('a reason')": ("lambda: sys.exit('a reason')", 1, "a reason"),
    "raises": ("lambda: 1 / 0", 1, "ZeroDivisionError: division by zero"),
    "os._exit(5)": ("lambda: os._exit(5)", 5, ""),
}


def lines_of(code, *, stderr=""):
    done = run_python(PROGRAM + code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" if not stderr else stderr in done.stderr
    assert done.stderr.count("Traceback") <= 1
    return done.stdout.splitlines()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("collector", ["Everything()", "None"])
def test_the_child_of_a_task_ends_as_a_program_does(end, collector):
    does, status, stderr = ENDS[end]
    lines = lines_of(
        f"""
    with make(collector={collector}) as manager:
        future = manager.submit(lambda r: fork({does}))
        future.add_done_callback(lambda done: note("called back"))
        waiting = [manager.submit(lambda r: note("ran")) for _ in range(3)]
    """,
        stderr=stderr,
    )
    expected = [f"status {status}", "called back", "ran", "ran", "ran", "destroyed", "destroyed"]
    assert sorted(line for line in lines if "record" not in line) == sorted(expected)
    assert lines.count("record_completion") == (4 if collector != "None" else 0)
    assert not any("CHILD" in line for line in lines)


def test_what_the_child_of_a_task_has_printed_is_there_once():
    lines = lines_of("""
    manager = make()
    manager.queue_task(lambda r: fork(lambda: print("from the child")))
    manager.stop()
    """)
    assert lines.count("from the child") == 1


def test_the_child_of_run_task_goes_on_without_touching_what_is_the_parents():
    for end, outcome in (("lambda: 'returned'", "returned"), ("lambda: 1 / 0", "division by zero")):
        lines = lines_of(f"""
    manager = make(on_reset=lambda r: note("reset"))
    try:
        outcome = manager.run_task(lambda r: fork({end}))
    except ZeroDivisionError as error:
        outcome = error
    if os.getpid() != parent:
        note(outcome)
        sys.exit(4)
    manager.stop()
    """)
        assert [line for line in lines if "CHILD" in line] == [f"IN THE CHILD {outcome}"]
        assert "status 4" in lines
        assert lines.count("destroyed") == 2


PLACES = {
    "on_create": "make(on_create=lambda: fork(end), resource_pool_size=0).wait_ready()",
    "on_destroy": (
        "manager = make(on_destroy=lambda r: fork(end), resource_pool_size=0); manager.wait_ready(); manager.stop()"
    ),
    "check_health": "make(check_health=lambda e: fork(end) or True).submit(lambda r: 1 / 0).exception()",
    "on_check": "manager = make(on_check=lambda r: fork(end) and None, keepalive=0.1)",
    "on_reset": "make(on_reset=lambda r: fork(end)).submit(len)",
    "a done callback": "make().submit(len, once=True).add_done_callback(lambda done: fork(end))",
    "a callback": "make().queue_task_with_callback(lambda r: 0, lambda result, error: fork(end))",
    "a callback of a timeout": (
        "manager = make(); manager.submit(lambda r: ended.wait()); "
        "manager.submit(len, timeout=0.05).add_done_callback(lambda done: fork(end))"
    ),
    "an on_done callback": "make().submit(lambda ctx, r: (ctx.on_done(lambda: fork(end)), ctx.wait()), timeout=0.05)",
    "an initializer": "tasker.threadpool.ThreadPoolExecutor(1, initializer=lambda: fork(end)).submit(int)",
    "a call of a pool": "tasker.threadpool.ThreadPoolExecutor(1).submit(lambda: fork(end))",
    "a call of a view": "make().executor().submit(lambda: fork(end))",
    "a map": "list(make().map(lambda r, end: fork(end), [end], chunksize=2))",
}


@pytest.mark.parametrize("end", ["sys.exit(3)", "returns"])
@pytest.mark.parametrize("place", PLACES)
def test_the_child_of_whatever_tasker_calls_ends_as_a_program_does(place, end):
    does, status, _ = ENDS[end]
    lines = lines_of(f"""
    import tasker.threadpool
    end = {does}
    {PLACES[place]}
    ended.wait(20)
    """)
    assert f"status {status}" in lines
    assert not any("CHILD" in line for line in lines)


CHUNKS = {
    "manager": "make().map(lambda r, first: step(first), [True, False], chunksize=2)",
    "view": "make().executor().map(step, [True, False], chunksize=2)",
    "drop-in": "tasker.threadpool.ThreadPoolExecutor(1).map(step, [True, False], chunksize=2)",
}


@pytest.mark.parametrize("end", ["sys.exit(3)", "returns", "raises"])
@pytest.mark.parametrize("of", CHUNKS)
def test_the_child_of_one_item_of_a_chunk_does_not_go_on_with_the_next(of, end):
    does, status, stderr = ENDS[end]
    lines = lines_of(
        f"""
    import tasker.threadpool
    def step(first):
        if first:
            fork({does})
        else:
            note("next")
    list({CHUNKS[of]})
    """,
        stderr=stderr,
    )
    assert f"status {status}" in lines
    assert "next" in lines
    assert "IN THE CHILD next" not in lines


def test_a_child_may_make_a_manager_of_its_own_before_it_returns():
    lines = lines_of("""
    import logging

    def in_the_child():
        with make(on_create=str, collector=None, logger=logging.getLogger("own")) as own:
            note(own.queue_task(len), own.run_task(len))

    manager = make()
    manager.queue_task(lambda r: fork(in_the_child))
    manager.stop()
    """)
    assert [line for line in lines if "CHILD" in line] == [
        "IN THE CHILD 0 0",
        "IN THE CHILD destroyed",
        "IN THE CHILD destroyed",
    ]
    assert "status 0" in lines


def test_a_fork_under_load_raises_nothing():
    """Deques, sets and dictionaries change while the fork looks at them: without the GIL in the middle of a copy."""
    done = run_python("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        wrong, over = [], threading.Event()
        sys.unraisablehook = lambda args: wrong.append(repr(args.exc_value))
        manager = TaskManager(Config(on_create=dict, on_destroy=dict.clear, worker_count=2, max_worker_count=2))

        def load():
            while not over.is_set():
                for future in [manager.submit(lambda resource: 1, priority=n % 2 > 0) for n in range(20)]:
                    future.result()

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            child = os.fork()
            if child == 0:
                os._exit(1 if wrong else 0)
            if status := os.waitpid(child, 0)[1]:
                wrong.append(f"status {os.waitstatus_to_exitcode(status)}")
        over.set()
        for thread in threads:
            thread.join()
        manager.stop()
        print(wrong)
    """)
    assert (done.stdout, done.stderr) == ("[]\n", "")
