"""`Record`: an immutable object with named fields, like a frozen dataclass.

Its constructor takes keywords alone.

`dataclasses` would do the same, at a third of the price of importing tasker: it imports
`inspect`, and compiles half a dozen functions for each class. A record compiles
nothing. To a type checker it is a dataclass. To `dataclasses` (`fields`, `replace`,
`asdict`) and `inspect` it is one as well: they look for an attribute of the class, and
what they find is made when they look. So is a docstring that has those of the fields,
for `help()`.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

__all__ = ["Record", "explain_fields", "field"]

T = TypeVar("T")


class _Factory:
    """A default that is made anew for each record."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], Any]) -> Any:
    """A field whose default is made anew for each record."""
    return _Factory(default_factory)


class _Asked:
    """An attribute of the class, which a dataclass with the same fields has.

    It is taken from such a dataclass."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, record: Record | None, kind: type[Record]) -> Any:
        return getattr(_dataclass_like(kind), self._name)


class _Signature:
    """The signature of the constructor, for `inspect` and `help()`."""

    def __get__(self, record: Record | None, kind: type[Record]) -> Any:
        if kind.__init__ is not Record.__init__:
            raise AttributeError(f"{kind.__name__} has a constructor of its own")

        import inspect

        return inspect.signature(_dataclass_like(kind))


class _Doc:
    """The docstring of a class, and those of its fields, which Python keeps nowhere.

    They are read from the source, where that is there."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._whole = ""

    def __get__(self, record: object, kind: type) -> str:
        if not self._whole:
            import inspect

            own = inspect.cleandoc(self._own)
            self._whole = "\n".join([own, *_field_docs(kind)])

        return self._whole


def explain_fields(kind: type[T]) -> type[T]:
    """Let the docstring of a class have those of its fields as well. A decorator."""
    whole: Any = kind.__doc__ and _Doc(kind.__doc__)
    kind.__doc__ = whole

    return kind


def _field_docs(kind: type) -> Iterator[str]:
    """The docstrings of the fields, as a list of Markdown's."""
    import ast
    import inspect
    import textwrap

    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except Exception:
        # There is no source, or it is not that of this class any more.
        return

    body: list[ast.stmt] = getattr(definition, "body", [])
    for node, after in itertools.pairwise(body):
        match node, after:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(doc))):
                text = textwrap.indent(inspect.cleandoc(doc), "  ").lstrip()
                yield f"\n- `{name}`: {text}"
            case _:
                pass


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Record:
    """The base class of records. The annotated attributes of a derived one are its
    fields."""

    _record: ClassVar[type[Record]]
    """The class that has the fields; others may derive from it."""
    _types: ClassVar[dict[str, Any]]
    _defaults: ClassVar[dict[str, Any]]
    _factories: ClassVar[dict[str, Callable[[], Any]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Record not in cls.__bases__:
            return

        cls._record, cls._types = cls, cls.__annotations__
        defaults = {name: vars(cls)[name] for name in cls._types if name in vars(cls)}
        cls._factories = {
            name: value.make for name, value in defaults.items() if type(value) is _Factory
        }
        cls._defaults = {
            name: value for name, value in defaults.items() if name not in cls._factories
        }
        for name in cls._factories:
            delattr(cls, name)

        explain_fields(cls)

    # For a type checker each class has its own.
    if not TYPE_CHECKING:
        __dataclass_fields__ = _Asked()
        __dataclass_params__ = _Asked()
        __signature__ = _Signature()
        __match_args__ = ()

        def __init__(self, /, *wrong: Any, **given: Any) -> None:
            values = {**self._defaults, **given}
            for name, make in self._factories.items():
                if name not in given:
                    values[name] = make()

            if wrong or values.keys() != self._types.keys():
                # It raises the `TypeError` that tells what is wrong.
                _dataclass_like(type(self))(*wrong, **given)

            vars(self).update(values)
            self.__post_init__()

    def __post_init__(self) -> None:
        """Raise if a field has a wrong value."""

    def __repr__(self) -> str:
        return _shown(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or type(other) is not type(self):
            return NotImplemented

        return _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __replace__(self, /, **changes: Any) -> Self:
        """For `copy.replace`, from Python 3.13 on."""
        return type(self)(**{name: getattr(self, name) for name in self._types} | changes)

    def __setattr__(self, name: str, value: object) -> None:
        _check_free(self, name, "assign to")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        _check_free(self, name, "delete")
        super().__delattr__(name)


def _values(record: Record) -> tuple[Any, ...]:
    return tuple([getattr(record, name) for name in record._types])


@recursive_repr()
def _shown(record: Record) -> str:
    fields = ", ".join(f"{name}={getattr(record, name)!r}" for name in record._types)
    return f"{type(record).__qualname__}({fields})"


def _check_free(record: Record, name: str, what: str) -> None:
    """Raise unless the attribute may be changed.

    Only a class that derives from a record's has other attributes than fields."""
    if name in record._types or type(record) is record._record:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


_dataclasses: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()


def _dataclass_like(record: type[Record]) -> Any:
    """A dataclass with the fields of these records, made once."""
    made = _dataclasses.get(record)
    return _dataclasses.setdefault(record, _new_dataclass(record)) if made is None else made


def _new_dataclass(record: type[Record]) -> Any:
    import dataclasses

    fields: list[Any] = []
    for name, kind in record._types.items():
        options: dict[str, Any] = {}
        if name in record._defaults:
            options["default"] = record._defaults[name]
        elif name in record._factories:
            options["default_factory"] = record._factories[name]
        fields.append((name, kind, dataclasses.field(**options)))

    return dataclasses.make_dataclass(record.__name__, fields, frozen=True, kw_only=True)
