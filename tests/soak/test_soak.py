"""The soak: it passes, it tells its work, and it finds an engine that is broken."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasker import Config, ContextCancelledError, Processes, TaskManager
from tests.soak.__main__ import main
from tests.soak.audit import audit_order, audit_resources
from tests.soak.children import witnessed
from tests.soak.failing_allocations import can_fail_allocations
from tests.soak.journal import Replay
from tests.soak.ledger import Job, Ledger
from tests.soak.patience import SECONDS, eventually
from tests.soak.signalling import can_suspend
from tests.soak.tasks import nothing, square

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SEED = 53  # its first rounds are unbounded


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # The soak sends signals to its process group, and stops itself.
        start_new_session=True,
    )


def soak_with(
    broken: str, *, placement: str = "threads", patience: float = 3.0
) -> subprocess.CompletedProcess[str]:
    """A soak of an engine that `broken` breaks.

    It ends after the first round in which that shows.
    """
    # The second round is compared with the first. A slow machine, too, gets to it.
    seconds = 50
    code = f"""
import sys
from tests.soak import patience, soak
from tests.soak.__main__ import main
patience.SECONDS = {patience}  # the wait for a lost task
{textwrap.dedent(broken)}
sys.exit(main([
    "--seconds", "{seconds}", "--seed", "{SEED}", "--tasks", "0", "--placement", "{placement}"
]))
"""
    return python("-c", code)


def test_a_short_soak_passes_and_prints_what_it_did():
    run = python("-m", "tests.soak", "--seconds", "2", "--rounds", "5", "--tasks", "50000")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert {"machine", "python", "gil", "ended_by"} <= report.keys()
    assert report["seconds"] >= 2
    assert report["rounds"] >= 5
    assert f"--seed {report['seed']}" in run.stderr.splitlines()[0]
    tasks, resources = report["tasks"], report["resources"]
    assert tasks["submitted"] == tasks["accepted"] + tasks["refused"]
    assert {"completed", "failed", "cancelled", "retried", "abandoned"} <= tasks.keys()
    assert tasks["completed"] > 0
    assert resources["created"] == resources["destroyed"] > 0
    assert len(report["faults"]) > 10
    assert report["memory"].keys() == {"rounds", "batches"}
    assert report["memory"]["batches"]["tasks"] == 50_000
    assert report["violations"] == []


def test_every_fault_strikes_in_time():
    run = python(
        "-m", "tests.soak", "--seconds", "5", "--rounds", "8", "--tasks", "0", "--seed", "3"
    )
    assert run.returncode == 0, run.stderr
    faults = json.loads(run.stdout)["faults"]
    expected = {"a destructor blocks", "the logger blocks", "resources break at their first use"}
    if hasattr(os, "fork"):
        assert any("forks a child" in fault for fault in faults)
    assert expected <= faults.keys()


@pytest.mark.skipif(not can_fail_allocations(), reason="allocations cannot be made to fail here")
def test_rounds_in_which_allocations_fail_say_what_they_did():
    run = python("-m", "tests.soak.failing_allocations", "1", "1")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report.keys() == {"tasks", "struck", "violations"}
    assert report["tasks"] >= report["struck"] > 0


@pytest.mark.skipif(not can_suspend(), reason="no process can be stopped here")
def test_a_process_that_is_suspended_goes_on():
    code = """
