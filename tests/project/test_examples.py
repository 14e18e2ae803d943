"""The programs in `examples`, run as a reader would: `python examples/NAME.py`, from another folder.

Each prints what stands here, line by line, where `...` stands for any characters, as in the README. The index has
its own tests, `test_index_files.py`.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasker import Slot
from tests.support.examples import (
    EXAMPLES,
    PATIENCE,
    assert_prints,
    command,
    environment,
    hide,
    load,
    run_example,
)
from tests.support.output import output_matches
from tests.support.placements import on_posix, with_ray

pytestmark = pytest.mark.slow

OUTPUTS = {
    "calculator.py": """\
switched on
6 / 3 = 2.0
plus 40 = 42.0
1 / 0: division by zero
memory: 42.0
running sums: [43.0, 45.0, 48.0]
the future's error: ZeroDivisionError('division by zero')
switched off
too late: tasker is stopping or closed: the task was not accepted
""",
    "image_processing.py": """\
urgent pictures first
a workshop opens
  made passport.jpg
  made beach.jpg
  made dinner.jpg
  made sunset.jpg
  the urgent one measures (90, 120)
a bad picture
  the caller gets UnidentifiedImageError after 1 attempt
a broken workshop
a workshop closes
a workshop opens
  made portrait.jpg
  the caller gets (90, 120) after 2 attempts
a workshop closes
5 completed, 1 failed, 1 retried; ['beach.jpg', 'dinner.jpg', 'passport.jpg', 'portrait.jpg', 'sunset.jpg']
""",
    "monitoring.py": """\
quiet     2 workers (0 burst, 2 idle), 0 tasks running, 0 waiting
peak      6 workers (4 burst, 0 idle), 6 tasks running, 34 waiting
totals    40 arrived, 40 completed, 0 failed, 0 retried
rates     ... arrived a second, ... completed, success rate 100%
seconds   waited ... on average, ran ... on average, ... at most in 95 of 100
quiet     2 workers (0 burst, 2 idle), 0 tasks running, 0 waiting
""",
    "sqlite_connections.py": """\
100 deposits on 3 connections: 100
while somebody writes, a reader sees: 100
a writer that will not wait: database is locked
after both writers: 1101
run_task, in this thread: 1101
all connections lost, and yet: 1101 after a retry: True
""",
}
NEEDS = {
    "image_processing.py": "PIL"
}  # the module without which an example only says that it is missing

# what the program prints once it is open, and then after a signal
OPEN = "process ... is open: ...\n"
CLOSED = """\
closing: no more letters are accepted
all that was accepted is done: True
fetching ended by itself: True
drained: True, failed: 0, threads left behind: 0
"""


@pytest.mark.parametrize("name", OUTPUTS)
def test_example_prints_what_it_says_and_leaves_nothing_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    for variable in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert_prints(name, OUTPUTS[name], cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_that_needs_what_is_not_installed_says_so_in_a_line_and_exits_with_2(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / f"{NEEDS[name]}.py").write_text("raise ImportError\n")
    done = run_example(name, cwd=tmp_path, modules=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install" in done.stderr


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`graceful_shutdown.py` that has said that it is open, and works."""
    with subprocess.Popen(
        command("graceful_shutdown.py"),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert output_matches(line, OPEN), line + "".join(process.communicate(timeout=PATIENCE))
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(
    os.name != "posix", reason="no other process can send Windows a signal that a handler sees"
)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=lambda sent: sent.name)
def test_a_signal_ends_the_service_when_all_that_it_accepted_is_done(
    service: subprocess.Popen[str], sent: signal.Signals
) -> None:
    service.send_signal(sent)
    out, err = service.communicate(timeout=PATIENCE)
    assert (service.returncode, err) == (0, ""), out + err
    assert output_matches(out, CLOSED), out


# -- logging, collecting, payments, asyncio, the web, processes -----------------------------------------------------

