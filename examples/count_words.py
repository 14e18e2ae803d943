"""Which words do programmers use? Those in the names of a source tree, counted on threads, in processes, or on Ray.

    python examples/count_words.py [DIRECTORY] [--placement threads|processes|ray] [--workers N] [--compare]

Tokenizing is work for the processor, in Python. Threads take turns at it: they share one interpreter lock. With
`Processes()` each worker has an interpreter of its own, so it takes about as many times less as there are processors.
`--compare` does it in these two ways and says how long each took. All that differs is one field of the configuration;
the task, the resource and the loop over the results are the same. So they are with `Ray()`, whose workers may be on
other machines: those of the cluster that `RAY_ADDRESS` names, where DIRECTORY and this file must be, or, without it,
of one that is started here.

What crosses to a child process is the task by its name, a path, and the words of a file back: little, compared to the
milliseconds that a file takes. That is what processes are good at. Functions travel as names, which a child imports;
those of a script it cannot import, so the last lines run the script as a module. Without them the extra `processes`
(cloudpickle) would be needed, which sends functions whole.

DIRECTORY is Python's own standard library if it is not given. Folders of tests are left out, and hidden ones.
"""

from __future__ import annotations

import argparse
import keyword
import os
import re
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from pathlib import Path

from tasker import Config, ConfigError, Placement, Processes, Ray, TaskManager, Threads

PLACEMENTS: dict[str, Placement] = {
    "threads": Threads(),
    "processes": Processes(),
    "ray": Ray(address=os.environ.get("RAY_ADDRESS")),
}
COMPARED = ["threads", "processes"]
UNREADABLE = (
    OSError,
    SyntaxError,
    tokenize.TokenError,
    UnicodeDecodeError,
)  # what reading a file may raise
SKIPPED_FOLDERS = {"test", "tests", "site-packages", "__pycache__"}
MOST = 5  # words that are printed


class Splitter:
    """A worker's resource. It remembers the words of every name that it has met, so it is best kept."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {name: [] for name in keyword.kwlist}

    def words(self, name: str) -> list[str]:
        """`readHTTPHeader_fast` is read, http, header and fast."""
        if name not in self.known:
            self.known[name] = [
                word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
            ]
        return self.known[name]

    def close(self) -> None:
        self.known.clear()


def count(splitter: Splitter, path: str) -> Counter[str]:
    """The task: the words in the names of a file. Raises `UNREADABLE`."""
    words: Counter[str] = Counter()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NAME:
                words.update(splitter.words(token.string))
    return words


def python_files(root: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name[0] != "." and name not in SKIPPED_FOLDERS]
        found += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def count_all(paths: list[str], placement: str, workers: int) -> tuple[Counter[str], int]:
    """The words of all files, and how many files could not be read."""
    config = Config(
        on_create=Splitter,
        on_destroy=Splitter.close,
        worker_count=workers,
        max_worker_count=workers,  # more than there are processors would be of no use
        placement=PLACEMENTS[placement],
    )
    total: Counter[str] = Counter()
    unreadable = 0
    with TaskManager(config) as manager:
        for words in manager.map(count, paths, ordered=False, return_exceptions=True):
            if isinstance(words, Counter):
                total.update(words)
            elif isinstance(words, UNREADABLE):
                unreadable += 1
            else:
                raise words
    return total, unreadable


def main() -> int:
    cli = argparse.ArgumentParser(
        description="Count the words in the names of a Python source tree."
    )
    cli.add_argument("directory", nargs="?", type=Path, default=sysconfig.get_path("stdlib"))
    cli.add_argument(
        "--placement", choices=PLACEMENTS, default="processes", help="default: %(default)s"
    )
    cli.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="default: one a CPU")
    cli.add_argument(
        "--compare", action="store_true", help="on threads and in processes: how long each took"
    )
    options = cli.parse_args()
    paths = python_files(options.directory)
    seconds: list[float] = []
    try:
        for placement in COMPARED if options.compare else [options.placement]:
            started = time.perf_counter()
            words, unreadable = count_all(paths, placement, options.workers)
            seconds.append(time.perf_counter() - started)
            print(
                f"{placement}: {words.total()} words in {len(paths)} files, {unreadable} of them unreadable"
            )
            for word, times in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MOST]:
                print(f"  {times:>6} {word}")
    except (
        ConfigError
    ) as error:  # a wrong number of workers, a system without such processes, no Ray
        cli.exit(2, f"{cli.prog}: {error}\n")
    if options.compare:
        threads, processes = seconds
        ratio = threads / processes
        print(
            f"threads took {threads:.1f} s, processes {processes:.1f} s: {ratio:.1f} times as fast"
        )
    return 0


if __name__ == "__main__":
    import count_words

    sys.exit(count_words.main())
