"""Figures as SVG text: pure functions of numbers, no time or host in them.

Colours are Okabe and Ito's, told apart with any colour vision; every arm also has its own marker.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#222222", "#8a8a8a"
WIDE, SMALL = (6.4, 3.7), (3.1, 3.1)
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
class Point:
    """An arm at a label count: mean and interval (nan where there is none), in points.

    `dots` are the values of the replicates.
    """

    labelled: int
    mean: float
    low: float = math.nan
    high: float = math.nan
    dots: Sequence[float] = field(default=())


Curves = Mapping[str, Sequence[Point]]


def learning_curves(curves: Curves, name: str, validation: Mapping[int, int]) -> str:
    """Mean Dice of each arm against the number of labelled subjects, replicates as dots.

    `validation`: labelled count -> validation subjects used with it, which are labelled too.
    """

    def draw(axes: Axes) -> None:
        counts = sorted({p.labelled for points in curves.values() for p in points})
        apart = 0.025 * max(1.0, math.log2(counts[-1] / counts[0]))  # arms side by side
        for number, (arm, points) in enumerate(curves.items()):
            shift = 2 ** (apart * (number - (len(curves) - 1) / 2))
            x = shift * np.array([p.labelled for p in points])
            colour = COLOURS[number % len(COLOURS)]
            for centre, point in zip(x, points, strict=True):
                axes.plot(
                    [centre * 2 ** (0.4 * apart)] * len(point.dots),
                    point.dots,
                    "o",
                    ms=3.5,
                    mew=0,
                    c=colour,
                    alpha=0.45,
                )
            means = [p.mean for p in points]
            axes.errorbar(
                x, means, yerr=_bars(points), c=colour, lw=1.6, elinewidth=1.1, capsize=2.5,
                marker=MARKERS[number % len(MARKERS)], ms=6, label=arm,
            )  # fmt: skip
        _label_counts(axes, counts, validation)
        axes.set_ylabel("mean Dice (points)")
        axes.legend(loc="best")

    return render(draw, WIDE, name)


def differences(curves: Curves, name: str) -> str:
    """Paired difference of each arm to scratch with its interval, one row per label count."""
    rows = [(arm, point) for arm, points in curves.items() for point in points]
    arms = list(curves)

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, lw=0.9)
        for y, (arm, point) in enumerate(rows):
            number = arms.index(arm) + 1
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axes.errorbar(
                point.mean, y, xerr=_bars([point]), c=colour, marker=marker, ms=6, lw=1.6, capsize=3
            )
        axes.set_yticks(range(len(rows)))
        axes.set_yticklabels([f"{arm}, {point.labelled} labelled" for arm, point in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("Dice difference to training from scratch (points)")

    return render(draw, (WIDE[0], 0.9 + 0.33 * len(rows)), name)


def case_dots(
    scratch: Sequence[float],
    arm: Sequence[float],
    *,
    arm_name: str,
    title: str,
    limits: tuple[float, float],
    name: str,
) -> str:
    """Each test subject: its Dice after training from scratch (x) and with the arm (y)."""

    def draw(axes: Axes) -> None:
        axes.plot(limits, limits, color=FAINT, lw=0.9, ls=(0, (4, 3)))
        axes.plot(scratch, arm, "o", ms=5, mew=0.6, mec="white", c=COLOURS[1], alpha=0.85)
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=4)
        axes.set_xticks(shown := [t for t in ticks.tick_values(*limits) if 0 <= t <= 100])
        axes.set_yticks(shown)
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        axes.set_title(title)
        axes.set_xlabel("Dice from scratch (points)")
        axes.set_ylabel(f"Dice with {arm_name} (points)")

    return render(draw, SMALL, name)


def losses(
    logs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    chance: float | None,
    title: str,
    name: str,
) -> str:
    """Pretraining loss of each seed against the step, smoothed, with the chance level."""

    def draw(axes: Axes) -> None:
        for number, (label, (steps, values)) in enumerate(logs.items(), start=1):
            colour = COLOURS[number % len(COLOURS)]
            x, raw, smooth = smoothed(steps, values)
            axes.plot(x, raw, c=colour, lw=0.6, alpha=0.35)
            axes.plot(x, smooth, c=colour, lw=1.6, label=label)
        if chance is not None:
            axes.axhline(chance, color=INK, lw=0.9, ls=(0, (4, 3)), label="chance")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend(loc="best")

    return render(draw, (3.3, 2.5), name)


def smoothed(
    steps: Sequence[float], values: Sequence[float], *, points: int = 300, window: int = 9
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, values and their running mean, of at most `points` block means; nan left out."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    block = max(1, math.ceil(len(y) / points))
    edges = np.arange(0, len(y), block)
    if len(y):
        sizes = np.diff([*edges, len(y)])
        x, y = np.add.reduceat(x, edges) / sizes, np.add.reduceat(y, edges) / sizes
    half = window // 2
    mean = np.array([y[max(0, i - half) : i + half + 1].mean() for i in range(len(y))])
    return x, y, mean


def render(draw: Callable[[Axes], None], size: tuple[float, float], name: str) -> str:
    """Draw on fresh axes; `name` makes the ids of this SVG differ from those of any other."""
    style: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue(), name)


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


def _bars(points: Sequence[Point]) -> np.ndarray:
    return np.array([[p.mean - p.low for p in points], [p.high - p.mean for p in points]])


def _label_counts(axes: Axes, counts: Sequence[int], validation: Mapping[int, int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(counts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(counts), [f"{n} + {validation.get(n, 0)}" for n in counts])
    if len(counts) == 1:
        axes.set_xlim(counts[0] / 1.5, counts[0] * 1.5)
    axes.set_xlabel("labelled subjects: for training + for validation")
