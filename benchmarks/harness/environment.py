"""The environment of the interpreters that are started for a measurement."""

from __future__ import annotations

import os
from pathlib import Path

import tasker

__all__ = ["path_of_packages", "with_byte_code"]

_HERE = Path(__file__).parents[2]  # the folder that `benchmarks` is in


def path_of_packages() -> str:
    """`PYTHONPATH` for a child that is to find the tasker and the benchmarks that run here."""
    folders = (str(folder) for folder in (Path(tasker.__file__).parents[1], _HERE))
    return os.pathsep.join([*dict.fromkeys(folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def with_byte_code(cache: str) -> dict[str, str]:
    """An environment in which interpreters keep their byte code in that folder, whatever this one says about it."""
    environment = os.environ | {"PYTHONPATH": path_of_packages(), "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment
