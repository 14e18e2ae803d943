"""The calling rule: the context comes first where the first parameter says so and there is room for it."""

import collections
import dataclasses
import functools
import gc
import inspect
import operator
import os
import random
import sqlite3
import sys
import threading
import weakref
from types import SimpleNamespace
from typing import Any, NamedTuple, Optional, Protocol
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec, patch

import pytest

from tasker import Context
from tasker._base.callables import check_callable
from tasker._sync.guarded_logger import _takes_exc_info
from tasker._tasks import signature
from tasker._tasks.hooks import takes_resource
from tasker._tasks.signature import wants_context


class Browser: ...


class Cancellable(Protocol):
    def cancelled(self) -> bool: ...


Ended = Context


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


def fixed(fn):
    """A decorator whose wrapper takes what it says, whatever it wraps."""

    @functools.wraps(fn)
    def wrapper(resource):
        return fn(None, resource)

    return wrapper


def abortable(fn):
    """A decorator whose wrapper uses the context itself."""

    @functools.wraps(fn)
    def task(ctx, conn, *args):
        return fn(conn, *args)

    return task


def named_resource(fn):
    """A decorator whose wrapper says that it does not want a context: it has one to hand on."""

    @functools.wraps(fn)
    def task(conn, *args):
        return fn(None, conn, *args)

    return task


class Decorator:
    def __init__(self, fn):
        functools.update_wrapper(self, fn)

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)


def resource_only(resource): ...
def with_context(ctx, resource): ...
def resource_and_two(resource, a, b): ...
def context_and_two(ctx, resource, a, b): ...
def optional(resource, a=1, b=2): ...
def all_optional(a=1, b=2, c=3): ...
def context_and_optional(ctx, resource, a=1): ...
def varargs(*args): ...
def one_and_varargs(resource, *args): ...
def two_and_varargs(a, b, *args): ...
def context_and_varargs(ctx, resource, *args): ...
def varargs_called_ctx(*ctx): ...
def context_alone(ctx): ...
def context_or_not(ctx, resource=None): ...
def context_in_full(context, resource): ...
def context_unused(_ctx, resource): ...
def context_unused_in_full(_context, resource): ...
def context_second(resource, ctx): ...
def context_upper(Ctx, resource): ...
def annotated(c: Context, resource): ...
def annotated_default(c: Context, resource=None): ...
def annotated_in_words(c: "Context", resource): ...
def annotated_in_words_with_module(c: "tasker.Context", resource): ...  # noqa: F821
def annotated_by_another_name(c: "Ended", resource): ...
def annotated_as_another(context: Browser, url="about:blank"): ...
def annotated_as_another_in_words(context: "Browser", url="about:blank"): ...
def annotated_with_a_protocol(ctx: Cancellable, resource): ...
def annotated_with_anything(ctx: object, resource): ...
def annotated_with_what_is_not_there(ctx: "Nowhere", resource): ...  # noqa: F821
def other_context_in_words(c: "decimal.Context", resource, n=1): ...  # noqa: F821
def positional_only(resource, /): ...
def positional_only_context(ctx, resource, /): ...
def keyword_default(resource, *, verbose=False): ...
def keyword_default_context(ctx, resource, *, verbose=False): ...
def keyword_required(resource, *, verbose): ...
def keyword_required_context(ctx, resource, *, verbose): ...
def keywords_only(*, resource): ...
def keywords_two(resource, *, a, b, c=3): ...
def takes_nothing(): ...
def takes_two(a, b): ...
def takes_three(a, b, c): ...
def takes_context_and_two(ctx, a, b): ...
def anything(*args, **kwargs): ...
def context_and_varargs_and_more(ctx, *args, **kwargs): ...
def positional_only_and_more(resource, /, **kwargs): ...
def generator(resource):
    yield resource


def generator_with_context(ctx, resource):
    yield resource


def generator_varargs(*args):
    yield args


async def coroutine(resource): ...
async def coroutine_with_context(ctx, resource): ...
async def coroutine_varargs(*args): ...
async def asynchronous_generator(resource):
    yield resource


