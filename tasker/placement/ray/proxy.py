"""`ActorProxy`: a Ray actor with a resource in it, as its manager sees it.

It is the `ResourceProxy` of `Ray`. `actor` is the other side.

The owner calls a method of the actor, and sleeps until it has an outcome or the actor
is lost. Ray says in two ways that the actor is lost: a method fails with an error of
Ray's, and `live`, which never returns, fails. To kill the actor is to ask Ray to. Ray
then fails the method at once, even that of a frozen process. In case Ray does not, the
owner looks by itself every second. So it wakes even if it cannot be known whether the
code in the actor has stopped.

Ray restarts and retries nothing here: the manager does both.
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
from tasker.placement.remote.proxy import Answer, NoAnswerError, ResourceProxy
from tasker.slot import Slot

__all__ = ["ActorProxy", "Cluster"]

# How often the owner looks whether the actor is lost, in case Ray does not say so. A
# guess: it is a second line of defence.
_LOOK_S = 1.0
# How long to wait for the death of an actor that was killed. A guess.
_KILL_WAIT_S = 5.0
_KILLED = "was killed; whether its code has stopped is not known"


class Cluster(Protocol):
    """Where actors are made, as seen from here.

    Only `new_actor` and `kill_now` block."""

    ray: Any
    """The module."""

    def is_connected(self) -> bool:
        """Whether this process is connected to Ray.

        Most calls of Ray's would start a cluster where it is not. So it is asked before
        each of them."""
        ...

    def new_actor(self, slot: Slot) -> Any:
        """A new actor, on a node that is not known to be lost.

        Raises `ConnectionError`, and what Ray raises for its options. Calls a function
        of the user's."""
        ...

    def kill(self, actor: Any) -> None:
        """Have the actor killed by another thread."""
        ...

    def kill_now(self, actor: Any) -> None:
        """Kill the actor."""
        ...

    def says_lost(self, error: BaseException) -> bool:
        """Whether Ray says by this error that the actor is lost."""
        ...

    def drop(self, actor: Any, node: str, error: BaseException | None) -> None:
        """The actor is lost: kill it if it runs, and avoid its node if that is dead.

        `error` is what Ray says of it. `node` is empty if the actor has not run."""
        ...

    def lacking(self) -> str:
        """Why there may be no actor yet, in words."""
        ...


class ActorProxy(ResourceProxy):
    """One actor."""

    KIND: str = "an actor"

    def __init__(
        self,
        name: str,
        grace: float,
        on_lost: Callable[[Any], None],
        cluster: Cluster,
        slot: Slot,
    ) -> None:
        super().__init__(name, grace, on_lost)
        self._cluster = cluster
        # Set when `live` has failed: Ray says that the actor is dead.
        self._dead = threading.Event()
        # Why it is lost, in words.
        self._why = ""
        # The node where it runs; empty until it runs.
        self._node = ""
        self._actor = cluster.new_actor(slot)
        self._run = self._actor.run.remote
        self._actor.live.remote().future().add_done_callback(self._ended)

    def _where(self) -> str:
        return f"actor {self._actor._actor_id.hex()[:12]}" + (
            f" on node {self._node[:12]}" if self._node else ""
        )

    def late(self) -> str:
        return super().late() if self._node else self._cluster.lacking()

    # -- the owner's thread ------------------------------------------------------------

    def _ask(self, kind: int, what: Any, progress: Progress | None) -> Answer:
        if self._is_out_of_reach():
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
            # What belongs to this process stays here.
            reply = actor.create.remote(pickle.dumps(what._replace(argv=[], inheritance=None)))
        elif kind == protocol.DESTROY:
            reply = actor.destroy.remote(what)
        else:
            reply = (actor.check if kind == protocol.CHECK else actor.reset).remote()

        answered: Answered = self._await(reply)
        if isinstance(answered, bytes):
            return self._opened(answered[0], memoryview(answered)[1:])

        (answer, body, buffers), records = answered
        for record in records:
            handle_record(record)
        return self._opened(answer, body, received(buffers))

    def _follow(self, number: int, progress: Progress) -> BaseException | None:
        """Note the results of steps as they come, until the call has ended."""
        ended = False
        while not ended:
            if self._is_out_of_reach():
                raise NoAnswerError(began=True)

            noted: Noted = self._await(self._actor.notes.remote(number))
            notes, ended = noted
            for note in notes:
                kind, body, buffers = note
                error, result = pickling.opened(kind, body, received(buffers))
                if error is not None:
                    # A result is missing: the next would be taken for it.
                    self.kill()
                    return error

                progress.note(result)

        return None

    def _await(self, reply: Any) -> Any:
        """The outcome of a method. Raises `NoAnswerError` if the actor is lost."""
        ray = self._cluster.ray
        gone = False
        while not gone:
            try:
                # An answer that was sent before the loss counts.
                return ray.get(reply, timeout=_LOOK_S)
            except ray.exceptions.GetTimeoutError:
                gone = self._is_out_of_reach()
            except Exception as error:
                if not self._cluster.says_lost(error):
                    raise

                self._found_lost(error)
                gone = True

        raise NoAnswerError(began=True)

    def _is_out_of_reach(self) -> bool:
        """Whether the actor is lost, or the connection to Ray has ended."""
        if not self._is_lost and not self._cluster.is_connected():
            self._found_lost(ConnectionError("this process is not connected to Ray any more"))
        return self._is_lost

    def _has_begun(self) -> bool:
        return bool(self._node)

    def _why_lost(self) -> tuple[str, int | None]:
        return self._why, None

    def _let_end(self, patience: float) -> None:
        if self._mark_lost(_KILLED):
            # In this thread: when the interpreter exits, no other can be started.
            self._cluster.kill_now(self._actor)

        # Its slot is free when this returns. Without a connection Ray tells nothing.
        if self._cluster.is_connected():
            self._dead.wait(_KILL_WAIT_S)

    # -- any thread --------------------------------------------------------------------

    def _tell(self, order: int, number: int) -> None:
        # Ray's errors, when the actor is dead.
        with contextlib.suppress(Exception):
            if self._cluster.is_connected():
                self._actor.obey.remote(order, number)

    def kill(self) -> None:
        if self._mark_lost(_KILLED):
            self._cluster.kill(self._actor)

    def leave_to_parent(self) -> None:
        self._lock = new_lock()
        self._is_lost = True

    def _ended(self, live: Any) -> None:
        """`live` has failed: the actor is dead. Called by a thread of Ray's."""
        self._found_lost(live.exception())
        self._dead.set()

    def _found_lost(self, error: BaseException | None) -> None:
        """Ray says by this error that the actor is lost."""
        if self._mark_lost(f"was lost ({_reason(error)})"):
            self._cluster.drop(self._actor, self._node, error)
            self._tell_manager()

    def _mark_lost(self, why: str) -> bool:
        """Note that the actor is lost, and why. Returns whether it was not before."""
        with self._lock:
            if self._is_lost:
                return False

            self._why = why
            self._is_lost = True

        return True


def _reason(error: BaseException | None) -> str:
    """What Ray says of a death, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # For example: tasker is not installed there.
    if "in its creation task" in str(error):
        return f"it could not be made: {lines[-1]}"

    told = [line.partition(". ")[0] for line in lines if line.startswith("The actor ")]
    return told[-1] if told else lines[0] if lines else type(error).__name__
