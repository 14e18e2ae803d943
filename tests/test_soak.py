"""The soak: it passes, it says what it did, and it sees an engine that is broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.audit import audit_order
from benchmarks.ledger import Job, Ledger
from benchmarks.soak import main

ROOT = Path(__file__).parents[1]
SEED = 53  # its first rounds are unbounded


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )


def soak_with(broken: str, *, seconds: float = 4) -> subprocess.CompletedProcess[str]:
    """A soak of an engine that `broken` breaks; it ends after the first round in which that shows."""
    code = f"""
import sys
from benchmarks import patience, soak
patience.SECONDS = 1.0  # what is lost is waited for no longer
{textwrap.dedent(broken)}
sys.exit(soak.main(["--seconds", "{seconds}", "--seed", "{SEED}", "--tasks", "0"]))
"""
    return python("-c", code)


def test_a_short_soak_passes_and_prints_what_it_did():
    run = python("-m", "benchmarks.soak", "--seconds", "2", "--tasks", "50000")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert {"machine", "python", "gil", "ended_by"} <= report.keys()
    assert report["seconds"] >= 2
    assert report["rounds"] >= 1
    assert f"--seed {report['seed']}" in run.stderr.splitlines()[0]
    tasks, resources = report["tasks"], report["resources"]
    assert tasks["submitted"] == tasks["accepted"] + tasks["refused"]
    assert {"completed", "failed", "cancelled", "retried"} <= tasks.keys()
    assert tasks["completed"] > 0
    assert resources["created"] == resources["destroyed"] > 0
    assert len(report["faults"]) > 10
    assert report["memory"].keys() == {"rounds", "batches"}
    assert report["memory"]["batches"]["tasks"] == 50_000
    assert report["violations"] == []


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
            from tasker.queue import TaskQueue
            from random import random
            put_back = TaskQueue.put_back
            def lose_some(queue, task):
                if random() < 0.5:
                    put_back(queue, task)
            TaskQueue.put_back = lose_some
            """,
            "never settled|had arrived and|without an outcome",
            id="a retry is lost",
        ),
        pytest.param(
            """
            from random import random
            from tasker.usercode import UserCode
            destroy = UserCode.destroy
            def perhaps_twice(user, resource):
                destroy(user, resource)
                if random() < 0.1:
                    destroy(user, resource)
            UserCode.destroy = perhaps_twice
            """,
            "destroyed twice",
            id="a resource is destroyed twice",
        ),
        pytest.param(
            """
            from tasker.metrics import Shard
            count = Shard.count
            def twice(shard, *, failed=0, **others):
                count(shard, failed=2 * failed, **others)
            Shard.count = twice
            """,
            "are not the",
            id="a failure is counted twice",
        ),
    ],
)
def test_a_broken_engine_is_found_out(broken, violation):
    run = soak_with(broken)
    assert run.returncode == 1, run.stderr
    assert any(re.search(violation, sentence) for sentence in json.loads(run.stdout)["violations"]), run.stdout
    assert re.search(violation, run.stderr)


def test_memory_that_grows_is_found_out():
    run = python(
        "-c",
        "import sys\nfrom benchmarks import soak\nkept = []\n"
        "soak._square = lambda _, number: kept.append(bytearray(2000)) or number**2\n"
        "sys.exit(soak.main(['--seconds', '0.1', '--tasks', '20000']))",
    )
    assert run.returncode == 1, run.stderr
    assert "resident memory grew" in run.stderr


def test_a_run_in_which_nothing_moves_ends_with_all_stacks():
    run = soak_with(
        """
        soak.STILL = 1.0
        soak.Storm.run = lambda storm, seconds: __import__("threading").Event().wait(10)
        """
    )
    assert run.returncode == 1
    assert "nothing moved for 1 s" in json.loads(run.stdout)["violations"][-1]
    assert "most recent call first" in run.stderr


def job(*, priority: bool, accepted_at: float, started_at: float) -> Job:
    job = Job(1, "async", "returns", priority=priority, once=False, limited=False)
    job.offered_at, job.accepted_at, job.runs = accepted_at - 0.5, accepted_at, [started_at]
    return job


@pytest.mark.parametrize("lane", [False, True])
def test_a_task_that_overtakes_another_of_its_lane_is_found_out(lane):
    ledger = Ledger("ledger")
    ledger.jobs = [job(priority=lane, accepted_at=1, started_at=10), job(priority=lane, accepted_at=2, started_at=9)]
    audit_order(ledger)
    assert "was overtaken" in ledger.violations[0]


def test_a_main_task_that_overtakes_a_priority_task_is_found_out():
    first, second = job(priority=True, accepted_at=1, started_at=10), job(priority=False, accepted_at=2, started_at=9)
    ledger = Ledger("ledger")
    ledger.jobs = [first, second]
    audit_order(ledger)
    assert "was overtaken by a task of the main lane" in ledger.violations[0]


def test_a_priority_task_may_overtake_main_tasks():
    ledger = Ledger("ledger")
    ledger.jobs = [job(priority=False, accepted_at=1, started_at=10), job(priority=True, accepted_at=2, started_at=9)]
    audit_order(ledger)
    assert ledger.violations == []