class Methods:
    def bound(self, resource): ...
    def bound_context(self, ctx, resource): ...
    def bound_varargs(self, *args): ...
    def bound_optional(self, resource, a=1): ...
    def bound_keyword(self, resource, *, key): ...
    def bound_three(self, a, b, c): ...
    def no_self(): ...
    @classmethod
    def of_class(cls, resource): ...
    @classmethod
    def of_class_context(cls, ctx, resource): ...
    @staticmethod
    def static(resource): ...
    @staticmethod
    def static_context(ctx, resource): ...
    @decorated
    def wrapped(self, resource): ...
    @decorated
    def wrapped_context(self, ctx, resource): ...
    def generator(self, resource):
        yield resource

    async def coroutine(self, resource): ...
    async def asynchronous_generator(self, resource):
        yield resource


class Takes:
    """A class is called for an instance of it."""

    def __init__(self, resource): ...


class TakesContext:
    def __init__(self, ctx, resource): ...


class TakesNothing:
    pass


class Calls:
    def __call__(self, resource): ...


class CallsContext:
    def __call__(self, ctx, resource): ...


class CallsThree:
    def __call__(self, a, b, c): ...


class CallsCoroutine:
    async def __call__(self, resource): ...


class CallsGenerator:
    def __init__(self, resource=None): ...
    def __call__(self, resource):
        yield resource


class CallsAsynchronousGenerator:
    async def __call__(self, resource):
        yield resource


class Unreadable:
    """A callable that has no signature to read."""

    __signature__ = "none"

    def __call__(self, *args): ...


RESOURCE, CONTEXT, NEITHER = "resource", "context", "cannot be called"
COROUTINE, GENERATOR, ASYNC_GENERATOR = (
    "coroutine function",
    "generator function",
    "asynchronous generator function",
)
methods = Methods()
partial_with_attribute = functools.partial(resource_and_two, a=1)
partial_with_attribute.note = "which keeps it from being flattened"

