"""How a task's function is called: with its resource, or with a context before it.

The rule. The context is passed when two things are true: the function's first parameter
asks for it, and the function can take one argument more than it is given (the resource
counts as given). A parameter asks by its annotation, `Context`, or by its name: `ctx`
or `context`, perhaps with an underscore before it. A name does not ask if the
annotation is a class that no context is an instance of. If a function begins with
`*args`, the function that it wraps is asked.

How many arguments a function takes is what a call would find out. For a wrapper its own
parameters count. They need not be those of the function that it wraps: `mock.patch`
adds an argument on the way.

Code that runs in Python is judged by its code object, each time anew, so a change of it
counts at once. This is so for functions, and, by the function that they call, for
methods, partials, classes and instances. (An engine remembers its last function, for as
long as that has the same code.) A callable written in C has its signature read once.
The signature is remembered as long as the object lives, and is found by identity. A
callable that can have no weak reference is not read.

Words. `fn` is what the user gave. `given` counts the arguments that the call will have
without a context. `filled` counts the parameters that are filled in before those, by a
method's instance or a partial. `named` are the ones that a partial fills in by name.
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

# Types are looked up by their ids: the hash of a type may be the user's.
_DESCRIPTORS = frozenset(
    map(id, (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType))
)
_IN_C = _DESCRIPTORS | set(
    map(id, (BuiltinFunctionType, MethodWrapperType, type(functools.lru_cache(len))))
)

# VALUE_WITH_FAKE_GLOBALS and STRING of annotationlib.Format (from Python 3.14 on).
_FAKE_GLOBALS, _AS_TEXT = 2, 4


# -- the rule --------------------------------------------------------------------------


def wants_context(fn: Callable[..., Any], given: int) -> bool:
    """Whether `fn` is to be called with a context before its `given` arguments.

    The resource is one of these. Raises `TypeError` for a callable that cannot be
    called so; the error names what is missing. Raises it also for one whose body a call
    would not run."""
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
        if _takes_exactly(code, inner, filled, named, given):
            return False
        return _judge(fn, _parameters_of(inner, code), filled, named, given)

    if flags & CO_VARARGS:
        asks = _first_asks(inner, code, filled) if most > 0 else bool(_asking_name(fn, 0, given))
        most = _UNLIMITED
    elif most == given:
        # By far the most frequent case.
        return False
    else:
        asks = most > given and _first_asks(inner, code, filled)

    least = code.co_argcount - len(inner.__defaults__ or ()) - filled
    if least - asks <= given <= most:
        return asks

    # It raises, and its error names the fault.
    return _judge(fn, _parameters_of(inner, code), filled, named, given)


def _takes_exactly(
    code: CodeType, function: FunctionType, filled: int, named: Mapping[str, Any], given: int
) -> bool:
    """Whether a function without `named` parameters takes exactly `given` arguments.

    `False`: perhaps not."""
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
    """`wants_context`, for these parameters."""
    names, required, positional_only, keywords, known, varargs = parameters

    # Only parameters before the first that is filled in by name can be given by
    # position.
    cut = len(names)
    for name in named:
        if name in names and positional_only <= (place := names.index(name)) < cut:
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
    """Whether the first parameter that is not filled in asks for a context."""
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
    """The parameter that asks for a context beside `given` arguments; "" if none does.

    It is one of `fn`, or of the function that `fn` wraps."""
    return _asking_name(fn, 0, given) or ""


def _asking_name(fn: Any, filled: int, given: int) -> str | None:
    """The name of the first parameter that is not filled in, if it asks for a context.

    "" if it does not ask, or if there is no room for a context beside `given`
    arguments. `None` if `fn` begins with `*args`, and wraps nothing that is known."""
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
    """Whether a parameter with this name and annotation asks for a context.

    `names` are the globals of its module."""
    if type(annotation) is str:
        annotation = _meant_by(annotation, names)
    return annotation is Context or (name in _CONTEXT_NAMES and not _excludes_contexts(annotation))


def _excludes_contexts(annotation: Any) -> bool:
    """Whether no context is an instance of it. `False`: perhaps some are."""
    # The origin is the `dict` of a `dict[str, int]`.
    kind = getattr(annotation, "__origin__", annotation)
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return False

    # `Any` and unions are classes, too. A list, and no generator: an interrupt would be
    # lost at the end of one.
    return not [each for each in (*Context.__mro__, Any, UnionType, Union) if each is kind]


def _texts_of(function: FunctionType, annotate: Any) -> Mapping[str, str]:
    """The annotations of a function as text, not evaluated. From Python 3.14 on."""
    code = getattr(annotate, "__code__", None)
    texts = _annotations.get(code)
    if texts is None:
        library: Any = __import__("annotationlib")
        try:
            found = library.call_annotate_function(_Unevaluated(annotate), _AS_TEXT, owner=function)
            texts = cast(Mapping[str, str], found)
        except Exception:
            # The user's own code computes them.
            texts = _NO_NAMES
        if code is not None:
            _annotations.put(code, texts)

    return texts


class _Unevaluated:
    """A function that computes annotations, for `annotationlib` to get them as text.

    If the function cannot return text, `annotationlib` runs its code with other
    globals, in which each name is only a text. Before that it calls the function as it
    is, to see how it answers. This wrapper answers that call itself, so nothing is
    evaluated."""

    def __init__(self, annotate: Any) -> None:
        self._annotate = annotate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._annotate, name)

    def __call__(self, form: int) -> Any:
        return {} if form == _FAKE_GLOBALS else self._annotate(form)


def _meant_by(text: str, names: Mapping[str, Any]) -> Any:
    """The object that the text of an annotation means; `None` if it is not known."""
    found = names.get(text, _NOTHING)
    if found is not _NOTHING:
        return found
    if "|" in text:
        return None

    text = text.strip("'\" ").partition("[")[0]
    first, *attributes = text.split(".")
    found = names.get(first, vars(builtins).get(first, _NOTHING))
    for attribute in attributes:
        found = vars(found).get(attribute, _NOTHING) if type(found) is ModuleType else _NOTHING

    if found is _NOTHING:
        # It may be imported for type checkers alone.
        return Context if text in _CONTEXT_ANNOTATIONS else None
    return found


# -- what a call of it runs ------------------------------------------------------------


def behind(fn: Any) -> tuple[Any, int, Mapping[str, Any]]:
    """The function that a call of `fn` runs; `filled`; `named`.

    The first is no function where it is written in C."""
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
            # An instance that passes for a function, as an AsyncMock does.
            if ("__code__" in own or MARK in own) and deferred_kind(inner):
                raise _not_run(fn, deferred_kind(inner))
            inner, filled = called, filled + 1
        else:
            return inner, filled, named


def _called(fn: Any) -> FunctionType | None:
    """The function that a call of this class or instance runs, if there is one."""
    kind: type[object] = type(fn)  # pyright: ignore[reportUnknownVariableType]
    call = _TYPE_CALL if kind is type else kind.__dict__.get("__call__") or _found(kind, "__call__")
    if call is _TYPE_CALL:
        # `fn` is a class.
        call = _found(fn, "__init__")
        if call is _OBJECT_INIT:
            call = getattr(_found(fn, "__new__"), "__func__", None)

    return call if type(call) is FunctionType else None


def _found(kind: type, name: str) -> Any:
    """The attribute of a class as it is stored, without a descriptor's help."""
    for base in kind.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]

    return None