STANDARD_LOGGING = """\
-- standard logging
WARNING tasker.mail [mail-worker-1] mail: on_create raised, trying again: ConnectionRefusedError: the mail server is ...
Traceback (most recent call last):
...
ConnectionRefusedError: the mail server is starting
sent to ann
ERROR tasker.mail [mail-worker-1] tasker: callback note_delivery raised: LookupError: no such folder: Sent
Traceback (most recent call last):
...
LookupError: no such folder: Sent
WARNING tasker.mail [mail-aside] mail: resources are made again after 1 failure in 0.0 s
-- structlog
"""
STRUCTLOG = """\
{"event": "mail: on_create raised, trying again: ConnectionRefusedError: ...", "exception": "Traceback ...", "level": "warning", "service": "newsletter"}
sent to ann
{"event": "tasker: callback note_delivery raised: LookupError: ...", "exception": "Traceback ...\\nLookupError: ...", "level": "error", "service": "newsletter"}
{"event": "mail: resources are made again after 1 failure in 0.0 s", "level": "warning", "service": "newsletter"}
"""


def test_custom_logging_shows_both_failures_in_standard_logging_and_in_structlog(
    tmp_path: Path,
) -> None:
    pytest.importorskip("structlog")
    assert_prints("custom_logging.py", STANDARD_LOGGING + STRUCTLOG, cwd=tmp_path)


