"""Which words do programmers use? Counts those in the names of a source tree.

    python examples/count_words.py [DIRECTORY] [--placement threads|processes|ray]
                                   [--workers N] [--compare]

The work is done on threads, in processes, or on Ray. Tokenizing keeps the processor
busy, in Python. Threads share one interpreter lock, so they take turns. With
`Processes()` each worker has an interpreter of its own. The time is divided by about
the number of processors.

`--compare` does the work on threads and in processes, and prints how long each took.
One field of the configuration differs. The task, the resource and the loop over the
results are the same. They are the same with `Ray()` too, whose workers may be on other
machines. `RAY_ADDRESS` names the cluster, whose machines must have DIRECTORY and this
file. Without it a cluster is started here.

Little crosses to a child process, compared to the milliseconds that a file takes: the
name of the task, a path, and the words of a file back. Such work suits processes.
A function travels as its name, which a child imports. A child cannot import functions
of a script, so the last lines run the script as a module. Without them the extra
`processes` (cloudpickle) would be needed, which sends functions whole.

DIRECTORY defaults to Python's own standard library. Folders of tests and hidden folders
are left out.
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

# Reading a file may raise these.
UNREADABLE = (OSError, SyntaxError, tokenize.TokenError, UnicodeDecodeError)

SKIPPED_FOLDERS = {"test", "tests", "site-packages", "__pycache__"}
MOST = 5  # words that are printed


class Splitter:
    """A worker's resource.

    It remembers the words of every name that it has met, so it is worth keeping.
    """

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {name: [] for name in keyword.kwlist}

    def words(self, name: str) -> list[str]:
        """Split a name: `readHTTPHeader_fast` is read, http, header and fast."""
        if name not in self.known:
            self.known[name] = [
                word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
            ]

        return self.known[name]

    def close(self) -> None:
        self.known.clear()


def count(splitter: Splitter, path: str) -> Counter[str]:
    """The task: count the words in the names of a file. Raises `UNREADABLE`."""
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
    """Return the words of all files, and how many files could not be read."""
    config = Config(
        on_create=Splitter,
        on_destroy=Splitter.close,
        worker_count=workers,
        # More workers than processors would be of no use.
        max_worker_count=workers,
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
                f"{placement}: {words.total()} words in {len(paths)} files,"
                f" {unreadable} of them unreadable"
            )
            for word, times in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MOST]:
                print(f"  {times:>6} {word}")
    except ConfigError as error:
        # A wrong number of workers, a system without such processes, or no Ray.
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
