"""The figures of a report: pure functions of numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from medcl.study.drawing import FAINT, INK, SMALL, WIDE, Drawing, colour, marker, shade

DASHED = (0, (4, 3))


@dataclass(frozen=True)
class Point:
    """An arm at a label count: mean and interval (nan where there is none), as shown.

    `dots` are the values of the replicates; `seconds` what one model costs.
    """

    labelled: int
    mean: float
    low: float = math.nan
    high: float = math.nan
    dots: Sequence[float] = field(default=())
    seconds: float = math.nan


@dataclass(frozen=True)
class Row:
    """A line of a forest plot: a class and an arm, with the number that is the arm's colour."""

    label: str
    number: int
    point: Point
    group: str


Curves = Mapping[str, Sequence[Point]]


def learning_curves(
    curves: Curves,
    name: str,
    validation: Mapping[int, int],
    *,
    quantity: str,
    bounds: Mapping[str, float],
    numbers: Mapping[str, int],
) -> Drawing:
    """Mean of each arm against the number of labelled subjects, replicates as dots.

    `validation`: labelled count -> validation subjects used with it, which are labelled too.
    `bounds`: arm -> its mean with every labelled subject, drawn as a line. `numbers`: of the
    arms' colours and markers, the same in every figure.
    """

    def draw(axes: Axes) -> None:
        counts = sorted({p.labelled for points in curves.values() for p in points})
        apart = _apart(counts, len(curves))
        for place, (arm, points) in enumerate(curves.items()):
            x, number = _beside(points, place, len(curves), apart), numbers[arm]
            for centre, point in zip(x, points, strict=True):
                axes.plot(
                    [centre * 2 ** (0.4 * apart)] * len(point.dots), point.dots, "o",
                    ms=3.5, mew=0, c=colour(number), alpha=0.45,
                )  # fmt: skip
            axes.errorbar(
                x, [p.mean for p in points], yerr=_bars(points), c=colour(number), lw=1.6,
                elinewidth=1.1, capsize=2.5, marker=marker(number), ms=6, label=arm,
            )  # fmt: skip
        for arm, value in bounds.items():
            shade = colour(numbers[arm])
            axes.axhline(value, color=shade, lw=1.1, ls=DASHED, label=f"{arm}, all labels")
        _label_counts(axes, counts, validation)
        axes.set_ylabel(f"mean {quantity}")
        _legend_above(axes)

    return Drawing(draw, WIDE, name)


def gains(curves: Curves, name: str, *, quantity: str, numbers: Mapping[str, int]) -> Drawing:
    """Paired difference of each arm to the control against the number of labelled subjects."""

    def draw(axes: Axes) -> None:
        counts = sorted({p.labelled for points in curves.values() for p in points})
        apart = _apart(counts, len(curves))
        axes.axhline(0, color=INK, lw=0.9)
        for place, (arm, points) in enumerate(curves.items()):
            number = numbers[arm]
            axes.errorbar(
                _beside(points, place, len(curves), apart), [p.mean for p in points],
                yerr=_bars(points), c=colour(number), lw=1.6, elinewidth=1.1, capsize=2.5,
                marker=marker(number), ms=6, label=arm,
            )  # fmt: skip
        _label_counts(axes, counts, None)
        axes.set_ylabel(quantity)
        _legend_above(axes)

    return Drawing(draw, (WIDE[0], 3.4), name)


def costs(curves: Curves, name: str, *, quantity: str, numbers: Mapping[str, int]) -> Drawing:
    """Mean of each arm against what one model costs; label counts stand beside the markers."""

    def draw(axes: Axes) -> None:
        for place, (arm, points) in enumerate(curves.items()):
            number = numbers[arm]
            shown = [p for p in points if math.isfinite(p.seconds) and p.seconds > 0]
            axes.plot(
                [p.seconds for p in shown], [p.mean for p in shown], c=colour(number), lw=1.0,
                marker=marker(number), ms=6, label=arm,
            )  # fmt: skip
            left = place % 2 == 1  # neighbours of nearly the same cost keep their numbers apart
            for p in shown:
                axes.annotate(
                    str(p.labelled), (p.seconds, p.mean), xytext=(-6 if left else 6, 3),
                    textcoords="offset points", ha="right" if left else "left", fontsize=8.5,
                    color=colour(number),
                )  # fmt: skip
        axes.set_xscale("log")
        seconds = [p.seconds for points in curves.values() for p in points]
        ticks = time_ticks([s for s in seconds if math.isfinite(s) and s > 0])
        axes.set_xlim(0.9 * ticks[0], 1.1 * ticks[-1])
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: time_label(value)))
        axes.set_xlabel("time of pretraining and fine-tuning of one model")
        axes.set_ylabel(f"mean {quantity}")
        _legend_above(axes)

    return Drawing(draw, WIDE, name)


UNITS = {"h": 3600, "min": 60, "s": 1}
TIMES = sorted(
    [n * UNITS[unit] for unit in ("s", "min") for n in (1, 2, 5, 10, 20, 30)]
    + [n * 10**power * UNITS["h"] for power in range(4) for n in (1, 2, 5)]
)


