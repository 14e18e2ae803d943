"""What is built of the project: the wheel, and the page on the package index."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = """\
# tasker

<picture>
  <source srcset="benchmarks/dark.svg">
  <img alt="a chart" src="benchmarks/light.svg">
</picture>

[The guide](examples/README.md#recipes), [Ray](https://www.ray.io).
"""

pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    (file,) = folder.iterdir()
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if not name.startswith("tasker_pool-")}

    files = [*(ROOT / "tasker").rglob("*.py"), ROOT / "tasker" / "py.typed"]
    assert held == {file.relative_to(ROOT).as_posix() for file in files}


def test_no_link_of_the_page_on_the_index_is_dead(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    page = metadata.get_payload()

    assert isinstance(page, str)
    assert page.startswith("# tasker\n")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert not _hook().LINK.search(page)
    assert not _hook().FILE_OF_PICTURE.search(page)


def test_links_of_the_page_lead_into_the_repository() -> None:
    page = """\
# tasker

<picture>
  <source srcset="https://example.com/t/raw/HEAD/benchmarks/dark.svg">
  <img alt="a chart" src="https://example.com/t/raw/HEAD/benchmarks/light.svg">
</picture>

[The guide](https://example.com/t/blob/HEAD/examples/README.md#recipes), [Ray](https://www.ray.io).
"""
    assert _hook().for_the_index(README, "https://example.com/t") == page


def test_links_become_their_text_while_the_address_of_the_repository_is_unknown() -> None:
    page = """\
# tasker

The guide, [Ray](https://www.ray.io).
"""
    assert _hook().for_the_index(README, "") == page


def _hook() -> ModuleType:
    """`hatch_build.py`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