CASES = [  # the callable, how many arguments it is given (the resource included), what is right
    ("function", resource_only, 1, RESOURCE),
    ("context", with_context, 1, CONTEXT),
    ("context, in its place the resource", with_context, 2, RESOURCE),
    ("context, misses the resource", context_and_two, 2, NEITHER),
    ("context in full", context_in_full, 1, CONTEXT),
    ("context that is not used", context_unused, 1, CONTEXT),
    ("context in full that is not used", context_unused_in_full, 1, CONTEXT),
    ("context alone, which is the resource", context_alone, 1, RESOURCE),
    ("context, and perhaps the resource", context_or_not, 1, CONTEXT),
    ("context second", context_second, 2, RESOURCE),
    ("context second, and one too few", context_second, 1, NEITHER),
    ("another name", context_upper, 1, NEITHER),
    ("annotated", annotated, 1, CONTEXT),
    ("annotated, perhaps the resource", annotated_default, 1, CONTEXT),
    ("annotated in words", annotated_in_words, 1, CONTEXT),
    ("annotated in words, with the module", annotated_in_words_with_module, 1, CONTEXT),
    ("annotated by another name of it", annotated_by_another_name, 1, CONTEXT),
    ("named context, and it is the resource", annotated_as_another, 1, RESOURCE),
    ("named context, and it is the resource, in words", annotated_as_another_in_words, 1, RESOURCE),
    ("named ctx, annotated with a protocol", annotated_with_a_protocol, 1, CONTEXT),
    ("named ctx, annotated with object", annotated_with_anything, 1, CONTEXT),
    ("named ctx, annotated with what is not there", annotated_with_what_is_not_there, 1, CONTEXT),
    ("another context in words", other_context_in_words, 2, RESOURCE),
    ("function of two, given one", takes_two, 1, NEITHER),
    ("function of two, given two", takes_two, 2, RESOURCE),
    ("function with arguments", resource_and_two, 3, RESOURCE),
    ("function with arguments and context", context_and_two, 3, CONTEXT),
    ("too few arguments", resource_and_two, 1, NEITHER),
    ("too many arguments", resource_only, 2, NEITHER),
    ("too many arguments for both", with_context, 3, NEITHER),
    ("function of nothing", takes_nothing, 1, NEITHER),
    ("function of three", takes_three, 1, NEITHER),
    ("defaults unused", optional, 1, RESOURCE),
    ("one default used", optional, 2, RESOURCE),
    ("all defaults used", optional, 3, RESOURCE),
    ("defaults exceeded", optional, 4, NEITHER),
    ("nothing but defaults", all_optional, 1, RESOURCE),
    ("context and default, unused", context_and_optional, 1, CONTEXT),
    ("context and default, used", context_and_optional, 2, CONTEXT),
    ("no room for a context", context_and_optional, 3, RESOURCE),
    ("lambda", lambda r: r, 1, RESOURCE),
    ("lambda with context", lambda ctx, r: r, 1, CONTEXT),
    ("lambda with a bound default", lambda r, i=1: r, 1, RESOURCE),
    ("lambda of nothing", lambda: 0, 1, NEITHER),
    ("varargs", varargs, 1, RESOURCE),
    ("varargs, given many", varargs, 9, RESOURCE),
    ("one and varargs", one_and_varargs, 1, RESOURCE),
    ("two and varargs", two_and_varargs, 1, NEITHER),
    ("context and varargs", context_and_varargs, 1, CONTEXT),
    ("context and varargs, given two", context_and_varargs, 2, CONTEXT),
    ("context and varargs, given many", context_and_varargs, 9, CONTEXT),
    ("varargs called ctx", varargs_called_ctx, 1, RESOURCE),
    ("two and varargs, given two", two_and_varargs, 2, RESOURCE),
    ("anything", anything, 1, RESOURCE),
    ("positional only", positional_only, 1, RESOURCE),
    ("positional only with context", positional_only_context, 1, CONTEXT),
    ("keyword with default", keyword_default, 1, RESOURCE),
    ("keyword with default, context", keyword_default_context, 1, CONTEXT),
    ("keyword required", keyword_required, 1, NEITHER),
    ("keyword required, context", keyword_required_context, 1, NEITHER),
    ("keywords only", keywords_only, 1, NEITHER),
    ("keyword with default, given two", keyword_default, 2, NEITHER),
    ("keyword with default, context in the resource's place", keyword_default_context, 2, RESOURCE),
    ("keyword by partial, of two", functools.partial(keywords_two, a=1), 1, NEITHER),
    ("keywords by partial", functools.partial(keywords_two, a=1, b=2), 1, RESOURCE),
    (
        "keyword by partial, context",
        functools.partial(keyword_required_context, verbose=1),
        1,
        CONTEXT,
    ),
    ("generator", generator, 1, GENERATOR),
    ("bound method", methods.bound, 1, RESOURCE),
    ("bound method with context", methods.bound_context, 1, CONTEXT),
    ("bound method, given two", methods.bound_context, 2, RESOURCE),
    ("bound method with varargs", methods.bound_varargs, 1, RESOURCE),
    ("bound method with default", methods.bound_optional, 1, RESOURCE),
    ("bound method with keyword", methods.bound_keyword, 1, NEITHER),
    ("bound method of three", methods.bound_three, 1, NEITHER),
    ("method without self", methods.no_self, 1, NEITHER),
    ("function of a class", Methods.bound, 1, NEITHER),  # which is what it takes for self
    ("class method", methods.of_class, 1, RESOURCE),
    ("class method with context", Methods.of_class_context, 1, CONTEXT),
    ("static method", methods.static, 1, RESOURCE),
    ("static method with context", methods.static_context, 1, CONTEXT),
    ("method with context, in its place the resource", methods.bound_context, 2, RESOURCE),
    ("partial", functools.partial(resource_and_two, b=2), 2, RESOURCE),
    ("partial of the first", functools.partial(with_context, None), 1, RESOURCE),
    ("partial with context", functools.partial(context_and_two, b=2), 2, CONTEXT),
    ("partial by keyword", functools.partial(keyword_required, verbose=True), 1, RESOURCE),
    ("partial of too many", functools.partial(resource_only, 1), 1, NEITHER),
    ("partial of the context by name", functools.partial(with_context, ctx=None), 1, NEITHER),
    (
        "partial of the resource by name",
        functools.partial(resource_and_two, resource=1),
        3,
        NEITHER,
    ),
    ("partial that leaves a gap", functools.partial(resource_and_two, a=1), 1, NEITHER),
    ("partial that leaves none", functools.partial(resource_and_two, a=1, b=2), 1, RESOURCE),
    ("partial with a name too many", functools.partial(resource_and_two, a=1), 2, NEITHER),
    ("partial with context, by name", functools.partial(context_and_two, a=1, b=2), 1, CONTEXT),
    ("partial of varargs", functools.partial(anything, key=1), 1, RESOURCE),
    (
        "partial of context and varargs",
        functools.partial(context_and_varargs_and_more, key=1),
        1,
        CONTEXT,
    ),
    ("partial of a partial", functools.partial(partial_with_attribute, b=2), 1, RESOURCE),
    (
        "partial of positional only",
        functools.partial(positional_only_and_more, resource=1),
        1,
        RESOURCE,
    ),
    (
        "partial of a decorated one",
        functools.partial(decorated(context_and_two), None),
        2,
        RESOURCE,
    ),
    (
        "partial of a decorated one with context",
        functools.partial(decorated(context_and_two), b=2),
        2,
        CONTEXT,
    ),
    ("partial of a builtin", functools.partial(operator.contains, ()), 1, RESOURCE),
    ("partial of a builtin, too many", functools.partial(operator.contains, ()), 2, NEITHER),
    ("partial of a builtin, filled up", functools.partial(operator.contains, (), 1), 2, NEITHER),
    ("partial of a builtin, too few", functools.partial(operator.contains), 1, NEITHER),
    ("partial of a class", functools.partial(TakesContext), 1, CONTEXT),
    ("partial of an object", functools.partial(CallsContext()), 1, CONTEXT),
    (
        "partial that looks like another",
        functools.update_wrapper(functools.partial(varargs, 1), with_context),
        1,
        CONTEXT,
    ),
    ("partial of a method", functools.partial(methods.bound_context), 1, CONTEXT),
    ("class", Takes, 1, RESOURCE),
    ("class with context", TakesContext, 1, CONTEXT),
    ("class of nothing", TakesNothing, 1, NEITHER),
    ("object", Calls(), 1, RESOURCE),
    ("object with context", CallsContext(), 1, CONTEXT),
    ("object of three", CallsThree(), 1, NEITHER),
    ("its __call__", CallsContext().__call__, 1, CONTEXT),
    ("decorated", decorated(resource_only), 1, RESOURCE),
    ("decorated with context", decorated(with_context), 1, CONTEXT),
    ("decorated twice", decorated(decorated(with_context)), 1, CONTEXT),
    ("decorated with what seems too many", decorated(takes_three), 1, RESOURCE),
    ("patched", patch(f"{__name__}.RESOURCE")(takes_two), 1, RESOURCE),
    ("patched with context", patch(f"{__name__}.RESOURCE")(takes_context_and_two), 1, CONTEXT),
    ("decorator that asks itself", abortable(resource_only), 1, CONTEXT),
    ("decorator that asks itself, with arguments", abortable(resource_and_two), 3, CONTEXT),
    ("decorator that names the resource", named_resource(with_context), 1, RESOURCE),
    ("object that decorates", Decorator(with_context), 1, CONTEXT),
    ("object that decorates what does not ask", Decorator(resource_only), 1, RESOURCE),
    (
        "partial of an object that decorates",
        functools.partial(Decorator(context_and_two), b=2),
        2,
        CONTEXT,
    ),
    ("decorated method", methods.wrapped, 1, RESOURCE),
    ("decorated method with context", methods.wrapped_context, 1, CONTEXT),
    ("decorated by what takes the resource alone", fixed(with_context), 1, RESOURCE),
    ("cached", functools.lru_cache(with_context), 1, CONTEXT),
    ("single dispatch", functools.singledispatch(with_context), 1, CONTEXT),
    ("builtin", len, 1, RESOURCE),
    ("builtin of two", operator.contains, 1, NEITHER),
    ("builtin without signature", max, 1, RESOURCE),
    ("type without signature", type, 1, RESOURCE),
    ("method of a type", str.upper, 1, RESOURCE),
    ("method of a builtin type, with too many", str.upper, 2, NEITHER),
    ("special method of a type", int.__add__, 2, RESOURCE),
    ("class method of a builtin type", dict.fromkeys, 1, RESOURCE),
    ("method of a heap type", sqlite3.Connection.commit, 1, RESOURCE),
    ("method of a builtin object", [].append, 1, RESOURCE),
    ("attrgetter", operator.attrgetter("name"), 1, RESOURCE),
    ("object without signature", Unreadable(), 1, RESOURCE),
    ("Mock", Mock(), 1, RESOURCE),
    ("MagicMock", MagicMock(), 2, RESOURCE),
    (
        "Mock with a spec",
        Mock(spec=with_context),
        1,
        RESOURCE,
    ),  # which says nothing that can be read
    ("autospec", create_autospec(resource_only), 1, RESOURCE),
    ("autospec with context", create_autospec(with_context), 1, CONTEXT),
    ("coroutine function", coroutine, 1, COROUTINE),
    ("coroutine function with context", coroutine_with_context, 1, COROUTINE),
    ("coroutine function with varargs", coroutine_varargs, 1, COROUTINE),
    ("partial of a coroutine function", functools.partial(coroutine), 1, COROUTINE),
    ("coroutine method", methods.coroutine, 1, COROUTINE),
    ("object with a coroutine call", CallsCoroutine(), 1, COROUTINE),
    ("AsyncMock", AsyncMock(), 1, COROUTINE),
    ("asynchronous generator", asynchronous_generator, 1, ASYNC_GENERATOR),
    ("generator with context", generator_with_context, 1, GENERATOR),
    ("generator, given too much", generator, 3, GENERATOR),
    ("generator by varargs", generator_varargs, 1, GENERATOR),
    (
        "partial of a generator function",
        functools.partial(generator_with_context, None),
        1,
        GENERATOR,
    ),
    (
        "partial of a generator function, by name",
        functools.partial(generator_with_context, ctx=None),
        1,
        GENERATOR,
    ),
    ("generator method", methods.generator, 1, GENERATOR),
    ("object with a generator call", CallsGenerator(), 1, GENERATOR),
    ("class of objects with a generator call", CallsGenerator, 1, RESOURCE),
    ("generator function, made a list by its decorator", decorated(generator), 1, RESOURCE),
    (
        "asynchronous generator, wrapped",
        functools.wraps(asynchronous_generator)(coroutine_varargs),
        1,
        COROUTINE,
    ),
    (
        "partial of an asynchronous generator",
        functools.partial(asynchronous_generator),
        1,
        ASYNC_GENERATOR,
    ),
    ("asynchronous generator method", methods.asynchronous_generator, 1, ASYNC_GENERATOR),
    (
        "object with an asynchronous generator call",
        CallsAsynchronousGenerator(),
        1,
        ASYNC_GENERATOR,
    ),
]