from tests.soak.faults import Chaos
from tests.soak.signalling import suspend
chaos = Chaos("1")
suspend(chaos)
print(dict(chaos.counts()))
"""
    assert python("-c", code).stdout.strip() == "{'the process is suspended': 1}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "--nonsense"),
        (["--seconds", "0"], "seconds must be a number greater than 0"),
        (["--seconds", "inf"], "seconds must be a number greater than 0"),
        (["--seed", "x"], "'x'"),
        (["--tasks", "-1"], "0 or more"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err


@pytest.mark.parametrize(
    ("broken", "violation"),
    [
        pytest.param(
            """
            from itertools import count
            from tasker._pool.queue import TaskQueue
            put_back, retries = TaskQueue.put_back, count()
            def lose_some(queue, task):
                if next(retries) % 2:
                    put_back(queue, task)
            TaskQueue.put_back = lose_some
            """,
            "never settled|had arrived and|without an outcome|still waits",
            id="a retry is lost",
        ),
        pytest.param(
            """
            from collections import deque
            from itertools import count
            from tasker._pool.usercode import UserCode
            destroy, resources = UserCode.destroy_held, count()
            def some_twice(user, held, *more, **others):
                if next(resources) % 5 == 0:
                    destroy(user, deque(held), *more, **others)
                return destroy(user, held, *more, **others)
            UserCode.destroy_held = some_twice
            """,
            "destroyed twice",
            id="a resource is destroyed twice",
        ),
        pytest.param(
            """
            from tasker._pool.slots import Slots
            take = Slots.take
            def without_a_mark(slots, *owner):
                slot = take(slots, *owner)
                slots._entries[slot.index] = slot.generation
                return slot
            Slots.take = without_a_mark
            """,
            "two living resources are in slot",
            id="a slot is given twice",
        ),
        pytest.param(
            """
            from itertools import count
            from tasker._pool.slots import Slots
            free, resources = Slots.free, count()
            def free_some(slots, owner, **how):
                if next(resources) % 5:
                    free(slots, owner, **how)
            Slots.free = free_some
            """,
            "has resources in slots",
            id="a slot is not freed",
        ),
        pytest.param(
            """
            from tasker._pool.metrics import Shard
            count = Shard.count
            def twice(shard, *, failed=0, **others):
                count(shard, failed=2 * failed, **others)
            Shard.count = twice
            """,
            # At rest the engine corrects figures that do not add up.
            r"are not the|metrics\(\) says",
            id="a failure is counted twice",
        ),
    ],
)
def test_a_broken_engine_is_found_out(broken, violation):
    run = soak_with(broken)
    assert run.returncode == 1, run.stderr
    assert any(
        re.search(violation, sentence) for sentence in json.loads(run.stdout)["violations"]
    ), run.stdout
    assert re.search(violation, run.stderr)


# Many tasks overstay, and each round ends with some that are stuck.
OVERSTAYING = """
from dataclasses import replace
import tests.soak.submitting, tests.soak.round
tests.soak.submitting.ACTS[:] = ["returns"] * 30 + ["overstays"]
tests.soak.round.ENDINGS = {"stop": tests.soak.round.ENDINGS["stop"]}
Round = tests.soak.round.Round
config_in_place = Round._config_in_place
Round._config_in_place = lambda current: replace(config_in_place(current), abandon_after=0.02)
"""


@pytest.mark.parametrize(
    ("broken", "violation"),
    [
        pytest.param(
            """
            from tasker._pool.crew import Crew
            def any_number(crew, worker, call):
                most, crew.most = crew.most, 1000
                try:
                    return abandon(crew, worker, call)
                finally:
                    crew.most = most
            abandon, Crew.abandon = Crew.abandon, any_number
            def more(submitter, *given):
                made(submitter, *given)
                submitter.places.extend([None] * 100)
            Submitter = tests.soak.submitting.Submitter
            made, Submitter.__init__ = Submitter.__init__, more
            """,
            r"\d threads are abandoned, \d are the most",
            id="more are abandoned than there may be workers",
        ),
        pytest.param(
            """
            from tasker._pool.crew import Crew
            def shrink(crew, *given):
                done = abandon(crew, *given)
                crew.base -= done and crew.base > 1
                return done
            abandon, Crew.abandon = Crew.abandon, shrink
            """,
            r"of \d base workers: ",
            id="an abandoned worker is not replaced",
        ),
        pytest.param(
            """
            from tasker._pool.crew import Crew
            def all_but_one(crew, worker, call):
                if not hasattr(crew.kept, "may_return") and len(crew.members) > 1:
                    crew.kept = call
                return call is not crew.kept and abandon(crew, worker, call)
            abandon, Crew.abandon, Crew.kept = Crew.abandon, all_but_one, None
            """,
            r"at rest {.*} are stuck, (none|{.*}) are abandoned",
            id="not all that are stuck are abandoned",
        ),
        pytest.param(
            """
            from tasker._pool.abandonment import Abandonment
            Abandonment._comes_back = lambda abandonment: None
            """,
            "ran in .* after that was abandoned",
            id="an abandoned worker serves on",
        ),
        pytest.param(
            """
            from tasker._pool.abandonment import Abandonment
            give_up = Abandonment._give_up
            def give_up_slot(abandonment):
                abandonment._engine.slots.free(abandonment._worker)
                give_up(abandonment)
            Abandonment._give_up = give_up_slot
            """,
            "two living resources are in slot",
            id="an abandoned worker loses its slot",
        ),
        pytest.param(
            """
            from tasker._pool.worker import Worker
            destroy = Worker._destroy
            def keep(worker):
                if worker in worker._engine.crew.abandoned:
                    worker._held.clear()
                destroy(worker)
            Worker._destroy = keep
            """,
            "was never destroyed",
            id="an abandoned worker does not destroy its resource",
        ),
        pytest.param(
            """
            from tasker._pool.lifecycle import Lifecycle
            report = Lifecycle._report
            Lifecycle._report = lambda lifecycle, **how: replace(
                report(lifecycle, **how), abandoned=()
            )
            """,
            r"had not returned, the report says|stop\(\) returned .*abandoned=\(\)\)",
            id="the report names nothing that is abandoned",
        ),
        pytest.param(
            """
            from tasker._pool.crew import Crew
            everyone = Crew.everyone
            Crew.everyone = lambda crew: crew.members
            """,
            # There is soon no room for more, and what is stuck keeps its worker.
            "at rest .* are stuck, {.*} are abandoned|got a TaskTimeoutError|still waits",
            id="an abandoned worker is not removed",
        ),
    ],
)
def test_an_engine_that_breaks_with_what_is_stuck_is_found_out(broken, violation):
    run = soak_with(OVERSTAYING + textwrap.dedent(broken))
    assert run.returncode == 1, run.stderr
    assert any(
        re.search(violation, sentence) for sentence in json.loads(run.stdout)["violations"]
    ), run.stdout


def test_a_short_soak_of_child_processes_kills_some_and_passes():
    run = python(
        "-m",
        "tests.soak",
        "--seconds",
        "2",
        "--seed",
        "1",
        "--tasks",
        "0",
        "--placement",
        "processes",
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    resources, children = report["resources"], report["children"]
    assert report["placement"] == "processes"
    assert report["tasks"]["accepted"] > 0
    assert (
        children["children"] >= resources["created"] == resources["destroyed"] + resources["lost"]
    )
    assert resources["created"] > 0
    assert report["violations"] == []


# Few tasks, so that all of them are done. On a slow machine most of many tasks would be
# cancelled before they start. Every fifth one may end its process.
LOSING = """
import tests.soak.load, tests.soak.round, tests.soak.submitting
tests.soak.submitting.MOST_JOBS_WITH_CHILDREN = 150
tests.soak.submitting.Submitter.cancel_one = lambda *_: None
tests.soak.submitting.ACTS_IN_CHILD[:] = ["returns"] * 4 + ["is killed"]
tests.soak.round.ENDINGS_WITH_CHILDREN = {"stop": tests.soak.round.ENDINGS_WITH_CHILDREN["stop"]}
"""


@pytest.mark.parametrize(
    ("broken", "violation"),
    [
        pytest.param(
            """
            from tasker._pool.worker import Worker
            failed = Worker._failed
            def give_up(worker, task, error):
                if type(error).__name__ == "WorkerLostError":
                    task._once = error.began = True
                return failed(worker, task, error)
            Worker._failed = give_up
            """,
            "was given up after",
            id="a task whose process died is not tried again",
        ),
        pytest.param(
            """
            from tasker._pool.worker import Worker
            failed = Worker._failed
            def again(worker, task, error):
                task._once = False
                return failed(worker, task, error)
            Worker._failed = again
            """,
            r"ran \d times, 1 are the most",
            id="a task that is to run once is tried again",
        ),
        pytest.param(
            """
            from tasker.placement.processes.proxy import ProcessProxy
            ProcessProxy.destroy = lambda child: None
            tests.soak.load.kill_at_random = lambda *_: None  # which ended it
            patience.SECONDS = 3.0
            """,
            "(is|are) left",
            id="a child is left to itself",
        ),
        pytest.param(
            """
            from tasker.placement.processes.proxy import ProcessProxy
            call, killed = ProcessProxy.call, []
            def call_and_kill(child, context, packed):
                result = call(child, context, packed)
                if not killed:
                    killed.append(child)
                    child.kill()
                return result
            ProcessProxy.call = call_and_kill
            tests.soak.load.kill_at_random = lambda *_: None
            """,
            r"was ended for nothing; it ran task .* killed by call_and_kill in .* ended with -9",
            id="a child is killed when its task has ended",
        ),
        pytest.param(
            """
            from tasker.placement.processes.proxy import ProcessProxy
            ProcessProxy._close = lambda child: child._wire.close()
            """,
            "descriptors are open",
            id="a child's descriptors are not closed",
        ),
    ],
)
def test_an_engine_that_breaks_with_its_children_is_found_out(broken, violation):
    run = soak_with(LOSING + textwrap.dedent(broken), placement="processes", patience=30.0)
    assert run.returncode == 1, run.stderr
    assert any(
        re.search(violation, sentence) for sentence in json.loads(run.stdout)["violations"]
    ), run.stdout


# Run by the parent and by each child, which gets `Hooks` from there.
BROKEN_CHILD = """
import threading
from tasker._tasks.abort import Abort
from tasker.placement.remote.host import Host
from tests.soak.in_child import HooksInChild
class Hooks(HooksInChild): pass
"""


@pytest.mark.parametrize(
    ("broken", "violation"),
    [
        pytest.param(
            """
            Abort._wait = lambda abort: None
            """,
            "(on_reset|a call) came while on_abort used its resource",
            id="a call does not wait for on_abort",
        ),
        pytest.param(
            """
            call = Host._abort
            def twice(host):
                call(host)
                call(host)
            Host._abort = twice
            """,
            "aborted the same call twice",
            id="a call is aborted twice",
        ),
        pytest.param(
            """
            reset = Host.reset
            def reset_and_abort(host):
                try:
                    return reset(host)
                finally:
                    if host._hooks.on_abort is not None:
                        host._abort()
            Host.reset = reset_and_abort
            """,
            "aborted a call, and there was none",
            id="what is no call is aborted",
        ),
        pytest.param(
            """
            call = Host._call
            def call_and_reset(host, *given):
                if host._hooks.on_reset is not None:
                    reset = host._hooks.on_reset, (host.resource,)
                    threading.Thread(target=reset[0], args=reset[1]).start()
                return call(host, *given)
            Host._call = call_and_reset
            """,
            r"on_reset ran in Thread-\d+ .*, the resource is that of soak-\d+-",
            id="a resource is reset in another thread",
        ),
    ],
)
def test_a_child_whose_hooks_are_called_wrongly_is_found_out(broken, violation, tmp_path):
    (tmp_path / "broken_child.py").write_text(BROKEN_CHILD + textwrap.dedent(broken))
    run = soak_with(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import broken_child, tests.soak.submitting, tests.soak.round
        tests.soak.submitting.ACTS_IN_CHILD[:] = ["returns"] * 9 + ["is deaf"]
        tests.soak.round.HooksInChild = broken_child.Hooks
        """,
        placement="processes",
        patience=30.0,
    )
    assert run.returncode == 1, run.stderr
    assert any(
        re.search(violation, sentence) for sentence in json.loads(run.stdout)["violations"]
    ), run.stdout


