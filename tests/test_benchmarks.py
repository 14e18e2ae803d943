"""The benchmarks: their arithmetic, and one quick pass of everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
import tasker
from benchmarks.__main__ import _names, main
from benchmarks.imports import path_of_packages
from benchmarks.latency import HAND_OVERS, above_hand_overs
from benchmarks.measurements import MEASUREMENTS
from benchmarks.results import Row
from benchmarks.rivals import BASELINE, TASKER
from benchmarks.rounds import Spread, interleave, ratios, spread
from benchmarks.table import as_markdown, as_text, figure
from benchmarks.targets import Build, Target, on_3_11, round_trip_target, submit_target
from benchmarks.variables import VARIABLES, a_few_set

ROOT = Path(__file__).parents[1]


def row(*, ratio: float | None = 6.5, target: Target | None = None) -> Row:
    return Row(
        name="example",
        title="an example",
        unit="µs",
        samples={TASKER: [1.0, 2.0, 3.0], BASELINE: [12.0, 13.0, 14.0], "beside": [0.5, 0.5, 0.5]},
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
    assert above_hand_overs(samples) == (Spread(0.5, 0.5, 0.5), "of its time above two lock hand-overs")
    ratio, meaning = above_hand_overs(samples | {HAND_OVERS: [20.0] * 3})
    assert ratio.median == 12.0 / 14.0
    assert meaning.startswith("of its whole time")


def test_rounds_are_interleaved_and_begin_with_another_rival_each_time() -> None:
    order: list[str] = []

    def sampler(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = interleave({"a": lambda: sampler("a"), "b": lambda: sampler("b")}, 2, warm_ups=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert samples == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


@pytest.mark.parametrize(
    ("build", "times", "share"),
    [
        (Build(11), 6, 0.75),
        (Build(12), 5, 1.0),
        (Build(13), 4, 1.0),
        (Build(14), 4, 1.0),
        (Build(13, free_threaded=True), 3, 1.0),
    ],
)
def test_targets_depend_on_the_python(build: Build, times: float, share: float) -> None:
    assert submit_target(build).value == times
    assert round_trip_target(build).value == share


def test_some_targets_are_set_for_one_python_alone() -> None:
    target = Target("at least", 5)
    assert on_3_11(Build(11), target) is target
    assert on_3_11(Build(13, free_threaded=True), target) is None


def test_a_measurements_children_find_this_tasker_and_these_benchmarks() -> None:
    code = "import benchmarks, tasker; print(benchmarks.__file__, tasker.__file__)"
    environment = {**os.environ, "PYTHONPATH": path_of_packages()}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, cwd=Path(sys.prefix), capture_output=True, text=True, check=True)
    assert found.stdout.split() == [benchmarks.__file__, tasker.__file__]


def test_context_variables_are_set_for_a_measurement_alone() -> None:
    with a_few_set():
        assert [variable.get("") for variable in VARIABLES] == ["a value"] * len(VARIABLES)
    assert [variable.get("") for variable in VARIABLES] == [""] * len(VARIABLES)


@pytest.mark.parametrize(
    ("target", "met", "missed"),
    [(Target("at least", 3), 3.0, 2.9), (Target("at most", 3), 3.0, 3.1), (Target("below", 3), 2.9, 3.0)],
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
    ("value", "text"), [(0.0, "0"), (0.123, "0.12"), (1.5, "1.50"), (12.34, "12.3"), (1773.4, "1,773")]
)
def test_a_figure_has_three_digits_that_count(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_table_has_the_ratio_first_and_a_column_a_rival() -> None:
    head, rule, line = as_markdown([row(target=Target("at least", 6))]).splitlines()
    assert head == "| measurement | tasker to ThreadPoolExecutor | target | met | tasker | ThreadPoolExecutor |"
    assert rule.count("---") == 6
    assert line == (
        "| an example (µs; beside: 0.50) | 6.50 (6.00 to 7.00) times as fast | at least 6 | yes | 2.00 | 13.0 |"
    )
    assert "6.50 (6.00 to 7.00) times as fast" in as_text([row()])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "--nonsense"),
        (["--only", "submit,nonsense"], "no measurement 'nonsense'"),
        (["--output", str(ROOT / "no such folder" / "x.json")], "cannot write"),
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


def test_a_quick_pass_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    some = "queued,run-task,map,lines,processes-payload"  # .ci/run takes all
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", some, "--markdown", "--output", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert run.returncode == 0, run.stderr
    assert "| measurement | tasker to ThreadPoolExecutor |" in run.stdout
    report = json.loads(output.read_text())
    assert report["failed"] == []
    assert report["quick"] is True
    assert {"date", "machine", "python", "rivals", "skipped"} <= report.keys()
    assert {"architecture", "cpu", "cores", "platform"} <= report["machine"].keys()
    assert {"version", "gil"} <= report["python"].keys()
    rows = {entry["name"]: entry for entry in report["measurements"]}
    assert set(rows) == {"run-task", "queued-bytes", "map", "lines", "processes-argument", "processes-result"}
    for entry in rows.values():
        assert {"title", "unit", "ratio", "target", "met", "medians", "samples", "notes"} <= entry.keys()
        assert TASKER in entry["medians"]