def answer(fn, given):
    try:
        return CONTEXT if wants_context(fn, given) else RESOURCE
    except TypeError as error:
        kinds = (NEITHER, f"is a {COROUTINE}", f"is a {GENERATOR}", f"is an {ASYNC_GENERATOR}")
        said = [kind for kind in kinds if kind in str(error) and repr(fn) in str(error)]
        return said[0].removeprefix("is a ").removeprefix("is an ") if said else repr(error)


def test_the_context_comes_first_where_the_first_parameter_asks_and_there_is_room():
    answers = {(name, given): answer(fn, given) for name, fn, given, _ in CASES}
    assert len(answers) == len(CASES)
    assert answers == {(name, given): right for name, _, given, right in CASES}
    again = {(name, given): answer(fn, given) for name, fn, given, _ in CASES}
    assert again == answers, "what is remembered says something else"


def test_functions_are_answered_as_a_call_of_them_would_end():
    """Called with and without a context: what the rule accepts the call accepts, and what it refuses the call refuses.

    Not the other way round: of two ways the sign says which is right."""
    compared = 0
    for _, fn, given, right in CASES:
        if right in (COROUTINE, GENERATOR, ASYNC_GENERATOR) or not (
            inspect.isfunction(fn) or inspect.ismethod(fn)
        ):
            continue
        if hasattr(fn, "__wrapped__") or isinstance(fn, Mock):
            continue  # what it hands on is not for us to judge
        if right == NEITHER:
            with pytest.raises(TypeError):
                fn(*[None] * given)
        else:
            fn(*[None] * (given + (right == CONTEXT)))
        compared += 1
    assert compared > 50


