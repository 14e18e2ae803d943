"""Pictures as SVG text: rectangles, lines and words, for a light or dark background.

Nothing in a picture depends on the page around it, because GitHub shows images without
scripts and style sheets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

__all__ = ["DARK", "LIGHT", "Drawing", "Palette", "width_of"]

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """Colours that are legible on `background`, for the colour-blind too."""

    background: str
    text: str
    muted: str
    grid: str
    plain: str
    context: str
    baseline: str


LIGHT = Palette("#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#bc4c00", "#818b98")
DARK = Palette("#0d1117", "#f0f6fc", "#9198a1", "#30363d", "#4493f8", "#f0883e", "#818b98")


def width_of(text: str, size: float) -> float:
    """Return about so many pixels, rather too many than too few: fonts differ."""
    return len(text) * size * 0.56


@dataclass
class Drawing:
    """A picture's elements, from the back to the front, in pixels from the top left."""

    palette: Palette
    elements: list[str] = field(default_factory=list)

    def rectangle(self, left: float, top: float, width: float, height: float, color: str) -> None:
        """Draw a filled rectangle."""
        place = f'x="{_pixels(left)}" y="{_pixels(top)}"'
        size = f'width="{_pixels(width)}" height="{_pixels(height)}"'
        self.elements.append(f'<rect {place} {size} fill="{color}"/>')

    def line(
        self, start: tuple[float, float], end: tuple[float, float], color: str, dashes: str = ""
    ) -> None:
        """Draw a line of one pixel."""
        (x1, y1), (x2, y2) = start, end
        place = f'x1="{_pixels(x1)}" y1="{_pixels(y1)}" x2="{_pixels(x2)}" y2="{_pixels(y2)}"'
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.elements.append(f'<line {place} stroke="{color}"{dashed}/>')

    def text(
        self,
        x: float,
        y: float,
        words: str,
        color: str,
        *,
        size: float = 12,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write one line of words.

        `y` is the place of its base line. `x` is the place of its start, middle or end,
        as `anchor` tells.
        """
        place = f'x="{_pixels(x)}" y="{_pixels(y)}" font-size="{_pixels(size)}"'
        anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
        weight = ' font-weight="600"' if bold else ""
        self.elements.append(
            f'<text {place}{anchored}{weight} fill="{color}">{escape(words)}</text>'
        )

    def as_text(self, width: float, height: float, title: str, description: Sequence[str]) -> str:
        """Return the file's text.

        `title` and `description` are for readers who cannot see the picture.
        """
        size = f'width="{_pixels(width)}" height="{_pixels(height)}"'
        box = f'viewBox="0 0 {_pixels(width)} {_pixels(height)}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img"'
            ' aria-labelledby="title description"',
            f'  font-family="{FONT}">',
            f'<title id="title">{escape(title)}</title>',
            '<desc id="description">',
            *map(escape, description),
            "</desc>",
            f'<rect x="0" y="0" {size} rx="6" fill="{self.palette.background}"/>',
            *self.elements,
            "</svg>",
        ]

        return "\n".join(lines) + "\n"


def _pixels(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
