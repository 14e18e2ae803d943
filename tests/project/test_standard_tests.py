"""The standard library's own tests of ThreadPoolExecutor, run on ours where the interpreter ships them.

Each of its test modules runs in a process of its own, all at once, as they sleep a lot. There our class takes the place
of the standard one before anything imports it, in the programs that the tests run in further processes too. From 3.14
on its InterpreterPoolExecutor, a subclass, is made of ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tasker

pytestmark = pytest.mark.slow

PACKAGE = "test.test_concurrent_futures"  # up to 3.11 one module
MODULES = (
    "test_thread_pool",
    "test_shutdown",
    "test_wait",
    "test_as_completed",
    "test_init",
    "test_interpreter_pool",
)
ASYNCIO = ("test.test_asyncio.test_threads", "test.test_asyncio.test_events")

# Tests that fail on ours, and why that is as it should be. What they read of a ThreadPoolExecutor besides its
# documented methods (`_threads`, `_max_workers`, `_broken`) is there.
EXPECTED_FAILURES: dict[str, str] = {
    f"{PACKAGE}.test_interpreter_pool.InterpreterPoolExecutorTest.test_pickle_errors_propagate": (
        "submits what cannot be called, to see it fail in its worker: ours refuses that at once"
    )
}

PATIENCE = 300.0  # seconds for one of the processes

PRELUDE = f"""
import sys
sys.path.insert(0, {str(Path(tasker.__file__).parent.parent)!r})
import concurrent.futures.thread
from tasker import threadpool
concurrent.futures.ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor = threadpool.ThreadPoolExecutor
"""

RUNNER = f"""
PRELUDE = {PRELUDE!r}
exec(PRELUDE)

import json, unittest
import test.support
from test.support import script_helper

test.support.use_resources = ["walltime", "cpu"]
test.support.verbose = False

run_program = script_helper.assert_python_ok
script_helper.assert_python_ok = lambda option, *programs: run_program(option, *(PRELUDE + text for text in programs))

def tests_in(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test)
        else:
            yield test

def is_about_threads(test):
    executor = getattr(test, "executor_type", None)
    if executor is None:
        return "executor" in test.id() + sys.argv[2]
    return isinstance(executor, type) and issubclass(executor, threadpool.ThreadPoolExecutor)

class Result(unittest.TextTestResult):
    passed = ()
    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += (test.id(),)

loader = unittest.TestLoader()
chosen = unittest.TestSuite(filter(is_about_threads, tests_in(loader.loadTestsFromName(sys.argv[1]))))
result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(chosen)
failed = {{test.id().partition(" ")[0]: text for test, text in result.failures + result.errors}}
skipped = {{test.id(): why for test, why in result.skipped}}
print(json.dumps({{"passed": result.passed, "failed": failed, "skipped": skipped}}))
"""


def shipped(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def chosen_modules() -> list[str]:
    package = importlib.util.find_spec(PACKAGE) if shipped(PACKAGE) else None
    inside = (
        [f"{PACKAGE}.{name}" for name in MODULES]
        if package and package.submodule_search_locations
        else [PACKAGE]
    )
    return inside + list(ASYNCIO)


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    if not shipped(PACKAGE):
        pytest.skip("this interpreter comes without the standard library's tests")
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
    }  # of forking with threads
    runs = {
        module: subprocess.Popen(
            [
                sys.executable,
                "-c",
                RUNNER,
                module,
                "executor" if module.endswith("test_threads") else "",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for module in chosen_modules()
        if shipped(module)
    }
    yield runs
    for run in runs.values():
        run.kill()
        run.communicate()


@pytest.mark.timeout(PATIENCE + 30)
@pytest.mark.parametrize("module", chosen_modules())
def test_the_standard_librarys_own_tests_pass(
    runs: dict[str, subprocess.Popen[str]], module: str
) -> None:
    if module not in runs:
        pytest.skip(f"this interpreter comes without {module}")
    out, err = runs[module].communicate(timeout=PATIENCE)
    assert out, err
    outcome: dict[str, Any] = json.loads(out.splitlines()[-1])
    expected = {test for test in EXPECTED_FAILURES if test.startswith(f"{module}.")}
    assert set(outcome["failed"]) == expected, f"{outcome['failed']}\n{err}"
    assert outcome["passed"], (
        f"no test of {module} is one of threads, or all are skipped: {outcome['skipped']}"
    )
