"""Short programs, each run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

CONFIG = """Config(
    on_create=lambda: print('created', flush=True), on_destroy=lambda r: print('destroyed', flush=True),
    worker_count=1, max_worker_count=1)"""


def run_python(code: str, *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own; its output must come before `timeout`, or it hung."""
    code = (
        f"import threading, time, sys, os\nfrom tasker import *\nCONFIG = {CONFIG}\n"
        + textwrap.dedent(code)
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False
    )


def printed_by(code: str) -> str:
    """What a program prints in a process of its own; it must end well and complain about nothing."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

FORKING = """
    import signal, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads

    gate = threading.Event()
    manager = TaskManager(Config(
        on_create=object, on_destroy=lambda r: None, worker_count=1, max_worker_count=1, queue_size=9))
    running = manager.submit(lambda resource: gate.wait(30))
    while not running.running():
        time.sleep(0.001)
    waiting = manager.submit(lambda resource: "the parent's")

    def leave_block():
        with manager:
            pass

    def in_a_child(name, use):
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # ends a child that hangs
            try:
                outcome = type(use()).__name__
            except BaseException as error:
                outcome = type(error).__name__
            print(name, outcome, flush=True)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            print(name, "ended with", status, flush=True)
"""
