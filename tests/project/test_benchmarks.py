"""The benchmarks: their arithmetic, and one quick pass of everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks
import tasker
from benchmarks import black_hole, failover, outage, stuck
from benchmarks.__main__ import _names, main
from benchmarks.context_variables import VARIABLES, a_few_set
from benchmarks.cores import compute, steps_of
from benchmarks.harness.both_forms import (
    WITH_CONTEXT,
    open_both_forms,
    rows_of_both_forms,
    times_as_fast,
)
from benchmarks.harness.environment import path_of_packages
from benchmarks.harness.history import load
from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, TASKER
from benchmarks.harness.rounds import Spread, interleave, ratios, spread, spreads
from benchmarks.harness.table import as_markdown, as_text, figure
from benchmarks.harness.targets import Build, Target, both_forms_target, on_3_11
from benchmarks.latency import HAND_OVERS, above_hand_overs
from benchmarks.measurements import MEASUREMENTS
from tasker._tasks.signature import wants_context

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def row(*, ratio: float | None = 6.5, target: Target | None = None) -> Row:
    return Row(
        name="example",
        title="an example",
        unit="µs",
        figures=spreads(
            {TASKER: [1.0, 2.0, 3.0], BASELINE: [12.0, 13.0, 14.0], "beside": [0.5, 0.5, 0.5]}
        ),
        ratio=None if ratio is None else Spread(ratio, 6.0, 7.0),
        meaning="times as fast",
        target=target,
        notes=("three rounds",),
    )


def test_a_spread_is_the_median_between_the_quartiles() -> None:
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0)


def test_the_spread_of_few_samples_is_their_extremes() -> None:
    assert spread([2.0]) == Spread(2.0, 2.0, 2.0)
    assert spread([2.0, 1.0, 9.0]) == Spread(2.0, 1.0, 9.0)


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([10.0, 30.0], [5.0, 10.0]) == [2.0, 3.0]


def test_ratios_can_be_those_of_what_is_above_a_common_floor() -> None:
    assert ratios([13.0, 13.0], [16.0, 14.0], [10.0, 12.0]) == [0.5, 0.5]


def test_a_round_without_anything_above_the_floor_is_left_out() -> None:
    assert ratios([13.0, 13.0], [9.0, 16.0], [10.0, 10.0]) == [0.5]


def test_round_trips_are_compared_above_the_floor_where_there_is_one() -> None:
    samples = {TASKER: [12.0] * 3, BASELINE: [14.0] * 3, HAND_OVERS: [10.0] * 3}
    assert above_hand_overs(samples) == (
        Spread(2.0, 2.0, 2.0),
        "times as fast, above two lock hand-overs",
    )
    for bare in (12.0, 20.0):
        ratio, meaning = above_hand_overs(samples | {HAND_OVERS: [bare] * 3})
        assert ratio.median == 14.0 / 12.0
        assert meaning == "times as fast, hand-overs included"


def test_both_forms_are_compared_with_the_others_and_with_each_other() -> None:
    samples = {TASKER: [2.0] * 3, BASELINE: [8.0] * 3, WITH_CONTEXT: [4.0] * 3, "beside": [1.0] * 3}
    rows = rows_of_both_forms(
        "submit-4", "submit", "µs", samples, times_as_fast, "a note", cost=Target("at most", 1.25)
    )
    assert [(row.name, row.ratio and row.ratio.median) for row in rows] == [
        ("submit-4", 4.0),
        ("submit-4-context", 2.0),
        ("submit-4-cost", 2.0),
    ]
    without, asking, cost = rows
    assert {name: value.median for name, value in without.figures.items()} == {
        TASKER: 2.0,
        BASELINE: 8.0,
        "beside": 1.0,
    }
    assert {name: value.median for name, value in asking.figures.items()} == {
        TASKER: 4.0,
        BASELINE: 8.0,
        "beside": 1.0,
    }
    assert asking.target == without.target
    assert cost.met() is False


def test_a_task_of_the_second_form_asks_for_its_context() -> None:
    with ExitStack() as stack:
        pools = open_both_forms(stack, 1, futures=True)
        seen = []
        for name in (TASKER, WITH_CONTEXT):
            pool, task = pools[name]
            future = pool.submit(pool.function(task))
            future.result()
            seen.append(wants_context(pool.function(task), 1))
        assert seen == [False, True]
        assert BASELINE in pools


def test_rounds_are_interleaved_and_begin_with_another_rival_each_time() -> None:
    order: list[str] = []

    def sampler(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = interleave({"a": lambda: sampler("a"), "b": lambda: sampler("b")}, 2, warm_ups=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert samples == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


@pytest.mark.parametrize(
    ("build", "target"),
    [
        (Build(11), Target("at least", 5, goal=7)),
        (Build(12), None),
        (Build(14), Target("at least", 3.4, goal=5)),
        (Build(15), Target("at least", 3.4, goal=5)),
        (Build(14, free_threaded=True), None),
    ],
)
def test_floors_depend_on_the_python(build: Build, target: Target | None) -> None:
    assert both_forms_target("submit-4", build) == target


def test_some_targets_are_set_for_one_python_alone() -> None:
    target = Target("at least", 5)
    assert on_3_11(Build(11), target) is target
    assert on_3_11(Build(13, free_threaded=True), target) is None


def test_a_measurements_children_find_this_tasker_and_these_benchmarks() -> None:
    code = "import benchmarks, tasker; print(benchmarks.__file__, tasker.__file__)"
    environment = {**os.environ, "PYTHONPATH": path_of_packages()}
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, env=environment, cwd=Path(sys.prefix), capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [benchmarks.__file__, tasker.__file__]


def test_context_variables_are_set_for_a_measurement_alone() -> None:
    with a_few_set():
        assert [variable.get("") for variable in VARIABLES] == ["a value"] * len(VARIABLES)
    assert [variable.get("") for variable in VARIABLES] == [""] * len(VARIABLES)


@pytest.mark.parametrize(
    ("target", "met", "missed"),
    [
        (Target("at least", 3), 3.0, 2.9),
        (Target("at most", 3), 3.0, 3.1),
        (Target("below", 3), 2.9, 3.0),
    ],
)
def test_a_target_is_met_or_not(target: Target, met: float, missed: float) -> None:
    assert target.is_met_by(met)
    assert not target.is_met_by(missed)


def test_a_target_says_what_it_wants() -> None:
    assert str(Target("at least", 6, goal=8)) == "at least 6 (goal 8)"
    assert str(Target("at most", 500, "bytes", of="tasker")) == "at most 500 bytes"


def test_a_row_judges_the_ratio_or_the_figure_itself() -> None:
    assert row(target=Target("at least", 6)).met() is True
    assert row(target=Target("at most", 1.5, of="tasker")).met() is False
    assert row().met() is None
    assert row(ratio=None, target=Target("at least", 6)).met() is None


def test_a_row_survives_json() -> None:
    before = row(target=Target("at least", 6, goal=8))
    assert Row.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.123, "0.12"), (1.5, "1.50"), (12.34, "12.3"), (1773.4, "1,773")],
)
def test_a_figure_has_three_digits_that_count(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_table_has_the_ratio_first_and_a_column_a_rival() -> None:
    head, rule, line = as_markdown([row(target=Target("at least", 6))]).splitlines()
    assert (
        head
        == "| measurement | tasker to ThreadPoolExecutor | target | met | tasker | ThreadPoolExecutor |"
    )
    assert rule.count("---") == 6
    assert line == (
        "| an example (µs; beside: 0.50) | 6.50 (6.00 to 7.00) times as fast | at least 6 | yes | 2.00 | 13.0 |"
    )
    assert "6.50 (6.00 to 7.00) times as fast" in as_text([row()])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "--nonsense"),
        (["--only", "map,nonsense"], "no measurement 'nonsense'"),
        (["--output", str(ROOT / "no such folder")], "is no folder"),
        (["--python", str(ROOT / "no such file")], "cannot be run"),
        (["--python", sys.executable, "--python", "false"], "cannot run this"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err


def test_list_names_every_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(MEASUREMENTS)


def test_the_beginning_of_a_name_chooses_all_that_begin_with_it() -> None:
    chosen = _names("processes,map")
    assert chosen == [name for name in MEASUREMENTS if name.startswith("processes-")] + ["map"]
    assert len(chosen) > 2


def test_a_quick_pass_prints_a_table_and_writes_a_file(tmp_path: Path) -> None:
    some = "queued,run-task,map,lines,cores-30,processes-payload"  # .ci/run takes all
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--only",
        some,
        "--output",
        str(tmp_path),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert run.returncode == 0, run.stderr
    assert "tasker to ThreadPoolExecutor" in run.stdout
    (path,) = tmp_path.iterdir()
    results = load(path)
    assert results.quick
    assert {"version", "commit"} == results.on["tasker"].keys()
    assert {"architecture", "cpu", "cores", "platform"} <= results.on["machine"].keys()
    assert {"name", "build", "gil", "jit"} <= results.on["python"].keys()
    names = {row.name for row in results.rows}
    assert {
        "run-task",
        "queued-bytes",
        "map",
        "lines",
        "processes-argument",
        "processes-result",
    } <= names
    assert ("cores-map-30" in names) is not results.on["python"]["gil"]
    assert all(TASKER in row.figures or row.name.endswith("-baseline") for row in results.rows)


def test_one_command_measures_on_several_pythons(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    another = tmp_path / "python"
    another.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    another.chmod(0o755)
    assert (
        main(["--quick", "--only", "queued", "--python", sys.executable, "--python", str(another)])
        == 0
    )
    assert capfd.readouterr().out.count("a queued no-op task") == 2


def test_what_was_measured_is_in_the_file_when_something_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(python: str, name: str, quick: bool) -> list[Row]:
        if name == "map":
            raise subprocess.CalledProcessError(3, [python])
        return [replace(row(), name=name)]

    monkeypatch.setattr("benchmarks.__main__._measure", measure)
    assert main(["--only", "queued,map,lines", "--output", str(tmp_path)]) == 1
    assert "map failed: " in capsys.readouterr().err
    (path,) = tmp_path.iterdir()
    assert [each.name for each in load(path).rows] == ["queued", "lines"]


def test_what_has_nothing_to_measure_on_a_python_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.__main__._measure", lambda *_: [])
    assert main(["--quick", "--only", "cores-30"]) == 0
    assert "cores-30: nothing to measure on this Python" in capsys.readouterr().err


def test_a_task_of_pure_python_takes_at_least_a_step() -> None:
    assert steps_of(0.001) == 1
    assert steps_of(1_000) > steps_of(1)
    assert compute(3) == ((0 * 31 + 0) * 31 + 1) * 31 + 2


def test_the_drill_of_an_outage_prints_a_line_for_each_pool_and_number_of_workers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert outage.main(["--workers", "1", "8", "--down", "0.5"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == outage.HEAD
    assert [line.split()[:2] for line in lines] == [
        [pool, workers] for workers in ("1", "8") for pool in ("tasker", "psycopg_pool")
    ]
    assert {line.split()[6] for line in lines[::2]} == {"1"}, "one worker tries at a time"


def test_the_drill_of_the_black_hole_prints_a_line_for_each_load_and_pool(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert black_hole.main(["--seconds", "0.5"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == black_hole.HEAD
    assert [[line[:6].strip(), line[6:30].strip()] for line in lines] == [
        [load, pool] for load in black_hole.LOADS for pool in black_hole.WAYS
    ]


def test_the_drill_of_a_failover_loses_no_task_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert failover.main(["--tasks", "100", "--rounds", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if failover.HEAD not in line]
    failed = [(line[:32].strip(), float(line[32:38])) for line in lines]
    assert [name for name, _ in failed] == [*failover.WAYS] * 2
    assert [number for name, number in failed if name.startswith("tasker")] == [0, 0]


def test_the_drill_of_a_stuck_task_says_whether_its_connection_serves_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert stuck.main(["--query", "1", "--rounds", "1"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    connections = {line[:26].strip(): line[49:].strip() for line in lines}
    # with both, a busy machine may not be back in time
    assert connections.pop("tasker, both") in {"the same", "a new one"}
    assert connections == {
        "ThreadPoolExecutor": "the same",
        "tasker, nothing": "the same",
        "tasker, on_abort": "the same",
        "tasker, abandon_after=0.5": "a new one",
    }
