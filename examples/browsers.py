"""Two browsers: each has a profile and a port of its own, and forgets what a task left.

    python examples/browsers.py [--FLAG]... URL...

prints the titles of pages. It needs Chromium or Chrome, and its driver. Flags are the
browser's: as root it needs --no-sandbox.

- The slot names the profile directory and the port. No two browsers share them, and one
  that takes the place of another takes them over.
- `on_reset` leaves the page and clears the cookies, so that no task meets those of
  another.
- `on_abort` kills the browser of a page that never ends loading. Its driver notices at
  once, so the task returns, and the worker starts another. `Chrome.quit` would end
  nothing: a driver does one thing after the other, and still waits for the page.
- `check_health` and `on_check` ask whether the browser still has its port, which it has
  not after an abort, and then for its windows.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from functools import partial

try:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.common.utils import is_connectable
except ImportError:
    print("selenium is not installed: pip install selenium", file=sys.stderr)
    sys.exit(2)

from tasker import Config, Slot, TaskManager, current_slot


def start(profiles: str, flags: list[str], slot: Slot) -> Chrome:
    options = ChromeOptions()
    own = f"--user-data-dir={profiles}/{slot.index}", f"--remote-debugging-port={9222 + slot.index}"
    for flag in (*flags, *own, "--headless=new"):
        options.add_argument(flag)
    return Chrome(options)


def reset(driver: Chrome) -> None:
    driver.get("about:blank")
    driver.execute("executeCdpCommand", {"cmd": "Network.clearBrowserCookies", "params": {}})


def is_well(driver: Chrome) -> bool:
    return is_connectable(9222 + current_slot().index) and bool(driver.window_handles)


def configure(profiles: str, flags: list[str]) -> Config[Chrome]:
    return Config(
        on_create=partial(start, profiles, flags),
        on_destroy=Chrome.quit,
        worker_count=2,
        max_worker_count=2,
        check_health=lambda error, driver: is_well(driver),
        on_check=is_well,
        on_reset=reset,
        on_abort=lambda driver: os.kill(driver.capabilities["goog:processID"], signal.SIGKILL),  # pyright: ignore
        run_timeout=10,
    )


def title(driver: Chrome, url: str) -> str:
    driver.get(url)
    return driver.title


def main(*arguments: str) -> None:
    flags = [argument for argument in arguments if argument.startswith("--")]
    with tempfile.TemporaryDirectory() as folder, TaskManager(configure(folder, flags)) as manager:
        print(*manager.map(title, arguments[len(flags) :], return_exceptions=True), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