def test_memory_that_grows_is_found_out():
    run = python(
        "-c",
        "import sys\nfrom tests.soak import soak\nfrom tests.soak.__main__ import main\nkept = []\n"
        "soak.square = lambda _, number: kept.append(bytearray(2000)) or number**2\n"
        "sys.exit(main(['--seconds', '0.1', '--tasks', '20000']))",
    )
    assert run.returncode == 1, run.stderr
    assert "resident memory grew" in run.stderr


def test_a_run_in_which_nothing_moves_ends_with_all_stacks():
    run = soak_with(
        """
        soak.STILL_S = 1.0
        soak.Round.run = lambda current, seconds: __import__("threading").Event().wait(10)
        """
    )
    assert run.returncode == 1
    assert "nothing moved for 1 s" in json.loads(run.stdout)["violations"][-1]
    assert "most recent call first" in run.stderr


@pytest.mark.parametrize(
    ("lines", "violation"),
    [
        pytest.param(
            ["created w", "destroyed w", "destroyed w"],
            "destroyed its resource twice",
            id="destroyed twice",
        ),
        pytest.param(["created w", "created w"], "made a second resource", id="created twice"),
        pytest.param(["created w", "leaves "], "was never destroyed", id="never destroyed"),
        pytest.param(
            ["created w", "destroyed x"],
            "destroyed the resource of w in x",
            id="destroyed by another",
        ),
        pytest.param(["created w", "begins 1 w", "begins 2 w"], "while task 1", id="used by two"),
        pytest.param(
            ["created w", "begins 1 w", "destroyed w"], "while task 1", id="destroyed in use"
        ),
        pytest.param(
            ["created w", "destroyed w", "begins 1 w"], "without a resource", id="used afterwards"
        ),
        pytest.param(
            ["created w", "begins 1 w", "ended 1"],
            "found its context ended",
            id="cancelled by nobody",
        ),
        pytest.param(
            ["created w", "begins 1 w", "ends 1"], "was ended for nothing", id="killed by nobody"
        ),
        pytest.param(["created w", "begins 1 w"], "ran task 1 .* without a call", id="not called"),
        pytest.param(
            ["created w", "called ", "borrows on_check w", "begins 1 w"],
            "while on_check used",
            id="used by a hook",
        ),
        pytest.param(
            ["created w", "called ", "begins 1 w", "borrows on_check w"],
            "on_check came while task 1",
            id="checked in use",
        ),
        pytest.param(
            ["created w", "borrows on_reset x"], "on_reset ran in x", id="reset by another"
        ),
        pytest.param(
            ["created w", "destroyed w", "borrows on_check w"],
            "on_check came without a resource",
            id="checked afterwards",
        ),
        pytest.param(
            ["created w", "called ", "aborts ", "destroyed w"],
            "destroyed its resource while on_abort used it",
            id="destroyed while it aborts",
        ),
        pytest.param(
            ["created w", "called ", "aborts ", "called "],
            "a call came while on_abort used",
            id="called while it aborts",
        ),
        pytest.param(
            ["created w", "called ", "aborts ", "aborted ", "aborts "],
            "aborted the same call twice",
            id="aborted twice",
        ),
        pytest.param(
            ["created w", "called ", "borrows on_reset w", "aborts "],
            "there was none",
            id="aborted after the call",
        ),
    ],
)
def test_a_journal_that_cannot_be_right_is_found_out(lines, violation, tmp_path):
    (tmp_path / "4242-1.journal").write_text("".join(f"1.0 {line}\n" for line in lines))
    ledger = Ledger("ledger")
    ledger.jobs = [
        Job(number, "async", "returns", priority=False, once=False, limited=False)
        for number in (1, 2)
    ]
    Replay(ledger, tmp_path)
    audit_resources(ledger)
    assert any(re.search(violation, sentence) for sentence in ledger.violations), ledger.violations


