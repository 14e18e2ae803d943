"""`ActorProxy`: a Ray actor with a resource in it, as its manager sees it: the `ResourceProxy` of `Ray`. See `actor` for the
other side.

The owner has a method run there and sleeps until it has an outcome, or the actor is lost. Two things say that it is: a
method that fails with an error of Ray's, and the failure of `live`, which never returns. To kill the actor is to ask
Ray for it: Ray then fails the method at once, of a frozen process too, and where it does not the owner looks by
himself every second. So he is freed even if nobody can tell whether the code there has stopped.

Ray restarts and retries nothing here: that is the manager's.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable
from typing import Any, Protocol

from tasker._sync.locks import new_lock
from tasker._tasks.wrapping import Progress
from tasker.placement.ray.actor import Answered, Noted, received, sent
from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.logs import handle_record
from tasker.placement.remote.pickling import Outcome
from tasker.placement.remote.proxy import Answer, NoAnswerError, ResourceProxy

__all__ = ["ActorProxy", "Cluster"]

_LOOK = 1.0  # seconds after which the owner looks whether the actor is lost, if Ray does not say so
_GONE = 5.0  # seconds for an actor that was killed to be gone
_KILLED = "was killed; whether its code has stopped is not known"


class Cluster(Protocol):
    """Where actors are made, as seen from here. But for `new_actor` and `kill_now`, nothing here blocks."""

    ray: Any
    """The module."""

    def new_actor(self) -> Any:
        """A new one, on a node that is not known to be lost. Raises `ConnectionError`, and what Ray
        raises for its options."""
        ...

    def kill(self, actor: Any) -> None:
        """Have it killed."""
        ...

    def kill_now(self, actor: Any) -> None:
        """Kill it."""
        ...

    def says_lost(self, error: BaseException) -> bool:
        """Whether this says that the actor is no more, or cannot be reached."""
        ...

    def drop(self, actor: Any, node: str, error: BaseException | None) -> None:
        """It is no more, or cannot be reached, for this reason; `node` is empty if it has not run."""
        ...

    def lacking(self) -> str:
        """Why there may be no actor yet, in words."""
        ...


class ActorProxy(ResourceProxy):
    """One actor."""

    KIND: str = "an actor"

    def __init__(
        self, name: str, grace: float, on_lost: Callable[[Any], None], cluster: Cluster
    ) -> None:
        super().__init__(name, grace, on_lost)
        self._cluster = cluster
        self._dead = threading.Event()
        self._why = ""  # it was lost, in words
        self._node = ""  # as long as the actor does not run anywhere
        self._actor = cluster.new_actor()
        self._run = self._actor.run.remote
        self._actor.live.remote().future().add_done_callback(self._ended)

    def _where(self) -> str:
        return f"actor {self._actor._actor_id.hex()[:12]}" + (
            f" on node {self._node[:12]}" if self._node else ""
        )

    def late(self) -> str:
        return super().late() if self._node else self._cluster.lacking()

    # -- the owner's thread ----------------------------------------------------------------------------------------

    def _ask(self, kind: int, what: Any, progress: Progress | None) -> Answer:
        if (
            self._is_lost or not self._cluster.ray.is_initialized()
        ):  # where Ray would start a cluster
            raise NoAnswerError(began=False)
        actor = self._actor
        if kind == protocol.CALL:
            head, packed = what
            message = protocol.CALL_HEAD.pack(*head) + packed.body
            reply = (
                self._run(message, sent(packed.buffers)) if packed.buffers else self._run(message)
            )
            if progress is not None:
                error = self._follow(head[0], progress)
                if error is not None:
                    return error, None
        elif kind == protocol.SETUP:
            self._node = self._await(actor.where.remote())
            # the node has an environment of its own, and need not see what is in this one
            reply = actor.create.remote(
                pickle.dumps(what._replace(argv=[], environment={}, inheritance=None))
            )
        else:
            reply = actor.destroy.remote(what)
        answered: Answered = self._await(reply)
        if isinstance(answered, bytes):
            return pickling.opened(answered[0], memoryview(answered)[1:])
        outcome, records = answered
        for record in records:
            handle_record(record)
        return _opened(outcome)

    def _follow(self, number: int, progress: Progress) -> BaseException | None:
        """Note the results of steps as they come, until the call has ended."""
        ended = False
        while not ended:
            noted: Noted = self._await(self._actor.notes.remote(number))
            notes, ended = noted
            for note in notes:
                error, result = _opened(note)
                if error is not None:
                    self.kill()  # a result is missing, and those after it would be taken for it
                    return error
                progress.note(result)
        return None

    def _await(self, reply: Any) -> Any:
        """The outcome of a method. Raises `NoAnswerError`."""
        ray = self._cluster.ray
        gone = False
        while not gone:
            try:
                return ray.get(reply, timeout=_LOOK)  # what was answered before it was lost counts
            except ray.exceptions.GetTimeoutError:
                gone = self._is_lost
            except Exception as error:
                if not self._cluster.says_lost(error):
                    raise
                self._found_lost(error)
                gone = True
        raise NoAnswerError(began=True)

    def _has_begun(self) -> bool:
        return bool(self._node)

    def _why_lost(self) -> tuple[str, int | None]:
        return self._why, None

    def _let_end(self, patience: float) -> None:
        if self._mark_lost(_KILLED):
            self._cluster.kill_now(
                self._actor
            )  # here: when the interpreter exits no thread can be started
        if patience:
            self._dead.wait(_GONE)

    # -- any thread ------------------------------------------------------------------------------------------------

    def _tell(self, order: int, number: int) -> None:
        with contextlib.suppress(Exception):  # Ray's, of an actor that is dead
            self._actor.obey.remote(order, number)

    def kill(self) -> None:
        if self._mark_lost(_KILLED):
            self._cluster.kill(self._actor)

    def leave_to_parent(self) -> None:
        self._lock = new_lock()
        self._is_lost = True

    def _ended(self, live: Any) -> None:
        """Ray says that the actor is no more. On a thread of Ray's."""
        self._found_lost(live.exception())
        self._dead.set()

    def _found_lost(self, error: BaseException | None) -> None:
        if self._mark_lost(f"was lost ({_reason(error)})"):
            self._cluster.drop(self._actor, self._node, error)
            self._tell_manager()

    def _mark_lost(self, why: str) -> bool:
        """From now on it is lost. Whether it was not before."""
        with self._lock:
            if self._is_lost:
                return False
            self._why = why
            self._is_lost = True
        return True


def _opened(outcome: Outcome) -> Answer:
    kind, body, buffers = outcome
    return pickling.opened(kind, body, received(buffers))


def _reason(error: BaseException | None) -> str:
    """What Ray says of a death, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "in its creation task" in str(error):  # such as: tasker is not installed there
        return f"it could not be made: {lines[-1]}"
    told = [line.partition(". ")[0] for line in lines if line.startswith("The actor ")]
    return told[-1] if told else lines[0] if lines else type(error).__name__
