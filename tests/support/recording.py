"""Resources and a logger that record what becomes of them."""

from __future__ import annotations

import threading

from tasker import Slot
from tasker.testing import DummyResource, ResourceFactory
from tasker.testing.factory import numbered


class Resource(DummyResource):
    """A resource that knows which thread made it, and whether it is broken."""

    slot: Slot
    """Where a test has noted it."""

    made_after: int
    """The breakages before it, where a test has noted that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.thread = threading.get_ident()
        self.broken = False


class Factory(ResourceFactory[Resource]):
    """Makes those. `fail_next` errors, then `fail_always`, are raised instead of creating."""

    def __init__(self) -> None:
        super().__init__(numbered(Resource), Resource.close)
        self.fail_next: list[BaseException] = []
        self.fail_always: BaseException | None = None

    def create(self) -> Resource:
        with self._lock:
            error = self.fail_next.pop(0) if self.fail_next else self.fail_always
        if error is not None:
            raise error
        return super().create()

    def destroy(self, resource: Resource, reason: BaseException | None = None) -> None:
        """As a pool calls it, too."""
        super().destroy(resource)


class Log:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def _keep(self, level: str, msg: str, args: tuple[object, ...]) -> None:
        self.lines.append((level, msg % args if args else msg))

    def debug(self, msg: str, /, *args: object) -> None:
        self._keep("debug", msg, args)

    def info(self, msg: str, /, *args: object) -> None:
        self._keep("info", msg, args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._keep("warning", msg, args)

    def error(self, msg: str, /, *args: object) -> None:
        self._keep("error", msg, args)

    def loud(self) -> list[str]:
        return [text for level, text in self.lines if level in ("warning", "error")]

    def telling(self, of: str) -> list[str]:
        """The first lines of all that was told of it: what comes again and again is told loudly once, then as debug."""
        return [text.partition("\n")[0] for _, text in self.lines if of in text]
