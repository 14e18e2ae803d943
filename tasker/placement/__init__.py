"""Where resources live. `base` says what a placement is; each of the others is one."""

from tasker.placement.processes import beginning

__all__ = ["beginning"]
