"""The calling rule: the context comes first only if the function requires one more argument than it is given."""

from __future__ import annotations

import functools
import inspect
import operator
import threading
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

from tasker.signature import wants_context


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
def positional_only(resource, /): ...
def positional_only_context(ctx, resource, /): ...
def keyword_default(resource, *, verbose=False): ...
def keyword_default_context(ctx, resource, *, verbose=False): ...
def keyword_required(resource, *, verbose): ...
def keyword_required_context(ctx, resource, *, verbose): ...
def keywords_only(*, resource): ...
def takes_nothing(): ...
def takes_three(a, b, c): ...
def anything(*args, **kwargs): ...
def generator(resource):
    yield resource


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


class CallsAsynchronousGenerator:
    async def __call__(self, resource):
        yield resource


class Unreadable:
    """A callable that has no signature to read."""

    __signature__ = "none"

    def __call__(self, *args): ...


RESOURCE, CONTEXT, NEITHER, COROUTINE = "resource", "context", "cannot be called", "coroutine function"
methods = Methods()

CASES = [  # the callable, how many arguments it is given (the resource included), what is right
    ("function", resource_only, 1, RESOURCE),
    ("function of two", with_context, 1, CONTEXT),
    ("function of two, given two", with_context, 2, RESOURCE),
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
    ("context's place taken by an argument", context_and_optional, 2, RESOURCE),
    ("lambda", lambda r: r, 1, RESOURCE),
    ("lambda with context", lambda c, r: r, 1, CONTEXT),
    ("lambda with a bound default", lambda r, i=1: r, 1, RESOURCE),
    ("lambda of nothing", lambda: 0, 1, NEITHER),
    ("varargs", varargs, 1, RESOURCE),
    ("varargs, given many", varargs, 9, RESOURCE),
    ("one and varargs", one_and_varargs, 1, RESOURCE),
    ("two and varargs", two_and_varargs, 1, CONTEXT),
    ("two and varargs, given two", two_and_varargs, 2, RESOURCE),
    ("anything", anything, 1, RESOURCE),
    ("positional only", positional_only, 1, RESOURCE),
    ("positional only with context", positional_only_context, 1, CONTEXT),
    ("keyword with default", keyword_default, 1, RESOURCE),
    ("keyword with default, context", keyword_default_context, 1, CONTEXT),
    ("keyword required", keyword_required, 1, NEITHER),
    ("keyword required, context", keyword_required_context, 1, NEITHER),
    ("keywords only", keywords_only, 1, NEITHER),
    ("generator", generator, 1, RESOURCE),
    ("bound method", methods.bound, 1, RESOURCE),
    ("bound method with context", methods.bound_context, 1, CONTEXT),
    ("bound method, given two", methods.bound_context, 2, RESOURCE),
    ("bound method with varargs", methods.bound_varargs, 1, RESOURCE),
    ("bound method with default", methods.bound_optional, 1, RESOURCE),
    ("bound method with keyword", methods.bound_keyword, 1, NEITHER),
    ("bound method of three", methods.bound_three, 1, NEITHER),
    ("method without self", methods.no_self, 1, NEITHER),
    ("function of a class", Methods.bound, 1, CONTEXT),  # self is what it requires before the resource
    ("class method", methods.of_class, 1, RESOURCE),
    ("class method with context", Methods.of_class_context, 1, CONTEXT),
    ("static method", methods.static, 1, RESOURCE),
    ("static method with context", methods.static_context, 1, CONTEXT),
    ("partial", functools.partial(resource_and_two, b=2), 2, RESOURCE),
    ("partial of the first", functools.partial(with_context, None), 1, RESOURCE),
    ("partial with context", functools.partial(context_and_two, b=2), 2, CONTEXT),
    ("partial by keyword", functools.partial(keyword_required, verbose=True), 1, RESOURCE),
    ("partial of too many", functools.partial(resource_only, 1), 1, NEITHER),
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
    ("decorated with too many", decorated(takes_three), 1, NEITHER),
    ("decorated method", methods.wrapped, 1, RESOURCE),
    ("decorated method with context", methods.wrapped_context, 1, CONTEXT),
    ("decorated by what takes the resource alone", fixed(with_context), 1, RESOURCE),
    ("cached", functools.lru_cache(with_context), 1, CONTEXT),
    ("single dispatch", functools.singledispatch(with_context), 1, CONTEXT),
    ("builtin", len, 1, RESOURCE),
    ("builtin of two", operator.contains, 1, CONTEXT),
    ("builtin without signature", max, 1, RESOURCE),
    ("type without signature", type, 1, RESOURCE),
    ("method of a type", str.upper, 1, RESOURCE),
    ("method of a builtin object", [].append, 1, RESOURCE),
    ("attrgetter", operator.attrgetter("name"), 1, RESOURCE),
    ("object without signature", Unreadable(), 1, RESOURCE),
    ("Mock", Mock(), 1, RESOURCE),
    ("MagicMock", MagicMock(), 2, RESOURCE),
    ("Mock with a spec", Mock(spec=with_context), 1, RESOURCE),  # which says nothing that can be read
    ("autospec", create_autospec(resource_only), 1, RESOURCE),
    ("autospec with context", create_autospec(with_context), 1, CONTEXT),
    ("coroutine function", coroutine, 1, COROUTINE),
    ("coroutine function with context", coroutine_with_context, 1, COROUTINE),
    ("coroutine function with varargs", coroutine_varargs, 1, COROUTINE),
    ("partial of a coroutine function", functools.partial(coroutine), 1, COROUTINE),
    ("coroutine method", methods.coroutine, 1, COROUTINE),
    ("object with a coroutine call", CallsCoroutine(), 1, COROUTINE),
    ("AsyncMock", AsyncMock(), 1, COROUTINE),
    ("asynchronous generator", asynchronous_generator, 1, COROUTINE),
    ("asynchronous generator, wrapped", functools.wraps(asynchronous_generator)(coroutine_varargs), 1, COROUTINE),
    ("partial of an asynchronous generator", functools.partial(asynchronous_generator), 1, COROUTINE),
    ("asynchronous generator method", methods.asynchronous_generator, 1, COROUTINE),
    ("object with an asynchronous generator call", CallsAsynchronousGenerator(), 1, COROUTINE),
]