def test_custom_logging_without_structlog_says_so_in_a_line(tmp_path: Path) -> None:
    hide("structlog", tmp_path)
    done = run_example("custom_logging.py", cwd=tmp_path, modules=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    hint = "structlog is not installed: pip install structlog\n"
    assert output_matches(done.stdout, STANDARD_LOGGING + hint), done.stdout


COLLECTED = """\
failed: there is no page 0
# TYPE tasks_total counter
tasks_total{outcome="completed"} 20
tasks_total{outcome="failed"} 1
# TYPE task_retries_total counter
task_retries_total 1
# TYPE task_seconds histogram
task_seconds_bucket{le="0.01"} 0
task_seconds_bucket{le="0.1"} ...
task_seconds_bucket{le="1.0"} ...
task_seconds_bucket{le="+Inf"} 20
task_seconds_sum ...
task_seconds_count 20
success rate 95.2%
"""


def test_custom_collector_prints_every_count_and_a_histogram_that_adds_up(tmp_path: Path) -> None:
    assert_prints("custom_collector.py", COLLECTED, cwd=tmp_path)
    printed = run_example("custom_collector.py", cwd=tmp_path).stdout
    buckets = [int(count) for count in re.findall(r"_bucket\{.*\} (\d+)", printed)]
    assert len(buckets) == 4
    assert buckets == sorted(buckets)
    (seconds,) = re.findall(r"_sum (.*)", printed)
    assert float(seconds) >= 20 * 0.01  # none was in the first bucket


PAYMENTS = """\
queue_task: the lost answer costs a retry, and the customer a second charge
  the caller sees: receipt 2
  the bank charged: ['order 1', 'order 1']
queue_task_once: one charge, and an error for the caller
  the caller sees: no answer from the bank
  the bank charged: ['order 2']
  the books say: in doubt
settled: the books agree with the bank
  the books say: receipt 1
  the bank charged: ['order 2']
  the next order: receipt 2
"""


def test_payments_charges_twice_with_retries_and_once_without(tmp_path: Path) -> None:
    assert_prints("payments.py", PAYMENTS, cwd=tmp_path)


FETCHED = """\
asubmit: hello from /index
queue_task_async: hello from /news
gather: 100 pages, the last one hello from /item/99
amap: hello from /page/1
amap: hello from /page/2
amap: hello from /page/3
a lost connection: hello from /flaky
cancelled: no answer from /never
afterwards: hello from /index
107 completed, 1 retried
"""


def test_asyncio_fetching_gets_every_page_but_the_one_that_never_comes(tmp_path: Path) -> None:
    assert_prints("asyncio_fetching.py", FETCHED, cwd=tmp_path)


SERVED = """\
POST /notes 201 1
POST /notes 201 2
POST /notes 409 {"detail":"UNIQUE constraint failed: notes.text"}
GET /notes 200 ["buy milk","call ann"]
GET /report 504 {"detail":"took too long"}
"""


def test_web_application_answers_others_while_a_report_takes_too_long(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    assert_prints("web_application.py", SERVED, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []  # its database was a temporary one


@pytest.mark.parametrize("module", ["fastapi", "httpx"])
def test_web_application_names_what_is_not_installed_and_exits_with_2(
    module: str, tmp_path: Path
) -> None:
    if module == "fastapi":
        (tmp_path / "httpx.py").touch()  # is looked for first, and may be missing here
    hide(module, tmp_path)
    done = run_example("web_application.py", cwd=tmp_path, modules=tmp_path)
    missing = f"{module} is not installed: pip install fastapi httpx\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", missing)


PREFORK = f"""
import os, signal, sys
import web_application  # preloaded, then shared by the children

for _ in range(2):
    child = os.fork()
    if not child:
        signal.alarm({PATIENCE:.0f})  # nobody else would end a child that hangs
        web_application.main()
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_web_application_serves_in_every_child_of_a_process_that_has_preloaded_it(
    tmp_path: Path,
) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::DeprecationWarning:__main__",
            "-c",
            PREFORK,
        ],  # a fork with threads is one
        cwd=tmp_path,
        env=environment(EXAMPLES),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == SERVED * 2


SOURCES = {
    "reader.py": "def readFile(file_name, maxSize=None):\n    return readHTTPHeader(file_name)\n",
    "deep/name.py": "name = 'names in strings do not count'  # nor do those in comments\n",
    "deep/unfinished.py": "name = (\n",
    "deep/latin.py": b"# coding: utf-8\ncaf\xe9 = 1\n",
    "test/test_reader.py": "skipped = name\n",
}
COUNTED = """\
{placement}: 12 words in 4 files, 2 of them unreadable
       3 file
       3 name
       2 read
       1 header
       1 http
"""
TOOK = "threads took ... s, processes ... s: ... times as fast\n"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name, content in SOURCES.items():
        path = tmp_path / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / "sources"


@on_posix
def test_count_words_counts_the_same_on_threads_and_in_processes(
    sources: Path, tmp_path: Path
) -> None:
    threads, processes = (COUNTED.format(placement=each) for each in ("threads", "processes"))
    assert_prints("count_words.py", processes, "sources", "--workers", "2", cwd=tmp_path)
    hide("cloudpickle", tmp_path)  # it can do without
    arguments = (str(sources), "--compare")
    assert_prints(
        "count_words.py", threads + processes + TOOK, *arguments, cwd=tmp_path, modules=tmp_path
    )


def assert_recognizes(placement: str, *, cwd: Path) -> None:
    done = run_example("recognize.py", "--placement", placement, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.fullmatch(
        rf"{placement}: (\d+)% of \d+ files recognized; processes: [12]\n", done.stdout
    )
    assert printed, done.stdout
    assert int(printed[1]) >= 80  # 89 to 94, as the standard library differs; 11 would be chance


@pytest.mark.parametrize("placement", ["threads", pytest.param("processes", marks=on_posix)])
def test_recognize_loads_a_model_a_worker_and_is_mostly_right(
    placement: str, tmp_path: Path
) -> None:
    assert_recognizes(placement, cwd=tmp_path)


def test_recognize_shows_each_child_the_gpu_of_its_slot() -> None:
    placement = load("recognize.py").placement_named("processes", 0.5)
    seen = [placement.environment(Slot(index=index, worker="")) for index in range(4)]
    assert seen == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "0011"]


def test_recognize_says_in_a_line_that_a_batch_took_too_long_and_exits_with_2(
    tmp_path: Path,
) -> None:
    done = run_example("recognize.py", "--placement", "threads", "--seconds", "1e-6", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@with_ray
@pytest.mark.timeout(150)
def test_examples_run_on_a_local_ray_cluster(sources: Path, tmp_path: Path) -> None:
    arguments = ("sources", "--placement", "ray", "--workers", "2")
    assert_prints("count_words.py", COUNTED.format(placement="ray"), *arguments, cwd=tmp_path)
    assert_recognizes("ray", cwd=tmp_path)


@pytest.mark.parametrize("placement", ["threads", "processes"])
def test_count_words_refuses_a_wrong_number_of_workers_in_a_line_and_exits_with_2(
    placement: str, sources: Path, tmp_path: Path
) -> None:
    done = run_example(
        "count_words.py", "sources", "--workers", "0", "--placement", placement, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# -- all examples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_run_by_a_test_and_begins_by_saying_how_to_run_it(path: Path) -> None:
    others = ("test_index_files.py", "test_programs_in_service.py")
    tests = [Path(__file__), *map(Path(__file__).with_name, others)]
    assert any(f'"{path.name}"' in test.read_text(encoding="utf-8") for test in tests)
    module = ast.parse(path.read_text(encoding="utf-8"))
    assert f"\n    python examples/{path.name}" in (ast.get_docstring(module, clean=False) or "")
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body)