def test_a_journal_of_a_child_that_was_killed_is_no_violation(tmp_path):
    (tmp_path / "4242-1.journal").write_text(
        "1.0 created w\n1.5 called \n2.0 begins 1 w\n3.0 faults x\n3.0 dies x\n"
    )
    ledger = Ledger("ledger")
    ledger.jobs = [Job(1, "async", "returns", priority=False, once=False, limited=False)]
    replay = Replay(ledger, tmp_path)
    audit_resources(ledger)
    assert ledger.violations == []
    assert ledger.jobs[0].runs == [2.0]
    assert [resource.lost for resource in ledger.resources] == [True]
    assert replay.faults == {"x": 1}


def test_a_child_that_never_came_to_its_last_task_is_not_judged_by_the_one_before(tmp_path):
    (tmp_path / "4242-1.journal").write_text(
        "1.0 created w\n1.5 called \n2.0 begins 1 w\n3.0 ends 1\n"
    )
    ledger = Ledger("ledger")
    ledger.jobs = [Job(1, "async", "returns", priority=False, once=False, limited=False)]
    ledger.overdue = {4242}
    Replay(ledger, tmp_path)
    audit_resources(ledger)
    assert ledger.violations == []


def test_who_ends_a_child_and_whether_with_reason_is_seen():
    ledger = Ledger("ledger")
    config = Config(
        on_create=nothing, on_destroy=nothing, worker_count=1, placement=Processes(grace=0.05)
    )
    with witnessed(ledger), TaskManager(config) as manager:
        assert manager.queue_task(square, 6) == 36
        (first,) = manager._engine.backend._proxies
        # This looks as if the machine were too busy for the child.
        os.kill(first.pid, signal.SIGSTOP)
        late = manager.submit(square, 7)
        assert eventually(late.running)
        late.cancel()
        assert isinstance(late.exception(SECONDS), ContextCancelledError)
        assert manager.queue_task(square, 8) == 64
        (second,) = manager._engine.backend._proxies
        second.kill()
        assert eventually(lambda: second._dead.is_set())
    assert ledger.overdue == {first.pid}
    assert re.match(
        r"at \d+\.\d+ killed by _kill_call in tasker-timer, .*ended with -9$",
        ledger.fate(first.pid),
    )
    assert "killed by test_who_ends" in ledger.fate(second.pid)