def test_an_annotation_in_words_means_what_its_module_means_by_them():
    def made(imports, annotation):
        names = {}
        exec(f"{imports}\ndef f(c: {annotation!r}, resource): ...", names)
        return names["f"]

    assert answer(made("from tasker import Context", "Context"), 1) == CONTEXT
    assert answer(made("from tasker import Context as C", "C"), 1) == CONTEXT
    assert answer(made("import tasker", "tasker.Context"), 1) == CONTEXT
    assert answer(made("import tasker as t", "t.Context"), 1) == CONTEXT
    assert answer(made("", "Context"), 1) == CONTEXT  # imported for type checkers alone
    assert answer(made("from decimal import Context", "Context"), 1) == NEITHER
    assert answer(made("import decimal as tasker", "tasker.Context"), 1) == NEITHER
    assert answer(made("import os", "os.nothing"), 1) == NEITHER


def test_a_name_counts_only_where_its_annotation_allows_for_a_context():
    class Named(NamedTuple):
        context: str
        title: str = ""

    @dataclasses.dataclass
    class Report:
        context: dict[str, int]
        title: str = ""

    def made(annotation, words):
        names = {"Context": Context, "Optional": Optional, "Any": Any}
        exec(f"def f(ctx: {repr(annotation) if words else annotation}, resource=None): ...", names)
        return names["f"]

    excluding = ["int", "dict[str, int]", "list[Context]", "type[Context]", "BaseException"]
    allowing = [
        "Context",
        "object",
        "Any",
        "Context | None",
        "Optional[Context]",
        "dict[str, int] | Context",
    ]
    for annotations, right in ((excluding, RESOURCE), (allowing, CONTEXT)):
        assert [
            answer(made(each, words), 1) for each in annotations for words in (False, True)
        ] == [right] * (2 * len(annotations))
    assert answer(Named, 1) == answer(Report, 1) == RESOURCE


