"""What may happen between two bytecodes, and where."""

from __future__ import annotations

import dis
import functools
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import tasker
from tasker._sync import locks


class Interrupter:
    """Raises once, at the `moment`-th bytecode that is executed in tasker; says afterwards where that was."""

    def __init__(self, moment: int, *, everywhere: bool) -> None:
        self.left = moment
        self.everywhere = everywhere
        self.where: str | None = None
        self.last: dict[FrameType, tuple[str, int]] = {}

    def __enter__(self) -> Interrupter:
        sys._getframe().f_trace_opcodes = True  # 3.12 asks for it before the trace is set
        sys.settrace(self.on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def on_call(self, frame: FrameType, event: str, arg: object) -> Any:
        caller = frame.f_back
        # back from a Python function Python does not look for signals, back from a constructor it may
        if (
            caller in self.last
            and self.last[caller][0] in ("CALL", "CALL_KW")
            and frame.f_code.co_name != "__init__"
        ):
            del self.last[caller]
        if not self.concerns(frame.f_globals.get("__name__", "")):
            return None
        frame.f_trace = self.on_bytecode  # 3.13 asks for it before the next line
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self.pass_moment(frame)  # 3.11 shows the entry only here
        return self.on_bytecode

    def on_bytecode(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and (self.runs_signal_handlers(frame) or self.everywhere):
            self.pass_moment(frame)
        return self.on_bytecode

    def pass_moment(self, frame: FrameType) -> None:
        self.left -= 1
        if not self.left:
            sys.settrace(None)
            self.where = (
                f"{frame.f_code.co_qualname}, line {frame.f_lineno}, {name_of_bytecode(frame)}"
            )
            self.act()

    def concerns(self, module: str) -> bool:
        return module.startswith("tasker.") and not module.startswith(
            "tasker.testing."
        )  # the resources: a user's code

    def act(self) -> None:
        raise KeyboardInterrupt

    def runs_signal_handlers(self, frame: FrameType) -> bool:
        name, at = name_of_bytecode(frame), frame.f_lasti
        last_name, last_at = self.last.get(frame, ("", -1))
        self.last[frame] = (name, at)
        called = last_name.startswith("CALL") and name != "PUSH_EXC_INFO"  # not if the call raised
        return called or at < last_at


def name_of_bytecode(frame: FrameType) -> str:
    return dis.opname[frame.f_code.co_code[frame.f_lasti]]


PACKAGE = str(Path(tasker.__file__).parent)


class StruckError(Exception):
    """What strikes."""


@functools.cache
def in_a_with(code) -> frozenset[int]:
    """The bytecodes next to the calls of `__enter__` and `__exit__` that a `with` makes: nothing but this test can
    strike there, where a lock would stay taken."""
    instructions = list(dis.get_instructions(code))
    names = [each.opname for each in instructions]
    found = set()
    for place, name in enumerate(names):
        if name == "BEFORE_WITH" or (
            name == "CALL" and place and names[place - 1] == "LOAD_SPECIAL"
        ):  # from 3.14 on
            found.add(instructions[place + 1].offset)
        if [each.argrepr for each in instructions[place : place + 3]] == ["None"] * 3:
            begin = place - (names[place - 1] == "SWAP")
            end = next(
                (later for later in range(place, len(names)) if names[later] == "CALL"), begin - 1
            )
            found |= {each.offset for each in instructions[begin : end + 1]}
    return frozenset(found)


def takes_lock(frame) -> bool:
    """Whether it is that of a lock which is taken in one step (on 3.14): nothing but this test can strike there."""
    return isinstance(frame.f_locals.get("self"), locks._LockInOneStep)
