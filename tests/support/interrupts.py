"""Ctrl-C in the main thread, exactly once."""

from __future__ import annotations

import signal
import threading

from tests.support.waiting import PATIENCE


class CtrlC:
    """`press()` raises one KeyboardInterrupt in the main thread. The handler of SIGINT is `strike`."""

    def __init__(self) -> None:
        self._struck = threading.Event()

    def strike(self, *_: object) -> None:
        if not self._struck.is_set():
            self._struck.set()
            raise KeyboardInterrupt

    def press(self) -> None:
        """Send signals until one is seen. Python does not see one that comes just before it blocks."""
        main = threading.main_thread().ident
        assert main is not None
        for _ in range(int(PATIENCE)):
            signal.pthread_kill(main, signal.SIGINT)
            if self._struck.wait(1.0):
                return