def answer(fn, given):
    try:
        return CONTEXT if wants_context(fn, given) else RESOURCE
    except TypeError as error:
        said = [kind for kind in (NEITHER, COROUTINE) if kind in str(error) and repr(fn) in str(error)]
        return said[0] if said else repr(error)


def test_the_context_comes_first_only_where_it_is_required():
    answers = {(name, given): answer(fn, given) for name, fn, given, _ in CASES}
    assert len(answers) == len(CASES)
    assert answers == {(name, given): right for name, _, given, right in CASES}


def test_functions_are_answered_as_their_signatures_say():
    """The rule, said by `inspect.signature`: without the context if that binds, else with it if that does."""
    compared = 0
    for name, fn, given, right in CASES:
        if right == COROUTINE or not inspect.isroutine(fn) or inspect.isbuiltin(fn):
            continue
        if name in ("decorated by what takes the resource alone", "method without self", "Mock with a spec"):
            continue  # signature() looks through the wrapper, and raises for the others
        signature = inspect.signature(fn)
        binds = []
        for arguments in ([None] * given, [None] * (given + 1)):
            try:
                signature.bind(*arguments)
                binds.append(True)
            except TypeError:
                binds.append(False)
        assert answer(fn, given) == (RESOURCE if binds[0] else CONTEXT if binds[1] else NEITHER), name
        compared += 1
    assert compared > 40


def test_what_cannot_be_called_is_no_task():
    for thing in (None, 1, "resource_only", [], threading):
        with pytest.raises(TypeError, match="must be callable"):
            wants_context(thing, 1)


def test_a_refused_coroutine_function_comes_with_a_hint():
    for fn in (coroutine, methods.coroutine, CallsCoroutine(), asynchronous_generator):
        with pytest.raises(TypeError, match=r"asyncio\.run.*queue_task_async"):
            wants_context(fn, 1)


def test_the_refusal_counts_what_was_given_beside_the_resource():
    with pytest.raises(TypeError, match="with the resource and 0 more arguments, nor with a context"):
        wants_context(takes_three, 1)
    with pytest.raises(TypeError, match="with the resource and 1 more argument, nor"):
        wants_context(resource_only, 2)
    with pytest.raises(TypeError, match="with the resource and 2 more arguments, nor"):
        wants_context(resource_only, 3)


def test_plain_functions_are_judged_without_reading_their_signature(monkeypatch):
    monkeypatch.setattr(inspect, "signature", None)
    assert wants_context(resource_only, 1) is False
    assert wants_context(context_and_optional, 1) is True
    assert wants_context(varargs, 1) is False
    assert wants_context(methods.bound_context, 1) is True