def test_annotations_that_cannot_be_evaluated_are_not():
    names = {}
    future = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    source = "def f(c: Context, r: No): ...\ndef g(c: No, r: Context, n=1): ...\ndef h(ctx: No.way, r): ..."
    exec(f"{future}{source}\n", names)
    assert answer(names["f"], 1) == CONTEXT
    assert answer(names["g"], 2) == RESOURCE
    assert answer(names["h"], 1) == CONTEXT


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="annotations are evaluated when the function is made"
)
def test_where_annotations_raise_even_as_words_the_name_counts():
    names = {}
    exec(
        "def f(ctx: int, r: 'Connection' | None): ...\ndef g(c: int, r: 'Connection' | None): ...",
        names,
    )
    assert answer(names["f"], 1) == CONTEXT
    assert answer(names["g"], 1) == NEITHER


EVALUATING = """
import functools

evaluated = []

def annotation():
    evaluated.append(True)

def plain(a: annotation(), b: NoName): ...
def asking(ctx: Context, resource: annotation()) -> NoName: ...
def with_default(a: annotation(), *, named: NoName = 1): ...
def three(a: annotation(), b: NoName, c): ...
def required(a: NoName, *, named: annotation()): ...

class Callable:
    def __call__(self, a: annotation()) -> NoName: ...
    def method(self, context: NoName, a: annotation()): ...

class Made:
    def __init__(self, a: annotation(), b: NoName = 1): ...

@functools.wraps(plain)
def wrapper(*args): ...

def logged(msg, *args: annotation(), exc_info: NoName = None): ...
"""


def evaluating():
    names = {}
    exec(compile(EVALUATING, "evaluating", "exec", dont_inherit=True), names)
    return SimpleNamespace(**names)


defers_annotations = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="annotations are evaluated at once"
)


@defers_annotations
def test_no_annotation_is_evaluated_to_find_out_how_a_task_is_to_be_called():
    f = evaluating()
    tasks = [
        f.plain,
        f.asking,
        f.with_default,
        f.Callable(),
        f.Callable().method,
        f.Made,
        f.wrapper,
    ]
    tasks += [functools.partial(f.three, 1), functools.partial(f.with_default, named=2)]
    assert [answer(task, 1) for task in tasks] == [
        NEITHER,
        CONTEXT,
        RESOURCE,
        RESOURCE,
        CONTEXT,
        RESOURCE,
        RESOURCE,
        NEITHER,
        RESOURCE,
    ]
    for task in (f.three, f.required):
        with pytest.raises(TypeError):
            wants_context(task, 2)
    assert f.evaluated == []


@defers_annotations
def test_no_annotation_is_evaluated_to_find_out_whether_a_hook_can_be_called():
    f = evaluating()
    for hook, arguments in [
        (f.with_default, 1),
        (f.plain, 2),
        (f.Callable(), 1),
        (functools.partial(f.three, 1), 2),
    ]:
        check_callable("hook", hook, arguments, thorough=True)
        with pytest.raises(TypeError, match="hook must be a function that can be called with"):
            check_callable("hook", hook, arguments + 2, thorough=True)
    assert [takes_resource(check) for check in (f.plain, f.with_default, f.wrapper)] == [
        True,
        False,
        True,
    ]
    assert _takes_exc_info(f.logged)
    assert f.evaluated == []


