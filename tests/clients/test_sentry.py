"""Sentry's integration for threads: calls have the scope of their submitter, and what they report carries it.

It cannot be taken back, so each scene is a program.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.waiting import PATIENCE

pytest.importorskip("sentry_sdk")

SENTRY = """
import sentry_sdk
from sentry_sdk.transport import Transport
events = []
class Kept(Transport):
    def capture_envelope(self, envelope):
        events.extend(item.payload.json for item in envelope.items if item.payload.json)
def init():
    sentry_sdk.init(dsn="https://public@localhost/1", transport=Kept, traces_sample_rate=1.0, default_integrations=True)
"""

SCENE = """
def call(number):
    sentry_sdk.capture_message(str(number))
    return sentry_sdk.get_current_scope()._tags.get("request")

def scene(executor):
    for request in ("first", "second"):
        with sentry_sdk.isolation_scope(), sentry_sdk.new_scope() as scope:
            scope.set_tag("request", request)
            assert executor.submit(call, 0).result() == request
            assert list(executor.map(call, range(1, 4))) == [request] * 3
    assert executor.submit(call, 4).result() is None
    tags = [(event["message"], event.get("tags", {}).get("request")) for event in events]
    assert sorted(tags[:4]) == [(str(n), "first") for n in range(4)], tags
    assert sorted(tags[4:8]) == [(str(n), "second") for n in range(4)], tags
    assert tags[8:] == [("4", None)], tags
    events.clear()

def scenes():
    with ThreadPoolExecutor(2) as pool:
        scene(pool)
    with TaskManager(Config(on_create=object, on_destroy=id, worker_count=2, propagate_contextvars=False)) as manager:
        scene(manager.executor())
"""


TASKER = "from tasker import Config, TaskManager, ThreadPoolExecutor"


def run(*pieces: str) -> None:
    program = subprocess.run(
        [sys.executable, "-c", "\n".join(pieces)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert program.returncode == 0, program.stderr


def test_calls_have_the_scope_of_their_submitter():
    run(SENTRY, TASKER, SCENE, "init()", "scenes()")


def test_so_they_have_where_sentry_comes_first():
    run(SENTRY, "init()", TASKER, SCENE, "scenes()")


def test_so_they_have_where_it_comes_after_the_pool():
    run(
        SENTRY,
        TASKER,
        SCENE,
        "pool = ThreadPoolExecutor(2)",
        "init()",
        "scene(pool)",
        "pool.shutdown()",
    )


SPANS = """
def call():
    with sentry_sdk.start_span(op="inner") as span:
        return span.trace_id, span.parent_span_id

with sentry_sdk.start_transaction(name="outer") as outer, ThreadPoolExecutor(1) as pool:
    assert pool.submit(call).result() == (outer.trace_id, outer.span_id)
"""


def test_a_span_is_the_parent_of_those_of_its_calls():
    run(SENTRY, "init()", TASKER, SPANS)


FAILURES = """
import gc

def fail(what):
    raise ValueError(what)

def unseen(executor, what):
    executor.submit(fail, what)

with ThreadPoolExecutor(1) as pool:
    unseen(pool, "one")
    unseen(pool, "another")
gc.collect()
told = [(value["type"], value["value"], value["stacktrace"]["frames"][-1]["function"])
        for event in events for value in event["exception"]["values"]]
assert told == [("ValueError", "one", "fail"), ("ValueError", "another", "fail")], events
"""


def test_a_failure_that_nobody_looked_at_is_an_issue_with_its_type_and_stack():
    run(SENTRY, TASKER, "init()", FAILURES)


RECORDS = """
import logging
from tasker import Processes

def log(resource):
    try:
        {}["missing"]
    except KeyError:
        logging.getLogger("app").exception("looked in vain")

if __name__ == "__main__":
    init()
    with TaskManager(Config(on_create=list, on_destroy=len, worker_count=1, placement=Processes())) as manager:
        manager.queue_task(log)
    (event,) = events
    told = [(value["type"], value["value"]) for value in event["exception"]["values"]]
    assert told[-1] == ("KeyError", "'missing'"), event
    assert "in log" in told[0][1], "the traceback there"
"""


def test_what_a_child_process_logs_about_an_exception_is_an_issue_with_its_type():
    pytest.importorskip("cloudpickle")
    run(SENTRY, TASKER, RECORDS)
