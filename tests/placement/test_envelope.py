"""Calls and outcomes as bytes, without any other process."""

from __future__ import annotations

import pickle
import sys
import threading
from functools import partial
from unittest import mock

import pytest

from tasker import RemoteTaskError
from tasker._tasks.wrapping import Progress
from tasker.placement.remote import protocol
from tasker.placement.remote.pickling import (
    RemoteTraceback,
    error_from,
    opened,
    outcome_of,
    pack_call,
    pack_error,
    pack_reason,
    pack_value,
    unpack,
)
from tests.support import remote_tasks
from tests.support.errors import Faithful, Lossy


class Beside(bytearray):
    def __reduce_ex__(self, protocol):
        return Beside, (pickle.PickleBuffer(self),)


def crossed(fn, *args):
    """An outcome as it comes."""
    kind, body, buffers = outcome_of(fn, *args)
    return opened(kind, body, buffers)


# -- values ----------------------------------------------------------------------------------------------------------


def test_a_value_is_packed_by_plain_pickle_where_that_will_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    value = [remote_tasks.square, remote_tasks.Adder(3), Faithful, {2: "three"}]
    assert unpack(*pack_value(value)) == value
    for function in (
        remote_tasks.Adder(2),
        remote_tasks.Adder(2).add,
        partial(remote_tasks.add_up, second=2),
    ):
        assert unpack(*pack_value(function))(None, 40) == 42


def test_lambdas_are_packed_by_value():
    add = 2
    body, buffers = pack_value(lambda number: number + add)
    assert unpack(body, buffers)(40) == 42


def test_what_main_defines_is_packed_by_value_wherever_it_is(monkeypatch):
    main = sys.modules["__main__"]
    names = {"__name__": "__main__"}
    exec("class OfMain: pass\ndef of_main(): return 'of main'", names)
    of_main, kind = names["of_main"], names["OfMain"]
    monkeypatch.setattr(main, "OfMain", kind, raising=False)
    monkeypatch.setattr(main, "of_main", of_main, raising=False)
    for value in (of_main, kind, kind(), partial(of_main), {"deep": [kind]}):
        assert pickle.loads(pickle.dumps(value)) is not None  # plain pickle would send a name
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "cloudpickle", None)
            with pytest.raises(pickle.PicklingError, match=r"__main__.*tasker-pool\[processes\]"):
                pack_value(value)
    packed, _ = pack_value(of_main)
    monkeypatch.delattr(main, "of_main")
    assert unpack(packed)() == "of main"


def test_without_cloudpickle_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(Exception, match="lambda") as caught:
        pack_value(lambda: 1)
    assert "tasker-pool[processes]" in caught.value.__notes__[0]


@pytest.mark.parametrize(("size", "beside"), [(65535, 0), (65536, 1), (1_000_000, 1)])
def test_large_buffers_travel_beside_the_pickle(size, beside):
    body, buffers = pack_value([Beside(size)])
    assert len(buffers) == beside
    assert (len(body) < 1000) == bool(beside)
    assert unpack(body, [bytearray(buffer) for buffer in buffers]) == [Beside(size)]
    body, buffers = pack_value([Beside(size)], apart=False)
    assert buffers == []
    assert unpack(body) == [Beside(size)]


def test_buffers_of_an_attempt_that_failed_are_not_sent():
    first, second = Beside(b"a" * 70_000), Beside(b"b" * 80_000)
    body, buffers = pack_value(
        [first, lambda: None, second]
    )  # plain pickle takes the first, fails at the function
    unpacked = unpack(body, [bytearray(buffer) for buffer in buffers])
    assert (len(buffers), unpacked[0], unpacked[2]) == (2, first, second)


# -- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_is_packed_with_all_that_it_needs():
    packed = pack_call(remote_tasks.add_up, (40, 2), True, ("variables",))
    assert unpack(packed.body) == (remote_tasks.add_up, (40, 2), True, ("variables",), ())
    assert (packed.__qualname__, packed.progress, packed.buffers) == ("add_up", None, [])


def test_the_progress_of_a_call_stays_here():
    progress = Progress([1, 2, 3])
    progress.note("one")
    packed = pack_call(remote_tasks.give, (progress,), False, ())
    assert packed.progress is progress
    [there] = unpack(packed.body)[1]
    assert (there.steps, list(there.results)) == ([1, 2, 3], [])


@pytest.mark.parametrize(
    ("fn", "args", "text"),
    [
        (
            remote_tasks.give,
            (1, threading.Lock()),
            r"argument 2 of a task cannot be sent to another process: <unlocked",
        ),
        (remote_tasks.give, (threading.Lock(),), r"argument 1 of a task"),
        (partial(remote_tasks.give, threading.Lock()), (), r"the function of a task .*partial"),
    ],
    ids=["second", "first", "function"],
)
def test_what_cannot_be_packed_is_named(fn, args, text):
    with pytest.raises(TypeError, match=text) as caught:
        pack_call(fn, args, False, ())
    assert caught.value.__cause__ is not None


# -- outcomes --------------------------------------------------------------------------------------------------------


def test_a_result_crosses():
    assert crossed(remote_tasks.give, None, {"a": [1]}) == (None, {"a": [1]})


