"""What contexts hold."""

from __future__ import annotations

from tasker.context import _Followers


def told_by(ctx):
    """Whom it will tell of its end."""
    return ctx._followers or _Followers()
