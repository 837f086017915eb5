"""How figures are drawn: one look, as SVG for the page and as PNG for slides.

No time or host in them. Colours are Okabe and Ito's, told apart with any colour vision; every arm
also has its own marker.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#222222", "#8a8a8a"
WIDE, SMALL = (6.6, 3.9), (3.1, 3.1)
PNG_DPI = 200
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """What to draw on fresh axes of a size in inches; `name` is its file's stem."""

    draw: Callable[[Axes], None]
    size: tuple[float, float]
    name: str

    def svg(self) -> str:
        """SVG to stand in a page: `name` makes its ids differ from those of any other."""
        return _inline(render(self, "svg").decode(), self.name)

    def png(self) -> bytes:
        return render(self, "png")


def render(drawing: Drawing, kind: str) -> bytes:
    """The bytes of an SVG (clear ground) or PNG (white ground) file."""
    style: Any = {**STYLE, "svg.hashsalt": drawing.name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(figure.add_subplot())
        file = io.BytesIO()
        if kind == "svg":
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        else:
            plain = {"Software": None}
            figure.savefig(file, format="png", dpi=PNG_DPI, facecolor="white", metadata=plain)
    return file.getvalue()


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def shade(number: int, place: int, of: int) -> str:
    """Colour `number`, the lighter the later its `place` among `of` lines that share it."""
    light = 0.0 if of < 2 else 0.6 * place / (of - 1)
    channels = [int(colour(number)[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(value + light * (255 - value)):02x}" for value in channels)


def marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _inline(svg: str, name: str) -> str:
    """Without XML head and metadata, scaling with its column, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    width = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    pixels = round(float(width[1]) * 4 / 3) if width else 600
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" style="width:{pixels}px"', 1).strip()