@pytest.mark.parametrize(
    "error", [ValueError(1, 2), Faithful(7, "seven"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_an_exception_crosses_with_its_traceback_as_the_cause(error):
    got, verdict = crossed(remote_tasks.fail, None, error)
    assert (type(got), got.args, verdict) == (type(error), error.args, True)
    assert type(got.__cause__) is RemoteTraceback
    text = str(got.__cause__)
    assert text.startswith("\n\nTraceback (most recent call last):\n")
    assert "in fail" in text
    assert "in outcome_of" not in text


def test_an_exception_that_does_not_survive_is_told_of():
    got, _ = crossed(remote_tasks.fail_lossily, None)
    assert type(got) is RemoteTaskError
    assert got.type_name == f"{Lossy.__module__}.Lossy"
    assert str(got) == f"{Lossy.__module__}.Lossy: 7: seven"
    assert got.traceback in str(got.__cause__) + "\n"


def test_an_exception_that_becomes_another_on_its_way_is_told_of():
    class Shifting(Exception):
        def __reduce__(self):
            return ValueError, ("another",)

    got, _ = crossed(remote_tasks.fail, None, Shifting("text"))
    assert type(got) is RemoteTaskError
    assert got.type_name.endswith("Shifting")


def test_a_result_that_cannot_be_packed_is_an_error():
    kind, body, buffers = outcome_of(remote_tasks.make_lock, None)
    assert kind == protocol.ERROR
    got, _ = opened(kind, body, buffers)
    assert type(got) is RemoteTaskError
    assert got.type_name == "TypeError"
    assert "<unlocked _thread.lock" in str(got)
    assert "the task's result cannot be sent back" in str(got)


def test_an_exception_that_is_unable_to_say_anything_is_told_of():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

        __repr__ = __str__

        def __reduce__(self):
            raise RuntimeError

    got, _ = crossed(remote_tasks.fail, None, Mute())
    assert type(got) is RemoteTaskError
    assert got.type_name.endswith("Mute")
    assert "in fail" in got.traceback


def test_an_exception_whose_text_is_of_a_type_that_cannot_be_pickled_is_told_of():
    class Markup(str):
        def __reduce__(self):
            raise RuntimeError

    class Marked(Exception):
        def __str__(self):
            return Markup("no")

    got, _ = crossed(remote_tasks.fail, None, Marked())
    assert type(got) is RemoteTaskError
    assert str(got).endswith("Marked: no")
    assert type(got.args[0]) is str


class Refusing(Exception):
    @property
    def __traceback__(self):
        raise RuntimeError

    @property
    def __cause__(self):
        raise RuntimeError


class Nameless(type):
    @property
    def __module__(cls):
        raise RuntimeError


def raise_nameless(resource):
    raise Nameless("Unknown", (Exception,), {})()


def test_outcome_of_raises_nothing_whatever_was_raised():
    for task in (raise_nameless, lambda resource: remote_tasks.fail(resource, Refusing())):
        kind, body, buffers = outcome_of(task, None)
        assert kind == protocol.ERROR
        got, _ = opened(kind, body, buffers)
        assert type(got) is RemoteTaskError


class NotOpened:
    def __reduce__(self):
        return NotOpened.refuse, ()

    @staticmethod
    def refuse():
        raise LookupError


@pytest.mark.parametrize("verdict", [True, False, b"what check_health has raised"])
def test_an_error_has_the_verdict_on_it_with_it(verdict):
    judged = []

    def judge(error):
        judged.append((error, error.__traceback__ is not None))
        return verdict

    error = ValueError("text")
    kind, body, buffers = outcome_of(remote_tasks.fail, None, error, judge=judge)
    got, told = opened(kind, body, buffers)
    assert (type(got), str(got), told) == (ValueError, "text", verdict)
    assert judged == [(error, True)]


def test_an_error_that_cannot_be_told_or_judged_has_a_verdict_all_the_same():
    for verdict in (True, False):
        _, told = opened(
            *outcome_of(raise_nameless, None, judge=lambda error, verdict=verdict: verdict)
        )
        assert told is verdict
    error, told = opened(
        *outcome_of(remote_tasks.fail, None, ValueError(), judge=lambda error: divmod(1, 0))
    )
    assert (type(error), told) == (RemoteTaskError, False)


def test_a_result_that_cannot_be_unpickled_here_says_nothing_against_the_resource():
    error, told = opened(*outcome_of(remote_tasks.call, None, NotOpened))
    assert (type(error), told) == (RemoteTaskError, True)


class Fixed(Exception):
    """Refuses all attributes, once it is made."""

    def __setattr__(self, name, value):
        raise AttributeError(name)


def test_an_exception_that_takes_no_cause_is_told_of():
    got, _ = crossed(remote_tasks.fail, None, Fixed("text"))
    assert type(got) is RemoteTaskError
    assert "could not be unpickled here" in got.__notes__[0]
    assert str(got).endswith("Fixed: text")


def test_an_error_is_sent_back_as_it_came_and_keeps_its_traceback_meanwhile():
    with pytest.raises(Faithful) as caught:
        raise error_from(pack_error(Faithful(7, "text")))
    traceback = caught.value.__traceback__
    again = error_from(pack_reason(caught.value))
    assert caught.value.__traceback__ is traceback
    assert (type(again), again.code, again.args) == (Faithful, 7, (7, "text"))


def test_an_error_that_stayed_unnamed_here_is_itself_again_where_it_came_from():
    packed = pack_error(Faithful(7, "text"))
    with mock.patch.object(
        pickle, "loads", side_effect=[pickle.loads(packed), ImportError("not here")]
    ):
        unnamed = error_from(packed)
    assert type(unnamed) is RemoteTaskError
    assert type(error_from(pack_reason(unnamed))) is Faithful
