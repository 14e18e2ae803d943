"""What `tasker map` writes to standard error.

Failures, warnings, a bar on a terminal, and the figures at the end.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Generator, Iterable
from typing import Any

from tasker.cli.files import Files

__all__ = ["Display", "say"]


def say(text: str) -> None:
    """Write a line to standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(f"tasker: {text}", file=sys.stderr, flush=True)


class Display:
    """The bar, if there is one, and the lines that must not be written across it.

    It is also the manager's logger."""

    def __init__(self, files: Files) -> None:
        self._bar: Any = _new_bar(files) if sys.stderr is not None and sys.stderr.isatty() else None
        self._shares_terminal = self._bar is not None and files.output.is_terminal()

    def say(self, text: str) -> None:
        """Write a line to standard error, above the bar."""
        if self._bar is None:
            say(text)
        else:
            with contextlib.suppress(OSError, ValueError):
                self._bar.write(f"tasker: {text}", file=sys.stderr)

    def advance(self) -> None:
        """Move the bar on: a line of the input has ended."""
        if self._bar is not None:
            self._bar.update()

    @contextlib.contextmanager
    def out_of_the_way(self) -> Generator[None]:
        """Take the bar away while results are written to the same terminal."""
        if self._shares_terminal:
            self._bar.clear()

        yield

        if self._shares_terminal:
            self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is now."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def table(self, rows: Iterable[tuple[str, object]]) -> None:
        """Write the figures, one a line."""
        self.close()
        for name, value in rows:
            with contextlib.suppress(OSError, ValueError):
                if sys.stderr is not None:
                    print(f"{name:<20}{value:>12}", file=sys.stderr)

    # -- the logger --------------------------------------------------------------------

    def debug(self, msg: str, /, *args: object) -> None:
        """Not shown."""

    def info(self, msg: str, /, *args: object) -> None:
        """Not shown."""

    def warning(self, msg: str, /, *args: object) -> None:
        """A failure to make or free a resource."""
        self.say(msg % args if args else msg)

    def error(self, msg: str, /, *args: object) -> None:
        """A failure that would not be seen otherwise."""
        self.warning(msg, *args)


def _new_bar(files: Files) -> Any:
    try:
        tqdm: Any = importlib.import_module("tqdm").tqdm
    except ImportError:
        say("there is a progress bar with: pip install 'tasker-pool[cli]'")
        return None

    # Without the thread of tqdm's that looks after bars.
    unwatched: Any = type("Bar", (tqdm,), {"monitor_interval": 0})
    return unwatched(
        total=files.count_lines(), unit=" lines", file=sys.stderr, dynamic_ncols=True, miniters=1
    )