def job(*, priority: bool, accepted_at: float, started_at: float) -> Job:
    job = Job(1, "async", "returns", priority=priority, once=False, limited=False)
    job.offered_at, job.accepted_at, job.runs = accepted_at - 0.5, accepted_at, [started_at]
    return job


@pytest.mark.parametrize("lane", [False, True])
def test_a_task_that_overtakes_another_of_its_lane_is_found_out(lane):
    ledger = Ledger("ledger")
    ledger.jobs = [
        job(priority=lane, accepted_at=1, started_at=10),
        job(priority=lane, accepted_at=2, started_at=9),
    ]
    audit_order(ledger)
    assert "was overtaken" in ledger.violations[0]


def test_a_main_task_that_overtakes_a_priority_task_is_found_out():
    first, second = (
        job(priority=True, accepted_at=1, started_at=10),
        job(priority=False, accepted_at=2, started_at=9),
    )
    ledger = Ledger("ledger")
    ledger.jobs = [first, second]
    audit_order(ledger)
    assert "was overtaken by a task of the main lane" in ledger.violations[0]


def test_a_priority_task_may_overtake_main_tasks():
    ledger = Ledger("ledger")
    ledger.jobs = [
        job(priority=False, accepted_at=1, started_at=10),
        job(priority=True, accepted_at=2, started_at=9),
    ]
    audit_order(ledger)
    assert ledger.violations == []
