"""Drawn tissue: stroma, glands and tumour, painted at any magnification.

A gland is a unit of fourteen nuclei in a ring around one lumen. A tumour has units of the same
fourteen nuclei, from the same sizes and stains, scattered, and the area of the lumen is divided
among eight small gaps. So a share of tumour has the mean colour and the nuclear area of the same
share of glands, and only the arrangement tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy.random import Generator
from PIL import Image

CLASSES = ("glass", "stroma", "glands", "tumour")
TRUTH_MICRONS = 4.0  # side of a pixel of the map of classes

NUCLEI, GAPS = 14, 8
RING_UM, LUMEN_UM = 16.0, 9.0
UNIT_UM = 52.0  # from a unit to its neighbours
NEAREST_UM = 7.2  # between the centres of scattered nuclei
SPINDLE_UM2 = 280.0  # of stroma a nucleus
AXES_UM = np.array([3.6, 2.6])
SPINDLE_AXES_UM = np.array([6.5, 1.6])
LAYOUTS = 48  # scattered units to choose from; each is turned at random besides
# Optical density of red, green and blue per stain: Ruifrok and Johnston 2001.
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
STRENGTH = 1.6
TRIES = 1500  # places for lobules


@dataclass(frozen=True)
class Lobule:
    """A disc of glands or of tumour; lengths in micrometres."""

    x: float
    y: float
    radius: float
    tumour: bool


@dataclass(frozen=True)
class Section:
    """What lies on the glass: an outline (radius by angle, as waves) and its lobules."""

    size: tuple[float, float]
    waves: Float[np.ndarray, "k 2"]
    lobules: tuple[Lobule, ...]

    def holds(self, x: np.ndarray, y: np.ndarray) -> Bool[np.ndarray, "..."]:
        """Whether points (micrometres) lie in the tissue."""
        half_width, half_height = self.size[0] / 2, self.size[1] / 2
        across, down = x / half_width - 1, y / half_height - 1
        angle = np.arctan2(down, across)
        radius = np.full_like(angle, 0.8)
        for number, (height, phase) in enumerate(self.waves, start=2):
            radius += height * np.cos(number * angle + phase)
        return np.hypot(across, down) < radius

    def classes(self) -> UInt8[np.ndarray, "h w"]:
        """The map of classes, TRUTH_MICRONS a pixel."""
        columns, rows = (round(side / TRUTH_MICRONS) for side in self.size)
        y, x = np.mgrid[:rows, :columns].astype(np.float32)
        x, y = (x + 0.5) * TRUTH_MICRONS, (y + 0.5) * TRUTH_MICRONS
        inside = self.holds(x, y)
        found = inside.astype(np.uint8)
        for lobule in self.lobules:
            disc = np.hypot(x - lobule.x, y - lobule.y) < lobule.radius
            found[disc & inside] = CLASSES.index("tumour" if lobule.tumour else "glands")
        return found


def draw_section(size: tuple[float, float], tumour: bool, rng: Generator) -> Section:
    """Draw an outline and lobules for a glass of `size` micrometres.

    About two fifths of the tissue are lobules, whatever the label. Where `tumour`, one of them is,
    or two on a large section.
    """
    waves = np.column_stack((rng.uniform(0, 0.05, 4), rng.uniform(0, 2 * np.pi, 4)))
    bare = Section(size, waves, ())
    wanted = 0.5 * float((bare.classes() > 0).sum()) * TRUTH_MICRONS**2
    lobules: list[Lobule] = []
    around = np.linspace(0, 2 * np.pi, 12)
    for _ in range(TRIES):
        radius = rng.uniform(65, 100)
        x, y = rng.uniform(radius / 2, np.array(size) - radius / 2)
        if any(np.hypot(x - o.x, y - o.y) < radius + o.radius + 6 for o in lobules):
            continue
        if bare.holds(x + radius * np.cos(around), y + radius * np.sin(around)).all():
            lobules.append(Lobule(float(x), float(y), float(radius), False))
        if sum(np.pi * lobule.radius**2 for lobule in lobules) > wanted:
            break
    if not lobules:  # a small piece: there is room in the middle
        lobules.append(Lobule(size[0] / 2, size[1] / 2, 65.0, False))
    if tumour:
        many = 2 if len(lobules) >= 10 else 1
        for index in rng.choice(len(lobules), many, replace=False):
            old = lobules[index]
            lobules[index] = Lobule(old.x, old.y, old.radius, True)
    return Section(size, waves, tuple(lobules))


def paint(section: Section, microns_per_pixel: float, rng: Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Stain and scan a section. Strength of the stains and light differ from scan to scan."""
    width, height = (round(side / microns_per_pixel) for side in section.size)
    classes = section.classes()
    inside = _enlarged((classes > 0).astype(np.float32), width, height)
    eosin = inside * (0.28 + 0.05 * _clouds(width, height, 40 / microns_per_pixel, rng))
    eosin += inside * 0.04 * _clouds(width, height, 5 / microns_per_pixel, rng)
    blue = 0.06 * inside
    canvas = _Canvas(blue, eosin, microns_per_pixel, rng)
    for lobule in section.lobules:
        _fill(canvas, lobule, section, rng)
    _spindles(canvas, section, classes, rng)
    strength = rng.uniform(0.75, 1.25, 2)
    light = rng.uniform(236, 248) + rng.uniform(-3, 3, 3)
    noise = 2.5 * rng.standard_normal((height, width), dtype=np.float32)
    image = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        per_stain = STRENGTH * strength * (HAEMATOXYLIN[channel], EOSIN[channel])
        density = np.float32(per_stain[0]) * blue + np.float32(per_stain[1]) * eosin
        seen = np.float32(light[channel]) * np.exp(-density) + noise
        image[..., channel] = np.clip(np.rint(seen), 0, 255)
    return image


