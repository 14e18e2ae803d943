"""The environment of the interpreters that are started for a measurement."""

from __future__ import annotations

import os
from pathlib import Path

import tasker

__all__ = ["path_of_packages", "with_byte_code"]

# The folder in which `benchmarks` is.
_HERE = Path(__file__).parents[2]


def path_of_packages() -> str:
    """Return a `PYTHONPATH` on which a child finds this tasker and these benchmarks."""
    folders = (str(folder) for folder in (Path(tasker.__file__).parents[1], _HERE))
    return os.pathsep.join([*dict.fromkeys(folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def with_byte_code(cache: str) -> dict[str, str]:
    """Return an environment in which interpreters keep their byte code in that folder.

    They do so even if the environment of this interpreter forbids it.
    """
    environment = os.environ | {"PYTHONPATH": path_of_packages(), "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment
