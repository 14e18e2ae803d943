"""`new_thread`: how every thread of tasker is made.

The first thread that needs a thread of tasker starts it. That one may serve a request,
and the new thread goes on to work for all others. So it must take nothing over from the
thread that starts it. There are two things to take over: its context variables, which a
thread inherits from CPython 3.14 on if it is asked to (`-X thread_inherit_context=1`,
the default without the GIL), and what a tracing library keeps in them and hands on by a
replaced `Thread.start`. With these the new thread would run the work of one request in
the context of another, and keep that context as long as it lives.

In a subinterpreter of its own (`concurrent.interpreters`) no thread can be a daemon.
There the interpreter's end waits for every thread, so all of tasker's have to end by
themselves: see `exit_and_fork`.

The user's code may fork on such a thread. In the child it is the only thread, and comes
back from that code into a loop of the parent's. So the child ends there, by
`leave_child`, as a program ends.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any, TypeVar

__all__ = [
    "claim_thread",
    "daemons_allowed",
    "greenlets",
    "is_ours",
    "is_service_thread",
    "join_all",
    "known_thread",
    "leave_child",
    "local_to_threads",
    "new_thread",
    "refuse_threads",
    "still_known",
]

T = TypeVar("T")

# Whether no thread can be made any more.
_refused = False

# The thread that is tasker's although it was not made here: see claim_thread.
_claimed: threading.Thread | None = None

# In a forked child: the thread of tasker's that forked.
_stray: threading.Thread | None = None

# The pause between two looks whether a new thread has ended. A guess: it is mostly
# woken for that, so it may be long.
LOOK_S = 1.0


def new_thread(
    target: Callable[..., object],
    name: str,
    args: tuple[object, ...] = (),
    *,
    service: bool = False,
) -> threading.Thread:
    """Make a thread that begins with no context variables, whichever thread starts it.

    `service`: it runs no code of the user's. It is a daemon, where the interpreter
    allows that. Its type is looked up at each call: gevent, say, may have made threads
    greenlets since tasker was imported."""
    thread: Any = _on_top_of(threading.Thread)(
        target=target, name=name, args=args, daemon=daemons_allowed()
    )
    thread.is_service = service
    return thread  # type: ignore[no-any-return]


def is_service_thread() -> bool:
    """Whether the calling thread is one that runs no code of the user's."""
    return getattr(known_thread(), "is_service", False)


def daemons_allowed() -> bool:
    """Whether the interpreter lets threads be daemons.

    Its end leaves those behind."""
    # CPython has this function from 3.12 on.
    allowed: Callable[[], bool] = getattr(_thread, "daemon_threads_allowed", lambda: True)
    return allowed()


def is_ours(thread: threading.Thread) -> bool:
    """Whether it was made here."""
    return isinstance(thread, _Thread)


def join_all(wanted: Callable[[threading.Thread], bool]) -> None:
    """Wait until none of the `wanted` threads is left.

    It does not wait for the calling thread, nor for those for which the interpreter's
    end does not wait either."""
    own = (threading.current_thread(), threading.main_thread())
    while threads := [
        each
        for each in threading.enumerate()
        if _is_awaited(each) and each not in own and wanted(each)
    ]:
        for thread in threads:
            thread.join()


def _is_awaited(thread: threading.Thread) -> bool:
    # A dummy stands for a thread that `threading` has not started. It cannot be joined.
    return thread.is_alive() and not (thread.daemon or isinstance(thread, threading._DummyThread))


def refuse_threads() -> None:
    """Let no thread be started any more: the interpreter would not wait for it."""
    global _refused
    _refused = True


def local_to_threads(kind: type[T], *arguments: object) -> T:
    """Make an object that is another one in each thread, made with these arguments.

    `kind` does not derive from `threading.local` itself. gevent, say, replaces that
    when it makes threads greenlets, so the base is looked up at each call."""
    bases: tuple[Any, ...] = (kind, threading.local)
    made: Any = type(kind.__name__, bases, {})
    return made(*arguments)  # type: ignore[no-any-return]


def greenlets() -> str:
    """The library that has made greenlets of this process's threads.

    `gevent` or `eventlet`; empty if none has."""
    gevent: Any = sys.modules.get("gevent.monkey")
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    return "eventlet" if eventlet is not None and eventlet.is_monkey_patched("thread") else ""


def claim_thread() -> None:
    """Make the calling thread one of tasker's, although it was not made here.

    A process has one such thread."""
    global _claimed
    _claimed = threading.current_thread()


def known_thread() -> threading.Thread | None:
    """The calling thread, if it is one of `threading`'s."""
    return _known().get(threading.get_ident())


