"""The documentation: pdoc renders all that is public without a warning, and nothing of it is left unexplained."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import tasker
from tasker.methods import OPTIONS
from tests.support.methods import TWELVE

pytestmark = pytest.mark.slow

PAGES = (
    "tasker",
    "tasker.executor",
    "tasker.testing",
)  # the second for what `TaskManager.executor()` returns
TIMES = {"timeout", "run_timeout", "queue_timeout", "seconds"}  # parameters that are a time

Where = tuple[str, str]  # a page, and a name there


# -- what there is -------------------------------------------------------------------------------------------------


@functools.cache
def public() -> dict[Where, Any]:
    """What each page is to show."""
    modules = {page: importlib.import_module(page) for page in PAGES}
    return {
        (page, name): getattr(module, name)
        for page, module in modules.items()
        for name in module.__all__
    }


def methods() -> Iterator[tuple[Where, str, Any]]:
    """The page and the class, the name and the method or property, inherited ones included."""
    for where, thing in public().items():
        if inspect.isclass(thing):
            for owner in _ours(thing):
                for name, method in list(vars(owner).items()):
                    if not name.startswith("_") and not _is_field(owner, name):
                        yield where, name, method


def fields() -> Iterator[tuple[Where, str, str]]:
    """The page and the class, the name and the type of what a class declares."""
    for where, thing in public().items():
        if inspect.isclass(thing):
            for owner in _ours(thing):
                members = dict.fromkeys(getattr(owner, "__members__", ()), "a member")
                for name, kind in {**members, **inspect.get_annotations(owner)}.items():
                    if not name.startswith("_") and _is_field(owner, name):
                        yield where, name, str(kind)


def _ours(kind: type) -> list[type]:
    return [owner for owner in kind.__mro__ if owner.__module__.partition(".")[0] == "tasker"]


def _is_field(owner: type, name: str) -> bool:
    if name in getattr(owner, "__members__", ()):
        return True
    if name not in inspect.get_annotations(owner):
        return False
    # the default of a field may be a function, and the type of a method may be declared
    return dataclasses.is_dataclass(owner) or not inspect.isfunction(vars(owner).get(name))


def docstring(thing: Any) -> str:
    return inspect.getdoc(inspect.unwrap(thing)) or ""


# -- what pdoc makes of it -----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page of pdoc's: its names, and of each the signature and the explanation as plain text."""

    KINDS = (
        "docstring",
        "signature",
        "pdoc-code",
    )  # the last holds source code, unless it is in the first
    WITHOUT_END = (
        "area",
        "base",
        "br",
        "col",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "source",
        "wbr",
    )

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.texts: dict[tuple[str, str], str] = {}
        self._around: list[tuple[str, str, str]] = []  # tag, name and kind of each element around
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("id") or ""
        self.names.add(name)
        if tag not in self.WITHOUT_END:
            classes = (given.get("class") or "").split()
            self._around.append(
                (tag, name, next((kind for kind in self.KINDS if kind in classes), ""))
            )

    def handle_endtag(self, tag: str) -> None:
        while self._around and self._around.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        about = ""
        for _, name, kind in self._around:
            about = name or about
            if kind:
                self.texts[about, kind] = self.texts.get((about, kind), "") + data
                break

    def explanation(self, name: str) -> str:
        return self.texts.get((name, "docstring"), "").strip()

    def signature(self, name: str) -> str:
        return self.texts.get((name, "signature"), "")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """The pages, rendered by a pdoc whose warnings (all `UserWarning` or `RuntimeWarning`) are errors."""
    pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("docs")
    strict = ["-W", "error::UserWarning", "-W", "error::RuntimeWarning"]
    done = subprocess.run(
        [sys.executable, *strict, "-m", "pdoc", *PAGES, "-o", str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(tasker.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return {
        page: Page(folder.joinpath(*page.split(".")).with_suffix(".html").read_text("utf-8"))
        for page in PAGES
    }


def words(text: str) -> str:
    """A text without what markdown makes of it."""
    return re.sub(r"\W|_", "", text)


def test_every_public_name_is_rendered_with_its_docstring(rendered: dict[str, Page]) -> None:
    wrong = [
        f"{page}.{name}"
        for (page, name), thing in public().items()
        if not docstring(thing)
        or words(rendered[page].explanation(name)) != words(docstring(thing))
    ]
    assert wrong == []


def test_every_public_method_is_rendered_with_its_docstring(rendered: dict[str, Page]) -> None:
    wrong: list[str] = []
    for (page, kind), name, method in methods():
        texts = [
            words(each.explanation(f"{owner.__name__}.{name}"))
            for each in rendered.values()
            for owner in _ours(public()[page, kind])
        ]
        if (
            f"{kind}.{name}" not in rendered[page].names
            or not docstring(method)
            or words(docstring(method)) not in texts
        ):
            wrong.append(f"{page}.{kind}.{name}")
    assert wrong == []


def test_every_field_is_explained(rendered: dict[str, Page]) -> None:
    texts = {
        (page, kind, name): rendered[page].explanation(f"{kind}.{name}")
        for (page, kind), name, _ in fields()
    }
    assert [
        field for field, text in texts.items() if not text or text.startswith("Alias for field")
    ] == []


@pytest.mark.parametrize("name", TWELVE)
def test_the_signature_of_each_of_the_twelve_methods_says_what_it_takes_and_returns(
    name: str, rendered: dict[str, Page]
) -> None:
    signature = rendered["tasker"].signature(f"TaskManager.{name}")
    for wanted in (
        "fn: Callable[",
        "*args: ",
        "timeout: float | datetime.timedelta | None = None",
        "run_timeout: float | datetime.timedelta | None = None",
        "queue_timeout: float | datetime.timedelta | None = None",
        "ctx: ",
    ):
        assert wanted in signature
    assert ("callback: Callable[" in signature) == ("callback" in name)
    assert ("-> TaskFuture[" in signature) == ("async" in name)


# -- units ---------------------------------------------------------------------------------------------------------


def _functions() -> Iterator[tuple[Where, str, Any]]:
    yield from (
        (where, "", thing) for where, thing in public().items() if not inspect.isclass(thing)
    )
    yield from methods()


def _with_what_it_points_to(where: Where, text: str) -> str:
    """A docstring, and those of the methods of the same class that it is to be read with."""
    names = {
        one or other
        for one, other in re.findall(r"(?:[Aa]s|[Ss]ee) `(\w+)|`(\w+)` for asyncio", text)
    }
    return text + "".join(
        docstring(method) for place, name, method in methods() if place == where and name in names
    )


def _parameters(thing: Any) -> set[str]:
    names = {*inspect.signature(inspect.unwrap(thing)).parameters}
    return {*OPTIONS} if thing is tasker.TaskManager.submit else names


def test_every_function_that_takes_a_time_says_that_it_is_seconds() -> None:
    taking = [
        (where, name, thing)
        for where, name, thing in _functions()
        if callable(inspect.unwrap(thing)) and TIMES & _parameters(thing)
    ]
    assert len(taking) > 20
    silent = [
        (*where, name)
        for where, name, thing in taking
        if "second" not in _with_what_it_points_to(where, docstring(thing))
    ]
    assert silent == []


def test_every_field_that_is_a_fraction_says_its_unit(rendered: dict[str, Page]) -> None:
    silent: list[str] = []
    for (page, kind), name, annotation in fields():
        text = rendered[page].explanation(f"{kind}.{name}") + rendered[page].explanation(kind)
        if "float" in annotation and not re.search(
            "second|0 to 1|bytes|how many", text, re.IGNORECASE
        ):
            silent.append(f"{kind}.{name}")
    assert silent == []
