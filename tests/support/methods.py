"""The names of the twelve methods."""

from __future__ import annotations

KINDS = ("", "_once", "_with_priority", "_with_priority_once")
WAYS = ("", "_with_callback", "_async")

TWELVE = [f"queue_task{kind}{way}" for kind in KINDS for way in WAYS]