class _Canvas:
    """The two stains as fields; stamps are painted into them."""

    def __init__(
        self,
        blue: Float32[np.ndarray, "h w"],
        eosin: Float32[np.ndarray, "h w"],
        microns: float,
        rng: Generator,
    ) -> None:
        self.blue, self.eosin, self.microns, self.rng = blue, eosin, microns, rng

    def nucleus(self, x: float, y: float, axes: np.ndarray, angle: float) -> None:
        size = self.rng.uniform(0.88, 1.12)
        stamp = _ellipse(*(round(float(a * size), 1) for a in axes), _turn(angle), self.microns)
        window, part = self._place(x, y, stamp)
        dark = np.float32(self.rng.uniform(0.5, 0.75))
        np.maximum(self.blue[window], dark * part, out=self.blue[window])

    def gap(self, x: float, y: float, radius: float) -> None:
        """A hole in the cytoplasm; the blue of nuclei stays."""
        window, part = self._place(
            x, y, _ellipse(round(radius, 2), round(radius, 2), 0, self.microns)
        )
        self.eosin[window] *= 1 - np.float32(0.9) * part

    def _place(
        self, x: float, y: float, stamp: Float32[np.ndarray, "s s"]
    ) -> tuple[tuple[slice, slice], Float32[np.ndarray, "a b"]]:
        """Where a stamp around (x, y) micrometres lies, and what of it is on the glass."""
        half = len(stamp) // 2
        starts = round(y / self.microns) - half, round(x / self.microns) - half
        window, part = [], []
        for start, length in zip(starts, self.blue.shape, strict=True):
            low, high = max(start, 0), max(min(start + len(stamp), length), 0)
            window.append(slice(low, max(high, low)))
            part.append(slice(low - start, max(high, low) - start))
        return (window[0], window[1]), stamp[part[0], part[1]]


def _fill(canvas: _Canvas, lobule: Lobule, section: Section, rng: Generator) -> None:
    """Units on a hexagonal lattice that is turned and moved at random."""
    many = int(lobule.radius / UNIT_UM * 2) + 2
    row, column = np.mgrid[-many : many + 1, -many : many + 1]
    x = (column + 0.5 * (row % 2)).ravel() * UNIT_UM + rng.uniform(-26, 26)
    y = row.ravel() * UNIT_UM * 0.866 + rng.uniform(-26, 26)
    angle = rng.uniform(0, 2 * np.pi)
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    for a, b in zip(x, y, strict=True):
        if np.hypot(a, b) > lobule.radius - UNIT_UM * 0.3:
            continue
        centre = np.array([lobule.x + a, lobule.y + b]) + rng.normal(0, 1.5, 2)
        (_scattered if lobule.tumour else _gland)(canvas, centre, rng)


