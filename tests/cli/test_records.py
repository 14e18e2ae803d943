"""What one run writes to --errors another reads: the same items, to the letter, with the numbers they had."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed; the extra `dev` brings it")

from hypothesis import Phase, configuration, given, seed, settings
from hypothesis import strategies as st

from tasker.cli import main
from tasker.cli.records import Record, UnreadableError, error_line, read, result_line

SECONDS = float(os.environ.get("TASKER_STRESS_SECONDS", "2"))
SEED = int(os.environ.get("TASKER_STRESS_SEED", str(random.SystemRandom().randrange(10**6))))

pytestmark = pytest.mark.timeout(
    240 + 20 * SECONDS
)  # making a failing example shorter takes a while


def quickly(examples_a_second: float) -> settings:
    phases = (Phase.generate, Phase.shrink)
    return settings(
        max_examples=max(1, int(SECONDS * examples_a_second)),
        deadline=None,
        database=None,
        phases=phases,
    )


@pytest.fixture(autouse=True)
def hypothesis_writes_elsewhere(tmp_path: Path) -> Iterator[None]:
    print(f"TASKER_STRESS_SEED={SEED}")
    configuration.set_hypothesis_home_dir(tmp_path)
    yield
    configuration.set_hypothesis_home_dir(None)


# -- lines of any kind -------------------------------------------------------------------------------------------------

_space = st.sampled_from(["", "", "", " ", "\t", "\r", "  "])
# those that JSON, a line or a decoder treats in a way of its own
_texts = st.text(
    st.sampled_from('ab1"\\/{}[]:, \t\r\0\x7f\x85\xa0\u2028é\ufeff\U0001f600'), max_size=8
)
_strings = st.one_of(
    # names and pieces that the lines of an errors file have, too
    st.builds(
        json.dumps,
        st.one_of(_texts, st.sampled_from(["input", "line", "error", '", "error": "', '\udcff"'])),
    ),
    st.builds(lambda text: json.dumps(text, ensure_ascii=False), _texts),
    st.sampled_from([r'"\ud800"', r'"\u0069nput"', '"\\\\"', r'"\""']),
)
_atoms = st.one_of(
    _strings,
    st.sampled_from(
        ["null", "true", "1.10", "1e999", "-0", "1E5", "0.1e-400", "-0.0", "12345678901234567890.0"]
    ),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "nul", "01", "1.", "'a'", "{", "]", "[1,]", '{"a" 1}', '"']
    ),
)


def _spaced(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}{}".format, _space, parts, _space)


def _containers(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.builds(
        "{}:{}".format, _spaced(_strings), _spaced(items)
    )  # with the same name twice, perhaps
    return st.one_of(
        st.builds(lambda parts: f"[{','.join(parts)}]", st.lists(_spaced(items), max_size=3)),
        st.builds(lambda parts: f"{{{','.join(parts)}}}", st.lists(members, max_size=3)),
    )


_json = _spaced(st.recursive(_atoms, _containers, max_leaves=8))
_lines = st.lists(
    st.one_of(
        _json.map(lambda text: text.encode()),
        _texts.map(lambda text: text.encode()),
        st.binary(max_size=8).map(lambda line: line.replace(b"\n", b"")),
    ),
    max_size=8,
)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def strictly(line: bytes) -> Any:
    """The line as one of JSON, which it must be."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line.decode(), parse_constant=_refuse)


def _is_unreadable(record: Record) -> bool:
    try:
        record.item()
    except UnreadableError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lines", "jsonl"])
@pytest.mark.parametrize("begun", [True, False])
def test_an_errors_file_says_what_was_read_to_the_letter(form: str, begun: bool) -> None:
    @seed(SEED)
    @quickly(80)
    @given(_lines)
    def check(lines: list[bytes]) -> None:
        records = [record for _, record in read([line + b"\n" for line in lines], form)]
        written = [
            error_line(record, "said", "here", unreadable=begun and _is_unreadable(record))
            for record in records
        ]
        again = [record for _, record in read(written, "errors")]
        for record, line, copy in zip(records, written, again, strict=True):
            said = strictly(line)
            assert (copy.line, copy.text) == (record.line, record.text)
            assert ("unreadable" in said) == _is_unreadable(record) == _is_unreadable(copy)
            if "unreadable" not in said:
                assert repr(copy.item()) == repr(record.item())
                assert strictly(result_line(copy, 7)) == strictly(result_line(record, 7))
            # and so on: a copy of a copy is the copy
            assert (
                error_line(
                    copy, said["error"], said.get("where", ""), unreadable=bool(copy.unreadable)
                )
                == line
            )

    check()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lines", "jsonl"])
