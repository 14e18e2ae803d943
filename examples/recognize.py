"""A model for each worker: which package of the standard library is a file from?

    python examples/recognize.py [--placement threads|processes|ray] [--gpus N]
                                 [--workers N] [--seconds S]

The model is the resource: loading it takes long, asking it is quick. Each worker loads
it once and then answers batch after batch. Models on GPUs are served like this. There
are as many workers as models fit, and no model is loaded for a single question.

`--gpus 1` (or 0.25, for four workers on one) gives each worker a GPU: in processes by
the number of its slot, with Ray one of the cluster. CUDA_VISIBLE_DEVICES names it, so a
framework finds it as "cuda:0". This model has no use for a GPU. It is Bayes' rule with
the names that occur in the files. It learns from every second file and is asked about
the others.

`--seconds` limits one batch. A model that takes longer is killed with its worker, and
loaded again.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tasker import (
    Config,
    ConfigError,
    Placement,
    Processes,
    Ray,
    ResourceCreationError,
    TaskManager,
    TaskTimeoutError,
    Threads,
)

LIBRARY = Path(sysconfig.get_path("stdlib"))
PACKAGES = (
    "asyncio",
    "concurrent",
    "email",
    "http",
    "importlib",
    "json",
    "logging",
    "unittest",
    "xml",
)
BATCH_FILES = 8

Batch = list[Path]


class Model:
    """How often each name occurs in the files of each package."""

    def __init__(self) -> None:
        self.device = "cuda:0" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"

        self.names = {package: Counter[str]() for package in PACKAGES}
        for package, file in files()[::2]:
            self.names[package].update(names_in(file))

        self.totals = {package: names.total() for package, names in self.names.items()}

    def recognize(self, files: Batch) -> tuple[list[str], int]:
        """Return a package for each file, and the process in which the model is."""
        return [self._package_of(Counter(names_in(file))) for file in files], os.getpid()

    def _package_of(self, names: Counter[str]) -> str:
        def likelihood(package: str) -> float:
            known, total = self.names[package], self.totals[package]

            return sum(
                times * math.log((known[name] + 0.01) / total) for name, times in names.items()
            )

        return max(PACKAGES, key=likelihood)

    def close(self) -> None:
        self.names.clear()


def names_in(file: Path) -> list[str]:
    return re.findall(r"[A-Za-z_]\w+", file.read_text(encoding="utf-8", errors="replace"))


def files() -> list[tuple[str, Path]]:
    return [
        (package, file)
        for package in PACKAGES
        for file in sorted((LIBRARY / package).rglob("*.py"))
    ]


def batches(files: list[Path]) -> Iterator[Batch]:
    rest = iter(files)

    while batch := list(islice(rest, BATCH_FILES)):
        yield batch


def placement_named(name: str, gpus: float) -> Placement:
    if name == "ray":
        return Ray(address=os.environ.get("RAY_ADDRESS"), num_gpus=gpus or None)

    if name == "processes" and gpus:
        # Each child sees its own GPU alone, before it imports any framework.
        return Processes(
            environment=lambda slot: {"CUDA_VISIBLE_DEVICES": str(int(slot.index * gpus))}
        )

    return Processes() if name == "processes" else Threads()


def main() -> int:
    cli = argparse.ArgumentParser(
        description="Say from which package of the standard library source files are."
    )
    cli.add_argument("--placement", choices=("threads", "processes", "ray"), default="processes")
    cli.add_argument("--gpus", type=float, default=0, help="of each worker, not with threads")
    cli.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    cli.add_argument(
        "--seconds", type=float, default=60, help="for one batch; default: %(default)s"
    )
    options = cli.parse_args()

    asked = files()[1::2]
    try:
        config = Config(
            on_create=Model,
            on_destroy=Model.close,
            worker_count=options.workers,
            max_worker_count=options.workers,
            placement=placement_named(options.placement, options.gpus),
        )
        answers: list[str] = []
        models: set[int] = set()

        with TaskManager(config) as manager:
            questions = batches([file for _, file in asked])
            results = manager.map(Model.recognize, questions, timeout=options.seconds)
            for packages, process in results:
                answers += packages
                models.add(process)
    except (ConfigError, ResourceCreationError, TaskTimeoutError) as error:
        cli.exit(2, f"{cli.prog}: {error}\n")

    right = sum(answer == package for answer, (package, _) in zip(answers, asked, strict=True))
    print(
        f"{options.placement}: {right / len(asked):.0%} of {len(asked)} files recognized;"
        f" processes: {len(models)}"
    )

    return 0


if __name__ == "__main__":
    import recognize

    sys.exit(recognize.main())