# -- parameters ------------------------------------------------------------------------


# In this order:
# - the names of the parameters that can be given by position;
# - how many of these, from the first on, have no default;
# - how many of these, from the first on, can be given by position alone;
# - the names of the parameters that must be given by name;
# - the names that can be given by name, or `None` if any can;
# - whether any number of arguments can be given by position.
_Parameters = tuple[Sequence[str], int, int, Sequence[str], Sequence[str] | None, bool]


class _Shape:
    """The parameters of a callable written in C. (A function's are read each time.)"""

    def __init__(
        self, parameters: _Parameters, asking: Sequence[bool] = (), exact: int = -1
    ) -> None:
        self.parameters = parameters
        self.names, self.varargs = parameters[0], parameters[5]
        # Whether each of the names asks for a context.
        self.asking = asking
        # It takes so many by position and no more, and needs nothing else; -1 if not
        # so.
        self.exact = exact

    def asking_name(self, filled: int, given: int) -> str:
        """The first that is not filled in, if it asks for a context and there is
        room."""
        has_room = self.varargs or len(self.names) - filled > given
        return self.names[filled] if has_room and self.asking[filled] else ""


_ANY: _Parameters = (), 0, 0, (), None, True

# Nothing is known of the callable.
_UNREAD = _Shape(_ANY)

# Nothing is known of the callable but what it wraps.
_WRAPPER = _Shape(_ANY)


def _parameters_of(function: FunctionType, code: CodeType) -> _Parameters:
    count, positional_only, flags, names = (
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_flags,
        code.co_varnames,
    )
    last, defaults = count + code.co_kwonlyargcount, function.__kwdefaults__ or _NO_NAMES
    required = count - len(function.__defaults__ or ())
    keywords = [name for name in names[count:last] if name not in defaults]
    known = None if flags & CO_VARKEYWORDS else names[positional_only:last]

    return names[:count], required, positional_only, keywords, known, flags & CO_VARARGS != 0


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
    """The shape of a callable written in C. Raises `TypeError` for any other object."""
    kind: type[object] = type(fn)  # pyright: ignore[reportUnknownVariableType]
    if id(kind) in _DESCRIPTORS:
        return _shape_of_method(fn)
    if kind is BuiltinFunctionType and not (
        fn.__self__ is None or isinstance(fn.__self__, ModuleType)
    ):
        # A method of a builtin object is another object each time.
        return _UNREAD

    shape = _shapes.get(fn)
    if shape is None:
        if callable(fn) and not kind.__weakrefoffset__:
            # It could not be remembered.
            return _UNREAD
        shape = _read(fn)
        _shapes.put(fn, shape)
    return shape


def _shape_of_method(fn: Any) -> _Shape:
    """The shape of a method of a builtin type.

    The method can have no weak reference, but its type can."""
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
    except Exception:
        # It may also be one that `fn` raises when it is compared.
        return _UNREAD


_shapes: ByIdentity[_Shape] = ByIdentity()

# Of methods. The key is their type.
_methods: ByIdentity[dict[str, _Shape]] = ByIdentity()

# Annotations as text. The key is the code that would compute them.
_annotations: ByIdentity[Mapping[str, str]] = ByIdentity()


# -- refusals --------------------------------------------------------------------------


def _missing(lacking: Sequence[str], first: str) -> str:
    text = f"{' and '.join(map(repr, lacking))} {'is' if len(lacking) == 1 else 'are'} missing"

    return f"{text}. If {first!r} is to be a context, {TO_ASK}" if first else text


def _refusal(fn: Any, given: int, asks: bool, why: str) -> TypeError:
    more = f"{given - 1} more argument{'s' * (given != 2)}"
    context = "a context, " * asks

    return TypeError(
        f"task {shown(fn)} cannot be called with {context}the resource and {more}: {why}"
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
            "and its body would run later, where its items are asked for, when the resource is "
            f"another task's or gone: return {a_list}, or give manager.{method} the items and a "
            "plain function"
        )

    return TypeError(f"task {shown(fn)} is {kind}, {advice}")
