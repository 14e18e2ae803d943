"""`Row`: one line of the table and one entry of the JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.rivals import TASKER
from benchmarks.rounds import Spread, spread
from benchmarks.targets import Target

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """What was measured.

    `samples`: one value a round, in `unit`, by the name of the rival or of what else was measured beside it. `ratio`
    is tasker's to ThreadPoolExecutor (or to what `meaning` says), `meaning` how to read it."""

    name: str
    title: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    ratio: Spread | None = None
    meaning: str = ""
    target: Target | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def medians(self) -> dict[str, Spread]:
        """Median and quartiles, by name."""
        return {name: spread(values) for name, values in self.samples.items()}

    def met(self) -> bool | None:
        """Whether the target is reached; `None` where there is none, or nothing to compare."""
        if self.target is None:
            return None
        if self.target.of == "tasker":
            return self.target.is_met_by(self.medians()[TASKER].median)
        return None if self.ratio is None else self.target.is_met_by(self.ratio.median)

    def to_json(self) -> dict[str, Any]:
        """Everything, and what can be computed from it."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "ratio": None if self.ratio is None else vars(self.ratio),
            "meaning": self.meaning,
            "target": None if self.target is None else vars(self.target),
            "met": self.met(),
            "medians": {name: vars(value) for name, value in self.medians().items()},
            "samples": {name: list(values) for name, values in self.samples.items()},
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`."""
        return cls(
            name=data["name"],
            title=data["title"],
            unit=data["unit"],
            samples=data["samples"],
            ratio=Spread(**data["ratio"]) if data["ratio"] else None,
            meaning=data["meaning"],
            target=Target(**data["target"]) if data["target"] else None,
            notes=tuple(data["notes"]),
        )
