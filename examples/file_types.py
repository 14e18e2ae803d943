"""A model for each slot: of which types are the files in a folder?

    python examples/file_types.py [FOLDER]

Each worker has a process, a GPU and a model of its own. The slot says which GPU: no
other living process has the same `slot.index`, and one that takes the place of a dead
one gets its GPU. CUDA_VISIBLE_DEVICES is set before the process imports anything, so
the model finds its GPU as the first one. The model here, Magika, is small enough for a
processor and does without.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections import Counter
from pathlib import Path

try:
    from magika import Magika
except ImportError:
    print("magika is not installed: pip install magika", file=sys.stderr)
    sys.exit(2)

from tasker import Config, Processes, Slot, TaskManager

GPUS = 2


def gpu_of(slot: Slot) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": str(slot.index)}


def configure() -> Config[Magika]:
    return Config(
        on_create=Magika,
        on_destroy=lambda model: None,
        worker_count=GPUS,
        max_worker_count=GPUS,
        placement=Processes(environment=gpu_of),
        run_timeout=60,
    )


def recognize(model: Magika, file: Path) -> tuple[str, str]:
    label = model.identify_bytes(file.read_bytes()).output.label
    return str(label), os.environ["CUDA_VISIBLE_DEVICES"]


def main(folder: str = sysconfig.get_path("stdlib") + "/json") -> None:
    files = [file for file in sorted(Path(folder).rglob("*")) if file.is_file()]
    with TaskManager(configure()) as manager:
        types, gpus = zip(*manager.map(recognize, files), strict=True)
    print(f"{len(files)} files:", Counter(types).most_common())
    print("by the models on the GPUs", *sorted(set(gpus)))


if __name__ == "__main__":
    main(*sys.argv[1:])