def time_ticks(seconds: Sequence[float]) -> list[float]:
    """Round times from the last one below all `seconds` to the first one above; at most eight."""
    low = max((t for t in TIMES if t <= min(seconds)), default=TIMES[0])
    high = min((t for t in TIMES if t >= max(seconds) and t > low), default=TIMES[-1])
    ticks = [float(t) for t in TIMES if low <= t <= high]
    return [*ticks[: -1 : math.ceil(len(ticks) / 7)], ticks[-1]]


def time_label(seconds: float) -> str:
    """`30 s`, `1 min`, `2 h`."""
    unit = next((unit for unit, size in UNITS.items() if seconds >= size - 1e-6), "s")
    return f"{seconds / UNITS[unit]:.3g} {unit}"


def forest(
    rows: Sequence[Row],
    name: str,
    *,
    title: str,
    quantity: str,
    limits: tuple[float, float] | None = None,
) -> Drawing:
    """Differences with their intervals, one line each, with a gap between groups.

    `limits`: of the axis, where several forests are to be compared.
    """
    places, y = [], 0.0
    for number, row in enumerate(rows):
        y += 0.0 if not number else 1.0 if row.group == rows[number - 1].group else 1.5
        places.append(y)

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, lw=0.9)
        for place, row in zip(places, rows, strict=True):
            axes.errorbar(
                row.point.mean, place, xerr=_bars([row.point]), c=colour(row.number),
                marker=marker(row.number), ms=5, lw=1.5, capsize=2.5,
            )  # fmt: skip
        axes.set_yticks(places, [row.label for row in rows])
        axes.set_ylim(places[-1] + 0.7, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if limits is not None:
            axes.set_xlim(limits)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(title)
        axes.set_xlabel(quantity)

    return Drawing(draw, (3.3, 1.0 + 0.24 * (places[-1] + 1)), name)


def case_dots(
    scratch: Sequence[float],
    arm: Sequence[float],
    *,
    names: tuple[str, str],
    title: str,
    limits: tuple[float, float],
    quantity: str,
    name: str,
    number: int,
) -> Drawing:
    """Each test subject: its value with the control (x) and with the arm (y)."""

    def draw(axes: Axes) -> None:
        axes.plot(limits, limits, color=FAINT, lw=0.9, ls=DASHED)
        axes.plot(scratch, arm, "o", ms=5, mew=0.6, mec="white", c=colour(number), alpha=0.85)
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=4)
        shown = [t for t in ticks.tick_values(*limits) if limits[0] <= t <= limits[1]]
        axes.set_xticks(shown)
        axes.set_yticks(shown)
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        axes.set_title(title)
        axes.set_xlabel(f"{quantity}, {names[0]}")
        axes.set_ylabel(f"{quantity}, {names[1]}")

    return Drawing(draw, SMALL, name)


def losses(
    logs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    chance: tuple[Sequence[float], Sequence[float]],
    title: str,
    name: str,
    number: int,
) -> Drawing:
    """Pretraining loss of each seed against the step, smoothed, with the chance level.

    `chance`: steps and the level at each, which is not drawn where it is not known. Seeds are
    shades of the arm's colour.
    """

    def draw(axes: Axes) -> None:
        for place, (label, (steps, values)) in enumerate(logs.items()):
            x, raw, smooth = smoothed(steps, values)
            tone = shade(number, place, len(logs))
            axes.plot(x, raw, c=tone, lw=0.6, alpha=0.35)
            axes.plot(x, smooth, c=tone, lw=1.6, label=label)
        x, _, level = smoothed(*chance)
        if len(x):
            axes.plot(x, level, c=INK, lw=0.9, ls=DASHED, label="chance")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel(f"loss of {title}")
        _legend_above(axes, columns=2, size=8.5)

    return Drawing(draw, (3.3, 2.9), name)


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


def _legend_above(axes: Axes, columns: int = 4, size: float = 10) -> None:
    """Outside the axes, where it hides nothing, and without taking from their width."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.01), borderaxespad=0.0, ncols=columns,
        fontsize=size, columnspacing=1.4, handlelength=1.8,
    )  # fmt: skip


def _bars(points: Sequence[Point]) -> np.ndarray:
    return np.array([[p.mean - p.low for p in points], [p.high - p.mean for p in points]])


def _apart(counts: Sequence[int], arms: int) -> float:
    """Distance of neighbouring arms at one label count, in octaves.

    All arms together take no more than half of the way to the next label count.
    """
    steps = [math.log2(b / a) for a, b in itertools.pairwise(counts)]
    wide = 0.045 * max(1.0, math.log2(counts[-1] / counts[0]))
    return min(wide, 0.5 * min(steps, default=1.0) / max(1, arms))


def _beside(points: Sequence[Point], number: int, arms: int, apart: float) -> np.ndarray:
    """Label counts, moved so that arm `number` stands beside the others."""
    return 2 ** (apart * (number - (arms - 1) / 2)) * np.array([p.labelled for p in points])


def _label_counts(axes: Axes, counts: Sequence[int], validation: Mapping[int, int] | None) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(counts)))
    axes.xaxis.set_minor_locator(NullLocator())
    words = [f"{n} + {validation.get(n, 0)}" if validation is not None else str(n) for n in counts]
    axes.set_xticks(list(counts), words)
    if len(counts) == 1:
        axes.set_xlim(counts[0] / 1.5, counts[0] * 1.5)
    both = validation is not None
    axes.set_xlabel(
        "labelled subjects: for training + for validation" if both else "labelled subjects"
    )