def test_what_is_missing_is_named_and_how_to_ask_for_a_context():
    hint = "If 'a' is to be a context, name it ctx or context, or annotate it tasker.Context"
    for fn, given, why in [
        (takes_two, 1, f"with the resource and 0 more arguments: 'b' is missing. {hint}"),
        (
            takes_three,
            1,
            f"with the resource and 0 more arguments: 'b' and 'c' are missing. {hint}",
        ),
        (takes_three, 2, f"with the resource and 1 more argument: 'c' is missing. {hint}"),
        (context_and_two, 2, "with a context, the resource and 1 more argument: 'b' is missing"),
        (
            keyword_required,
            1,
            "with the resource and 0 more arguments: 'verbose' is missing. If 'resource' is",
        ),
        (
            functools.partial(resource_and_two, a=1),
            1,
            "with the resource and 0 more arguments: 'b' is missing. If",
        ),
        (resource_only, 3, "with the resource and 2 more arguments: it takes 1 at most"),
        (takes_nothing, 1, "with the resource and 0 more arguments: it takes none at most"),
        (operator.contains, 1, f"with the resource and 0 more arguments: 'b' is missing. {hint}"),
    ]:
        with pytest.raises(TypeError) as caught:
            wants_context(fn, given)
        assert str(caught.value).startswith(f"task {fn!r} cannot be called {why}")


def test_what_cannot_be_called_is_no_task():
    for thing in (None, 1, "resource_only", [], threading, object()):
        with pytest.raises(TypeError, match="must be callable"):
            wants_context(thing, 1)


def test_a_refused_coroutine_function_comes_with_a_hint():
    for fn in (coroutine, methods.coroutine, CallsCoroutine(), AsyncMock()):
        with pytest.raises(TypeError, match=r"asyncio\.run.*queue_task_async"):
            wants_context(fn, 1)


def test_a_refused_generator_function_comes_with_a_hint():
    for fn in (generator, methods.generator, CallsGenerator(), functools.partial(generator)):
        with pytest.raises(
            TypeError, match=r"its body would run later.* return a list, or give manager\.map"
        ):
            wants_context(fn, 1)
    with pytest.raises(
        TypeError, match=r"return a list, made in asyncio\.run, or give manager\.amap"
    ):
        wants_context(asynchronous_generator, 1)


def test_what_is_changed_is_judged_anew():
    def f(resource, a): ...
    def g(ctx, a): ...

    class Changing:
        def __call__(self, resource): ...

    class Made:
        def __init__(self, resource): ...

    assert answer(f, 1) == answer(functools.partial(f), 1) == NEITHER
    f.__defaults__ = (1,)
    assert answer(f, 1) == answer(functools.partial(f), 1) == RESOURCE
    f.__defaults__ = None
    f.__code__ = g.__code__
    assert answer(f, 1) == answer(functools.partial(f), 1) == CONTEXT
    f.__annotations__ = {"ctx": int}
    assert answer(f, 1) == NEITHER
    wrapper = decorated(resource_only)
    assert answer(wrapper, 1) == RESOURCE
    wrapper.__wrapped__ = with_context
    assert answer(wrapper, 1) == CONTEXT
    wrapper.__signature__ = inspect.signature(resource_and_two)
    assert answer(wrapper, 1) == RESOURCE
    assert [answer(Changing(), 1), answer(Made, 1)] == [RESOURCE, RESOURCE]
    Changing.__call__ = Made.__init__ = lambda self, ctx, resource: None
    assert [answer(Changing(), 1), answer(Made, 1)] == [CONTEXT, CONTEXT]


def test_what_is_remembered_keeps_nothing_alive_and_is_not_kept_itself():
    known = signature._shapes._known
    before = len(known)
    things = [functools.lru_cache(fn) for fn in (resource_only, with_context, varargs)]
    for _ in range(3):
        for thing in things:
            wants_context(thing, 1)
    assert len(known) == before + 3
    references = [weakref.ref(thing) for thing in things]
    del things, thing
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert len(known) == before