@contextlib.contextmanager
def still_known(thread: threading.Thread | None) -> Generator[None]:
    """A block in which `threading` knows the calling thread again.

    For the last code of a thread, which `threading` has let go of. Without this, code
    that asks there for the current thread would get a dummy, which would be listed as
    alive from then on."""
    known = _known()
    if thread is None or threading.get_ident() in known:
        yield
        return

    known[threading.get_ident()] = thread
    try:
        yield
    finally:
        known.pop(threading.get_ident(), None)


def _known() -> dict[int, threading.Thread]:
    return getattr(threading, "_active", {})


def leave_child(error: BaseException | None = None) -> None:
    """End the process if the user's code on this very thread has forked it.

    Called where that code has returned, or raised `error`. The exit status is as that
    of a program: the one of a `SystemExit`, 1 after another error, which is printed,
    and else 0."""
    if _stray is None or threading.current_thread() is not _stray:
        return

    status = 1
    try:
        status = _status(error)

        for stream in (sys.stdout, sys.stderr):
            # The stream may be closed, or `None`.
            with contextlib.suppress(Exception):
                stream.flush()
    finally:
        os._exit(status)


def _status(error: BaseException | None) -> int:
    if error is None:
        return 0

    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return 1

    if error.code is None or isinstance(error.code, int):
        return error.code or 0

    print(error.code, file=sys.stderr)
    return 1


class _Thread(threading.Thread):
    _started: _Begun
    is_service: bool

    def start(self) -> None:
        """As `Thread.start`, which waits until the thread has begun.

        Here it also stops waiting when the thread has ended before that."""
        # Up to CPython 3.11, a thread that is started while destructors run at the
        # interpreter's end never runs.
        if _refused or sys.is_finalizing():
            raise RuntimeError("can't start new thread: the interpreter ends")

        self._started = _Begun()
        try:
            contextvars.Context().run(super().start)
        except RuntimeError:
            private: Any = threading
            with private._active_limbo_lock:
                # `enumerate` would go on naming it.
                private._limbo.pop(self, None)
            raise

    @property
    def _bootstrap(self) -> Callable[[], object]:
        """The function that the new thread calls.

        `Thread.start` asks for it once. Nothing else holds it."""
        thread: Any = super()
        entrance = functools.partial(thread._bootstrap)
        self._started.end_with(entrance)

        return entrance

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            leave_child(error)
            raise
        leave_child()

    @property
    def ident(self) -> int | None:
        """`None` until the thread has begun.

        An exception that another thread sends earlier would end it without a trace."""
        return super().ident if self._started.is_set() else None


_AT_FIRST = threading.Thread


@functools.cache
def _on_top_of(kind: Any) -> type[threading.Thread]:
    """Our kind of thread, derived from `kind`.

    Others have put that in the place of `threading.Thread`."""
    if kind is not _AT_FIRST and isinstance(kind, type) and issubclass(kind, _AT_FIRST):
        return type(_Thread.__name__, (_Thread, kind), {})

    return _Thread


class _Begun(threading.Event):
    """Set by a thread that has begun.

    A new thread may end before it begins, for want of memory, or by an exception that
    another thread has sent to it (or to a thread that is gone and had the same number).
    Then `Thread.start` would wait for ever. That it has ended shows in the function
    that it was to call: nothing holds that any more.

    The thread that waits sleeps on a lock made for this, the bell. The lock of the
    event itself is not safe to need: a new thread that has no memory at the end of its
    `with` leaves it taken."""

    _over: weakref.ref[Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._bell = threading.Lock()
        self._bell.acquire()

    def end_with(self, entrance: Callable[[], object]) -> None:
        """Take note of the function that the new thread is to call, and alone holds."""
        self._over = weakref.ref(entrance, self._ring)

    def set(self) -> None:
        """Note that the thread has begun."""
        try:
            super().set()
        except MemoryError:
            # If it is not set, the new thread ends.
            if not self.is_set():
                raise
        finally:
            self._ring()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread has begun.

        Raises `RuntimeError` when it has ended before that."""
        while not self.is_set():
            if self._over is not None and self._over() is None and not self.is_set():
                raise RuntimeError("a new thread has ended before it began")

            self._bell.acquire(timeout=LOOK_S)
        return True

    def _ring(self, _: object = None) -> None:
        # `suppress()` would take memory.
        try:  # noqa: SIM105
            self._bell.release()
        except RuntimeError:
            # It was rung before.
            pass


def _note_stray() -> None:
    """In a forked child: note the thread if it is one of tasker's (R5)."""
    global _stray
    thread = threading.current_thread()
    _stray = thread if isinstance(thread, _Thread) or thread is _claimed else None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_stray)