def _gland(canvas: _Canvas, centre: np.ndarray, rng: Generator) -> None:
    angles = np.arange(NUCLEI) * 2 * np.pi / NUCLEI + rng.normal(0, 0.05, NUCLEI)
    for angle in angles + rng.uniform(0, 2 * np.pi):
        x, y = centre + (RING_UM + rng.normal(0, 0.7)) * np.array([np.cos(angle), np.sin(angle)])
        canvas.nucleus(x, y, AXES_UM, angle)
    canvas.gap(centre[0], centre[1], LUMEN_UM)


def _scattered(canvas: _Canvas, centre: np.ndarray, rng: Generator) -> None:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = _layouts()[int(rng.integers(LAYOUTS))] @ turn.T + centre
    for x, y in places[:NUCLEI]:
        canvas.nucleus(x, y, AXES_UM, rng.uniform(0, np.pi))
    for x, y in places[NUCLEI:]:
        canvas.gap(x, y, LUMEN_UM / GAPS**0.5)  # together the area of a lumen


def _spindles(
    canvas: _Canvas, section: Section, classes: UInt8[np.ndarray, "h w"], rng: Generator
) -> None:
    """Long nuclei along the fibres of the stroma, whose direction changes slowly."""
    rows, columns = np.nonzero(classes == CLASSES.index("stroma"))
    many = round(len(rows) * TRUTH_MICRONS**2 / SPINDLE_UM2)
    phase, slope = rng.uniform(0, np.pi), rng.uniform(-0.01, 0.01, 2)
    for index in rng.integers(len(rows), size=many):
        x = (columns[index] + rng.random()) * TRUTH_MICRONS
        y = (rows[index] + rng.random()) * TRUTH_MICRONS
        angle = phase + slope[0] * x + slope[1] * y + rng.normal(0, 0.2)
        canvas.nucleus(x, y, SPINDLE_AXES_UM, angle)


@lru_cache(maxsize=1)
def _layouts() -> Float[np.ndarray, "L m 2"]:
    """Scattered units: nuclei, then gaps, none nearer to another than NEAREST_UM."""
    rng = np.random.default_rng(7)  # the same in every phantom, as the shape of a gland is
    found: list[np.ndarray] = []
    while len(found) < LAYOUTS:
        places: list[np.ndarray] = []
        for _ in range(600):
            radius, angle = 24 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            place = radius * np.array([np.cos(angle), np.sin(angle)])
            if all(np.hypot(*(place - other)) > NEAREST_UM for other in places):
                places.append(place)
            if len(places) == NUCLEI + GAPS:
                found.append(rng.permutation(np.array(places)))
                break
    return np.array(found)


@lru_cache(maxsize=4096)
def _ellipse(a: float, b: float, turn: int, microns: float) -> Float32[np.ndarray, "s s"]:
    """A filled ellipse of half axes `a`, `b` (micrometres), its edge one pixel soft."""
    half = int(np.ceil(max(a, b) / microns)) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1] * microns
    angle = turn * np.pi / 16
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = (1 - np.hypot(along / a, across / b)) * min(a, b) / microns + 0.5
    return np.clip(inside, 0, 1).astype(np.float32)


def _turn(angle: float) -> int:
    return round(angle / np.pi * 16) % 16


def _clouds(width: int, height: int, pixels: float, rng: Generator) -> Float32[np.ndarray, "h w"]:
    """Smooth noise of variance near 1 whose structures are about `pixels` wide."""
    small = rng.standard_normal(
        (max(2, round(height / pixels)), max(2, round(width / pixels))), dtype=np.float32
    )
    return _enlarged(small, width, height)


def _enlarged(
    field: Float32[np.ndarray, "a b"], width: int, height: int
) -> Float32[np.ndarray, "h w"]:
    image = Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(image, np.float32)