def test_the_failed_items_of_one_run_are_the_items_of_the_next(
    form: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    app = types.ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", app)

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]], list[str]]:
        """The status, the failures, and the items that the function was given."""
        given: list[str] = []

        def fails(item: Any) -> None:
            given.append(repr(item))
            raise ValueError(len(given))  # another text each time

        app.__dict__["fails"] = fails
        with contextlib.redirect_stderr(io.StringIO()):
            status = main(["map", "app:fails", "--workers", "2", "--output", "results", *arguments])
        assert Path("results").read_bytes() == b""
        with Path(arguments[-1]).open("rb") as file:
            failures = [strictly(line) for line in file]
        return status, sorted(failures, key=lambda failure: failure["line"]), sorted(given)

    @seed(SEED)
    @quickly(10)
    @given(_lines)
    def check(lines: list[bytes]) -> None:
        Path("lines").write_bytes(b"".join(line + b"\n" for line in lines))
        status, failed, given = run("--input", "lines", "--format", form, "--errors", "failed")
        status_again, failed_again, given_again = run(
            "--input", "failed", "--format", "errors", "--errors", "again"
        )
        assert status == status_again
        assert given == given_again
        assert [without_text(failure) for failure in failed] == [
            without_text(failure) for failure in failed_again
        ]
        assert len(given) == sum("input" in failure for failure in failed)

    def without_text(failure: dict[str, Any]) -> dict[str, Any]:
        return {
            name: repr(value)
            for name, value in failure.items()
            if name != "error" or "unreadable" in failure
        }

    check()


# -- an errors file that another tool has written anew -----------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"line":7,"input":{"a":[1.10,"}"]},"error":"no"}',
        '{"error":"no","input":{"a":[1.10,"}"]},"line":7}',
        '  { "input" :{"a":[1.10,"}"]}, "line" : 7 } ',
        '{"more": {"input": 1, "list": [{"input": 2}]}, "line": 7, "input":{"a":[1.10,"}"]}}',
        '{"more": "input", "text": "\\"input\\": 3", "line": 7, "input":{"a":[1.10,"}"]}}',
    ],
)
def test_the_members_of_a_failure_may_stand_in_any_order_and_with_any_space(line: str) -> None:
    ((_, record),) = read([line.encode()], "errors")
    assert (record.line, record.text, record.unreadable) == (7, '{"a":[1.10,"}"]}', "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", None),
        ('{"line": 7, "input": 1', "not JSON: "),
        ('{"line": 7 "input": 1}', "not JSON: "),
        ('{"line": 7, "input": 1}}', "not JSON: "),
        ('["line", 7, "input", 1]', "not a line that --errors wrote"),
        ('[{"line": 7, "input": 1}]', "not a line that --errors wrote"),
        ('{"line": "7", "input": 1}', "not a line that --errors wrote"),
        ('{"line": 7, "unreadable": 1, "error": "no"}', "not a line that --errors wrote"),
        ('{"line": 7, "unreadable": "1"}', "not a line that --errors wrote"),
        ('"' + '\\"' * 200_000, "not JSON: "),
        ('{"input": ' * 200_000, "not JSON: "),
        ('{"input": "' + '\\"' * 200_000, "not JSON: "),
    ],
)
def test_what_errors_never_wrote_is_an_unreadable_line_of_its_own(
    line: str, reason: str | None
) -> None:
    records = [record for _, record in read([line.encode()], "errors")]
    assert [(record.line, record.text) for record in records] == (
        [] if reason is None else [(1, line)]
    )
    assert all(record.unreadable.startswith(str(reason)) for record in records)


def test_an_item_that_can_just_be_parsed_is_found_however_deep_it_is() -> None:
    item = "[" * 50_000 + "]" * 50_000  # as another stack may parse it
    line = error_line(Record(3, item), "said", "here", unreadable=False)
    ((_, record),) = read([line], "errors")
    assert (record.line, record.text, record.unreadable) == (3, item, "")
