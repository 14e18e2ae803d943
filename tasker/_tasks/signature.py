"""How a task's function is to be called: with its resource, or with a context before it.

The rule: the context is passed when the function's first parameter *says* that it wants it, and the function can take
one argument more than it is given (the resource included). It says so by its annotation, `Context`, or by its name,
`ctx` or `context`, perhaps with an underscore before it. A name counts for nothing where the annotation is a class that
no context is an instance of. A function that begins with `*args` says nothing, so what it wraps is asked.

How many arguments a function takes is what a call would find out: of a wrapper its own parameters count. What it hands
on to the function that it wraps is its own business; `mock.patch` adds an argument there.

What runs Python code is judged by its code, each time anew, so a change of it counts at once: functions, and methods,
partials, classes and instances by the function that they call. (An engine remembers the last function, for as long as
that has the same code.) What is written in C has its signature read once. That
is remembered as long as the object lives, and found by identity. What can have no weak reference is not read.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    UnionType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any, Union, cast

from tasker._base.callables import (
    CO_VARARGS,
    CO_VARKEYWORDS,
    COROUTINE,
    DEFERRED,
    DEFERS_ANNOTATIONS,
    GENERATOR,
    MARK,
    PLACEHOLDER,
    deferred_kind,
    has_placeholder,
    kind_of_code,
)
from tasker._base.identity import ByIdentity
from tasker._tasks.context import Context
from tasker.errors import shown

if TYPE_CHECKING:
    from inspect import Signature

__all__ = ["TO_ASK", "asking_parameter", "behind", "wants_context"]

_UNLIMITED = sys.maxsize
_CONTEXT_NAMES = frozenset(("ctx", "context", "_ctx", "_context"))
_CONTEXT_ANNOTATIONS = ("Context", "tasker.Context")
TO_ASK = "name it ctx or context, or annotate it tasker.Context"

_NO_NAMES: Mapping[str, Any] = {}
_NOTHING: Any = object()
_TYPE_CALL: Any = type.__dict__["__call__"]
_OBJECT_INIT: Any = object.__dict__["__init__"]

# types by their ids: the hash of one may be the user's
_DESCRIPTORS = frozenset(
    map(id, (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType))
)
_IN_C = _DESCRIPTORS | set(
    map(id, (BuiltinFunctionType, MethodWrapperType, type(functools.lru_cache(len))))
)
_FAKE_GLOBALS, _AS_TEXT = 2, 4  # VALUE_WITH_FAKE_GLOBALS and STRING of annotationlib.Format


# -- the rule ------------------------------------------------------------------------------------------------------


def wants_context(fn: Callable[..., Any], given: int) -> bool:
    """Whether `fn` is to be called with a context before its `given` arguments (the resource included).

    Raises `TypeError` for what cannot be called so, naming what is missing, and for what a call would not run."""
    kind: type[object] = type(fn)  # pyright: ignore[reportUnknownVariableType]
    inner: Any = fn
    filled, named = 0, _NO_NAMES
    if kind is not FunctionType:
        if kind is MethodType:
            inner, filled = inner.__func__, 1
        elif kind is partial and PLACEHOLDER is None:
            inner, filled, named = inner.func, len(inner.args), inner.keywords or _NO_NAMES
        if type(inner) is not FunctionType and id(kind) not in _IN_C:
            inner, filled, named = behind(fn)
        if type(inner) is not FunctionType:
            shape = _shape_of(inner)
            if shape.exact == filled + given and named is _NO_NAMES:
                return False
            if shape is _WRAPPER and kind is not partial and not filled:
                return bool(_asking_name(inner.__wrapped__, 0, given))
            return shape is not _UNREAD and _judge(fn, shape.parameters, filled, named, given)

    code: CodeType = inner.__code__
    flags, most = code.co_flags, code.co_argcount - filled
    if flags & DEFERRED:
        raise _not_run(fn, kind_of_code(code))
    if named is not _NO_NAMES or code.co_kwonlyargcount:
        if _leave_plain(code, inner, filled, named, given):
            return False
        return _judge(fn, _parameters_of(inner, code), filled, named, given)
    if flags & CO_VARARGS:
        asks = _first_asks(inner, code, filled) if most > 0 else bool(_asking_name(fn, 0, given))
        most = _UNLIMITED
    elif most == given:
        return False  # by far the most frequent case
    else:
        asks = most > given and _first_asks(inner, code, filled)
    least = code.co_argcount - len(inner.__defaults__ or ()) - filled
    if least - asks <= given <= most:
        return asks
    return _judge(fn, _parameters_of(inner, code), filled, named, given)  # which says what is wrong


def _leave_plain(
    code: CodeType, function: FunctionType, filled: int, named: Mapping[str, Any], given: int
) -> bool:
    """Whether what these names leave of a function takes so many arguments and no more. `False`: perhaps not."""
    names, count = code.co_varnames, code.co_argcount
    cut, last = count, count + code.co_kwonlyargcount
    for name in named:
        place = names.index(name) if name in names else last
        if place < cut:
            cut = place
        elif place >= last:
            return False
    if cut - filled != given or count - len(function.__defaults__ or ()) > cut:
        return False
    if last - count > len(function.__kwdefaults__ or ()):
        defaults = function.__kwdefaults__ or _NO_NAMES
        if not all(name in named or name in defaults for name in names[count:last]):
            return False
    return not (code.co_flags & CO_VARARGS or code.co_posonlyargcount)


def _judge(
    fn: Any, parameters: _Parameters, filled: int, named: Mapping[str, Any], given: int
) -> bool:
    """The same, for parameters of which so many are filled in by position and these by name."""
    names, required, unnamed, keywords, known, varargs = parameters
    cut = len(names)  # those before the first that is filled in by name can be given by position
    for name in named:
        if name in names and unnamed <= (place := names.index(name)) < cut:
            cut, varargs = place, False
    most = _UNLIMITED if varargs else cut - filled
    asks = most > given and bool(_asking_name(fn, 0, given))
    first_lacking = filled + given + asks
    if first_lacking < required or keywords:
        lacking = [
            *names[first_lacking : min(cut, required)],
            *(
                name
                for name in (*names[max(cut, filled) : required], *keywords)
                if name not in named
            ),
        ]
        if lacking:
            raise _refusal(
                fn, given, asks, _missing(lacking, "" if asks or filled >= cut else names[filled])
            )
    unknown = [name for name in named if known is not None and name not in known]
    if unknown:
        raise _refusal(fn, given, asks, f"it takes no {' and no '.join(map(repr, unknown))}")
    if given > most:
        raise _refusal(fn, given, asks, f"it takes {max(most, 0) or 'none'} at most")
    return asks


def _first_asks(function: FunctionType, code: CodeType, filled: int) -> bool:
    """Whether the first parameter of a function, after so many, says that it is a context."""
    name = code.co_varnames[filled]
    annotate = getattr(function, "__annotate__", None) if DEFERS_ANNOTATIONS else None
    annotation = (
        function.__annotations__.get(name)
        if annotate is None
        else _texts_of(function, annotate).get(name)
    )
    return (
        name in _CONTEXT_NAMES
        if annotation is None
        else _asks(name, annotation, function.__globals__)
    )


def asking_parameter(fn: Callable[..., Any], given: int) -> str:
    """The parameter of `fn`, or of what it wraps, that asks for a context beside `given` arguments; or ""."""
    return _asking_name(fn, 0, given) or ""


def _asking_name(fn: Any, filled: int, given: int) -> str | None:
    """The name of the first parameter of `fn`, after so many that are filled in, if it asks for a context, and there is
    room for that beside `given` arguments; "" if not. `None`: it begins with `*args`, and wraps nothing that is known.
    """
    own: Mapping[str, Any] = _NO_NAMES
    kind: type[object] = type(fn)  # pyright: ignore[reportUnknownVariableType]
    if kind is FunctionType:
        code = fn.__code__
        room = code.co_argcount - filled
        if room > 0:
            has_room = room > given or code.co_flags & CO_VARARGS
            return code.co_varnames[filled] if has_room and _first_asks(fn, code, filled) else ""
        own = fn.__dict__
    elif kind is MethodType:
        return _asking_name(fn.__func__, filled + 1, given)
    elif kind is partial and not has_placeholder(fn):
        asking = _asking_name(fn.func, filled + len(fn.args), given)
        if asking is not None:
            return asking
        own = fn.__dict__
    elif id(kind) not in _IN_C and (called := _called(fn)) is not None:
        asking = _asking_name(called, filled + 1, given)
        if asking is not None or issubclass(kind, type):
            return asking
        own = getattr(fn, "__dict__", _NO_NAMES)
    else:
        shape = _shape_of(fn)
        if filled < len(shape.names):
            return shape.asking_name(filled, given)
        if shape is _WRAPPER:
            own = {"__wrapped__": getattr(fn, "__wrapped__", None)}

    signature, wrapped = own.get("__signature__"), own.get("__wrapped__")
    if signature is not None:
        import inspect

        if isinstance(signature, inspect.Signature):
            shape = _shape_of_signature(signature)
            if filled < len(shape.names):
                return shape.asking_name(filled, given)
    return None if wrapped is None or wrapped is fn else _asking_name(wrapped, filled, given)


def _asks(name: str, annotation: Any, names: Mapping[str, Any]) -> bool:
    """Whether a parameter with this name and annotation says that it is a context. `names`: what its module knows."""
    if type(annotation) is str:
        annotation = _meant_by(annotation, names)
    return annotation is Context or (name in _CONTEXT_NAMES and not _excludes_contexts(annotation))


def _excludes_contexts(annotation: Any) -> bool:
    """Whether no context is an instance of it. `False`: perhaps some are."""
    kind = getattr(annotation, "__origin__", annotation)  # the dict of a `dict[str, int]`
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return False
    # which are classes, too; no generator, in whose end an interrupt would be lost
    return not [each for each in (*Context.__mro__, Any, UnionType, Union) if each is kind]


def _texts_of(function: FunctionType, annotate: Any) -> Mapping[str, str]:
    """The annotations of a function as they stand in its source, not evaluated. From Python 3.14 on."""
    code = getattr(annotate, "__code__", None)
    words = _annotations.get(code)
    if words is None:
        library: Any = __import__("annotationlib")
        try:
            found = library.call_annotate_function(_Unevaluated(annotate), _AS_TEXT, owner=function)
            words = cast(Mapping[str, str], found)
        except Exception:  # they are computed in a way of somebody's own
            words = _NO_NAMES
        if code is not None:
            _annotations.put(code, words)
    return words


class _Unevaluated:
    """What computes annotations, for `annotationlib` to put them into words. If it cannot do that itself, its code is
    run apart, where each name is only a word. Before that `annotationlib` calls it as it is, to see how it answers: not
    here."""

    def __init__(self, annotate: Any) -> None:
        self._annotate = annotate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._annotate, name)

    def __call__(self, form: int) -> Any:
        return {} if form == _FAKE_GLOBALS else self._annotate(form)


def _meant_by(words: str, names: Mapping[str, Any]) -> Any:
    """What an annotation means that is not evaluated; `None` if that cannot be said."""
    found = names.get(words, _NOTHING)
    if found is not _NOTHING:
        return found
    if "|" in words:
        return None
    words = words.strip("'\" ").partition("[")[0]
    first, *attributes = words.split(".")
    found = names.get(first, vars(builtins).get(first, _NOTHING))
    for attribute in attributes:
        found = vars(found).get(attribute, _NOTHING) if type(found) is ModuleType else _NOTHING
    if found is _NOTHING:  # imported for type checkers alone, say
        return Context if words in _CONTEXT_ANNOTATIONS else None
    return found


# -- what a call of it runs ----------------------------------------------------------------------------------------


def behind(fn: Any) -> tuple[Any, int, Mapping[str, Any]]:
    """The function that a call of `fn` runs, how many of its parameters are filled in before those that are given, and
    which by name. Not a function where that is written in C."""
    inner: Any = fn
    filled, named = 0, _NO_NAMES
    while True:
        kind: type[object] = type(inner)  # pyright: ignore[reportUnknownVariableType]
        if kind is FunctionType:
            return inner, filled, named
        if kind is MethodType:
            inner, filled = inner.__func__, filled + 1
        elif kind is partial and not has_placeholder(inner):
            filled += len(inner.args)
            if inner.keywords:
                named = inner.keywords if named is _NO_NAMES else {**inner.keywords, **named}
            inner = inner.func
        elif id(kind) not in _IN_C and (called := _called(inner)) is not None:
            own = getattr(inner, "__dict__", _NO_NAMES)
            if ("__code__" in own or MARK in own) and deferred_kind(inner):
                raise _not_run(
                    fn, deferred_kind(inner)
                )  # an instance that passes for a function, as an AsyncMock
            inner, filled = called, filled + 1
        else:
            return inner, filled, named


def _called(fn: Any) -> FunctionType | None:
    """The function that a call of this class or instance runs, if there is one."""
    kind: type[object] = type(fn)  # pyright: ignore[reportUnknownVariableType]
    call = _TYPE_CALL if kind is type else kind.__dict__.get("__call__") or _found(kind, "__call__")
    if call is _TYPE_CALL:  # a class
        call = _found(fn, "__init__")
        if call is _OBJECT_INIT:
            call = getattr(_found(fn, "__new__"), "__func__", None)
    return call if type(call) is FunctionType else None


def _found(kind: type, name: str) -> Any:
    """What a class has under this name, as it stands there."""
    for base in kind.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


# -- parameters ----------------------------------------------------------------------------------------------------


_Parameters = tuple[
    Sequence[str],  # the names of those that can be given by position
    int,  # so many of the first of them have no default
    int,  # so many of the first can be given by position alone
    Sequence[str],  # what must be given by name
    Sequence[str] | None,  # what can be given by name; `None`: anything
    bool,  # whether any number can be given by position
]


class _Shape:
    """The parameters of what is written in C. (Those of a function are read each time.)"""

    def __init__(
        self, parameters: _Parameters, asking: Sequence[bool] = (), exact: int = -1
    ) -> None:
        self.parameters = parameters
        self.names, self.varargs = parameters[0], parameters[5]
        # which of the names ask for a context
        self.asking = asking
        # so many it takes by position and no more, and needs nothing else
        self.exact = exact

    def asking_name(self, filled: int, given: int) -> str:
        """The first that is not filled in, if it asks for a context and there is room for it."""
        has_room = self.varargs or len(self.names) - filled > given
        return self.names[filled] if has_room and self.asking[filled] else ""


_ANY: _Parameters = (), 0, 0, (), None, True
_UNREAD = _Shape(_ANY)  # nothing is known
_WRAPPER = _Shape(_ANY)  # nothing is known but what it wraps


def _parameters_of(function: FunctionType, code: CodeType) -> _Parameters:
    count, unnamed, flags, names = (
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_flags,
        code.co_varnames,
    )
    last, defaults = count + code.co_kwonlyargcount, function.__kwdefaults__ or _NO_NAMES
    required = count - len(function.__defaults__ or ())
    keywords = [name for name in names[count:last] if name not in defaults]
    known = None if flags & CO_VARKEYWORDS else names[unnamed:last]
    return names[:count], required, unnamed, keywords, known, flags & CO_VARARGS != 0


def _shape_of_signature(signature: Signature) -> _Shape:
    from inspect import Parameter

    parameters = signature.parameters.values()
    kinds = [each.kind for each in parameters]
    varargs = Parameter.VAR_POSITIONAL in kinds
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    takes_any = Parameter.VAR_KEYWORD in kinds
    keywords = [
        each.name
        for each in parameters
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    ]
    positional = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return _Shape(
        (
            [each.name for each in positional],
            sum(each.default is each.empty for each in positional),
            sum(each.kind is each.POSITIONAL_ONLY for each in positional),
            keywords,
            None if takes_any else [each.name for each in parameters if each.kind in by_name],
            varargs,
        ),
        asking=[
            _asks(each.name, None if each.annotation is each.empty else each.annotation, _NO_NAMES)
            for each in positional
        ],
        exact=-1 if varargs or keywords else len(positional),
    )


def _shape_of(fn: Any) -> _Shape:
    """Of what is written in C. Raises `TypeError` for what is not callable."""
    kind: type[object] = type(fn)  # pyright: ignore[reportUnknownVariableType]
    if id(kind) in _DESCRIPTORS:
        return _shape_of_method(fn)
    if kind is BuiltinFunctionType and not (
        fn.__self__ is None or isinstance(fn.__self__, ModuleType)
    ):
        return _UNREAD  # a method of a builtin object is another one each time
    shape = _shapes.get(fn)
    if shape is None:
        if callable(fn) and not kind.__weakrefoffset__:
            return _UNREAD  # it could not be remembered
        shape = _read(fn)
        _shapes.put(fn, shape)
    return shape


def _shape_of_method(fn: Any) -> _Shape:
    """Of a method of a builtin type, which can have no weak reference, but its type can."""
    shapes = _methods.get(fn.__objclass__)
    if shapes is None:
        shapes = dict[str, _Shape]()
        _methods.put(fn.__objclass__, shapes)
    shape = shapes.get(fn.__name__)
    if shape is None:
        shape = shapes[fn.__name__] = _read(fn)
    return shape


def _read(fn: Any) -> _Shape:
    if not callable(fn):
        raise TypeError(f"a task must be callable, not {shown(fn)}")
    kind = deferred_kind(fn)
    if kind:
        raise _not_run(fn, kind)

    import inspect

    try:
        wraps = getattr(fn, "__wrapped__", None) is not None
        return _WRAPPER if wraps else _shape_of_signature(inspect.signature(fn))
    except Exception:  # among others what `fn` raises when it is compared
        return _UNREAD


_shapes: ByIdentity[_Shape] = ByIdentity()  # by the object, or by a function's code
_methods: ByIdentity[dict[str, _Shape]] = ByIdentity()  # by their type
_annotations: ByIdentity[Mapping[str, str]] = (
    ByIdentity()
)  # in words, by the code that would compute them


# -- refusals ------------------------------------------------------------------------------------------------------


def _missing(lacking: Sequence[str], first: str) -> str:
    text = f"{' and '.join(map(repr, lacking))} {'is' if len(lacking) == 1 else 'are'} missing"
    return f"{text}. If {first!r} is to be a context, {TO_ASK}" if first else text


def _refusal(fn: Any, given: int, asks: bool, why: str) -> TypeError:
    more = f"{given - 1} more argument{'s' * (given != 2)}"
    return TypeError(
        f"task {shown(fn)} cannot be called with {'a context, ' * asks}the resource and {more}: {why}"
    )


def _not_run(fn: Any, kind: str) -> TypeError:
    if kind == COROUTINE:
        advice = (
            "and workers are threads: pass lambda resource: asyncio.run(fn(resource)), or await "
            "manager.queue_task_async(a_plain_function)"
        )
    else:
        a_list, method = (
            ("a list", "map") if kind == GENERATOR else ("a list, made in asyncio.run", "amap")
        )
        advice = (
            "and its body would run later, where its items are asked for, when the resource is another task's or gone: "
            f"return {a_list}, or give manager.{method} the items and a plain function"
        )
    return TypeError(f"task {shown(fn)} is {kind}, {advice}")
