"""`Row`: one line of the table, and one of a result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from benchmarks.harness.rivals import TASKER
from benchmarks.harness.rounds import Spread
from benchmarks.harness.targets import Target

__all__ = ["Row", "workers_in_words"]


@dataclass(frozen=True)
class Row:
    """A measurement.

    `figures` are in `unit`, by the name of the rival or of another thing beside it.
    `ratio` compares two of them round by round, and `meaning` tells how. "times as
    fast" is another's figure divided by tasker's, and more is better. "of its time" and
    the like is a cost, and less is better.
    """

    name: str
    title: str
    unit: str
    figures: Mapping[str, Spread]
    ratio: Spread | None = None
    meaning: str = ""
    target: Target | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def met(self) -> bool | None:
        """Whether the target is reached.

        `None` if there is no target, or nothing to compare.
        """
        if self.target is None:
            return None
        if self.target.of == "tasker":
            return self.target.is_met_by(self.figures[TASKER].median)
        return None if self.ratio is None else self.target.is_met_by(self.ratio.median)

    def to_json(self) -> dict[str, Any]:
        """Return data for JSON, without empty fields.

        A spread is a list of its median and quartiles.
        """
        data = {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "ratio": None if self.ratio is None else _four_digits(self.ratio),
            "meaning": self.meaning,
            "target": None if self.target is None else asdict(self.target),
            "met": self.met(),
            "figures": {name: _four_digits(value) for name, value in self.figures.items()},
            "notes": list(self.notes),
        }
        return {key: value for key, value in data.items() if value not in (None, "", [])}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`."""
        return cls(
            name=data["name"],
            title=data["title"],
            unit=data["unit"],
            figures={name: Spread(*values) for name, values in data["figures"].items()},
            ratio=Spread(*data["ratio"]) if "ratio" in data else None,
            meaning=data.get("meaning", ""),
            target=Target(**data["target"]) if "target" in data else None,
            notes=tuple(data.get("notes", ())),
        )


def _four_digits(values: Spread) -> list[float]:
    """Round to four digits: no measurement is more exact."""
    return [float(f"{value:.4g}") for value in astuple(values)]


def workers_in_words(count: int) -> str:
    """Return the number in words, for titles."""
    return f"{count} worker{'s' * (count != 1)}"