def test_signatures_are_read_once(monkeypatch):
    read = []
    real = inspect.signature
    monkeypatch.setattr(
        inspect, "signature", lambda *args, **options: read.append(args) or real(*args, **options)
    )
    objects = [
        Calls(),
        functools.lru_cache(resource_only),
        Mock(),
        Methods().bound,
        Takes,
        decorated(resource_only),
    ]
    objects += [functools.partial(optional, b=3), functools.partial(methods.bound_optional, a=1)]
    for fn in (*objects, operator.truth, str.swapcase, [].append, operator.attrgetter("name")):
        for _ in range(20):
            assert wants_context(fn, 1) is False
    assert len(read) <= 4


def test_what_is_asked_is_not_compared_and_not_hashed():
    class Kind(type):
        def __eq__(cls, other):
            raise AssertionError

        def __hash__(cls):
            raise AssertionError

    class Touchy(metaclass=Kind):
        def __eq__(self, other):
            raise AssertionError

        def __hash__(self):
            raise AssertionError

        def __call__(self, *args): ...

    for fn in (Touchy(), Touchy().__call__, functools.partial(Touchy(), Touchy())):
        for _ in range(2):
            assert wants_context(fn, 1) is False


def random_callable(rng):
    """Any function, bound, filled in, or in another form; in words; and whether its first parameter asks."""
    first = rng.choice(["ctx", "context", "_ctx", "resource", "a"])
    names = [first, "b", "c", "d"][: rng.randrange(5)]
    defaults = rng.randrange(len(names) + 1)
    parameters = [f"{name}=0" if place >= defaults else name for place, name in enumerate(names)]
    if parameters and rng.random() < 0.2:
        parameters.insert(rng.randrange(1, len(parameters) + 1), "/")
    star = rng.random()
    if star < 0.2:
        parameters.append("*args")
    elif star < 0.4:
        parameters.append("*")
    if star < 0.4:
        parameters += rng.sample(["k", "l=0"], rng.randrange(1, 3))
    if rng.random() < 0.2:
        parameters.append("**kw")
    form = rng.choice(
        [
            "function",
            "method",
            "class",
            "made by __new__",
            "object",
            "class method",
            "static method",
        ]
    )
    before = "" if form in ("function", "static method") else "this, " if parameters else "this"
    before += (
        "/, " if before and "/" not in parameters and parameters and rng.random() < 0.1 else ""
    )
    line = f"def f({before}{', '.join(parameters)}): ..."
    spaces = {}
    exec(line, spaces)
    f = spaces["f"]
    made = {
        "function": lambda: f,
        "method": lambda: type("T", (), {"f": f})().f,
        "class": lambda: type("T", (), {"__init__": f}),
        "made by __new__": lambda: type("T", (), {"__new__": f}),
        "object": lambda: type("T", (), {"__call__": f})(),
        "class method": lambda: type("T", (), {"f": classmethod(f)}).f,
        "static method": lambda: type("T", (), {"f": staticmethod(f)}).f,
    }[form]()
    text = f"{form}: {line}"
    filled = 0
    for _ in range(rng.randrange(3)):
        args = [None] * rng.choice([0, 0, 1, 2])
        named = dict.fromkeys(rng.sample([*names, "k", "l", "other"], rng.choice([0, 0, 1, 2])), 0)
        made = functools.partial(made, *args, **named)
        filled += len(args)
        text += f", partial of {len(args)} and {list(named)}"
    return made, text, (*names[filled:], "*")[0] in ("ctx", "context", "_ctx")


def works(fn, arguments):
    try:
        fn(*[None] * arguments)
    except TypeError:
        return False
    return True


@pytest.mark.slow
def test_any_callable_is_answered_as_a_call_of_it_would_end():
    seed = int(os.environ.get("TASKER_STRESS_SEED", random.randrange(2**32)))
    rng = random.Random(seed)
    answers = collections.Counter()
    for _ in range(3000):
        fn, text, asks = random_callable(rng)
        for given in (1, 2, 3):
            right = (
                CONTEXT
                if asks and works(fn, given + 1)
                else RESOURCE
                if works(fn, given)
                else NEITHER
            )
            assert answer(fn, given) == right, f"seed {seed}: {text}, given {given}"
            answers[right] += 1
    assert min(answers.values()) > 300, answers
