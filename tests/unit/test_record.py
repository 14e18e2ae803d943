"""`Record`: a dataclass to everybody who looks, and cheap to import."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import pickle
import pydoc
import sys
from typing import Any, Generic, TypeVar

import pytest

from tasker import Processes
from tasker._base.record import Record, field

T = TypeVar("T")
numbers = itertools.count(1)


class Point(Record, Generic[T]):
    """A record."""

    x: int
    y: T
    name: str = "point"
    number: int = field(default_factory=lambda: next(numbers))

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x must not be negative")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Generic[T]):
    """The dataclass that it is like."""

    x: int
    y: T
    name: str = "point"
    number: int = dataclasses.field(default_factory=lambda: next(numbers))


Model.__qualname__ = Model.__name__ = "Point"  # in its texts
Model.__init__.__qualname__ = "Point.__init__"


def point(**given: Any) -> Point[str]:
    return Point(**{"x": 1, "y": "a", "number": 0, **given})


class Deeper(Point[str]):
    """A class that derives from a record's may have attributes beside the fields."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.extra = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wider(Point[str]):
    z: int = 3


def test_it_has_the_fields_of_the_dataclass():
    for made, model in zip(dataclasses.fields(Point), dataclasses.fields(Model), strict=True):
        for what in ("name", "type", "default", "kw_only", "init", "repr", "compare"):
            assert getattr(made, what) == getattr(model, what)
    assert dataclasses.is_dataclass(Point)
    assert dataclasses.is_dataclass(point())
    assert repr(Point.__dataclass_params__) == repr(Model.__dataclass_params__)
    assert (Point.name, hasattr(Point, "number"), Point.__match_args__) == (
        "point",
        False,
        Model.__match_args__,
    )


def test_it_has_the_signature_of_the_dataclass():
    assert str(inspect.signature(Point)) == str(inspect.signature(Model))
    assert str(inspect.signature(Deeper)) == "(**given: 'Any') -> 'None'"
    assert "z" in inspect.signature(Wider).parameters


def test_its_help_has_the_docstrings_of_its_fields():
    class Explained(Record):
        """A record.

        Of no use."""

        x: int
        """How far right.

        In metres."""
        y: int = 0
        z: int = 0
        """How high."""

    whole = "A record.\n\nOf no use.\n\n- `x`: How far right.\n\n  In metres.\n\n- `z`: How high."
    assert inspect.getdoc(Explained) == inspect.getdoc(Explained(x=1)) == whole
    assert whole.splitlines()[-1] in pydoc.render_doc(Explained)
    assert "\n- `grace`: Seconds until a child process is killed" in str(Processes.__doc__)


def test_its_help_is_its_own_docstring_where_there_is_no_source(monkeypatch):
    space: dict[str, Any] = {"Record": Record, "__name__": "nowhere"}
    exec("class Made(Record):\n    'A record.'\n    x: int\n    'How far right.'\n", space)
    assert space["Made"].__doc__ == "A record."
    monkeypatch.setattr(inspect, "getsource", lambda _: "class Made:\n  x: (")
    exec("class Made(Record):\n    'A record.'\n    x: int\n    'How far right.'\n", space)
    assert space["Made"].__doc__ == "A record."


def test_it_is_shown_and_compared_as_the_dataclass_is():
    assert repr(point()) == repr(Model(x=1, y="a", number=0))
    assert point() == point()
    assert hash(point()) == hash(point()) == hash(Model(x=1, y="a", number=0))
    assert point() != point(x=2)
    assert point() != Model(x=1, y="a", number=0)
    assert point() != Deeper(x=1, y="a", number=0)
    with pytest.raises(TypeError, match="unhashable"):
        hash(point(y=[]))


def test_one_that_contains_itself_can_be_shown():
    inside: list[object] = []
    whole = point(y=inside)
    inside.append(whole)
    assert repr(whole) == "Point(x=1, y=[...], name='point', number=0)"


def test_defaults_are_made_anew_for_each():
    first, second = Point(x=1, y=None), Point(x=1, y=None)
    assert first.number < second.number


@pytest.mark.parametrize(
    "arguments", [((), {}), ((), {"x": 1}), ((1,), {}), ((), {"x": 1, "y": 2, "z": 3})]
)
def test_wrong_arguments_are_refused_as_the_dataclass_refuses_them(arguments):
    positional, named = arguments
    with pytest.raises(TypeError) as expected:
        Model(*positional, **named)
    with pytest.raises(TypeError) as raised:
        Point(*positional, **named)
    assert str(raised.value) == str(expected.value)


def test_it_is_frozen():
    for change in (
        lambda: setattr(point(), "x", 2),
        lambda: delattr(point(), "x"),
        lambda: setattr(point(), "z", 2),
    ):
        with pytest.raises(
            dataclasses.FrozenInstanceError, match=r"cannot (assign to|delete) field '[xz]'"
        ):
            change()


def test_it_is_checked_however_it_is_made():
    for make in (lambda: point(x=-1), lambda: dataclasses.replace(point(), x=-1)):
        with pytest.raises(ValueError, match="negative"):
            make()


def test_variants_and_copies():
    assert dataclasses.replace(point(), x=2) == point().__replace__(x=2) == point(x=2)
    assert dataclasses.asdict(point()) == {"x": 1, "y": "a", "name": "point", "number": 0}
    assert dataclasses.astuple(point()) == (1, "a", "point", 0)
    for made in (point(), Deeper(x=1, y="a"), Wider(x=1, y="a", z=4)):
        for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert again == made
            assert vars(again) == vars(made)
    if sys.version_info >= (3, 13):
        assert copy.replace(point(), x=2) == point(x=2)


def test_classes_that_derive_from_it():
    deeper = Deeper(x=1, y="a")
    assert (deeper.extra, deeper.x) == (1, 1)
    deeper.extra = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        deeper.x = 2  # type: ignore[misc]
    assert Wider(x=1, y="a").z == 3
    assert [each.name for each in dataclasses.fields(Wider)] == ["x", "y", "name", "number", "z"]
