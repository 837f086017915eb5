"""A drawn torso: organs in the places and of the looks they have in a T1-weighted MR image.

Everything random is drawn once per subject (`draw_torso`); `paint` then evaluates the torso at any
points, so that two visits, two grids and two orientations show the same anatomy. World axes are
RAS+ in mm from the centre of the body. Liver, spleen, kidneys, bowel and stomach overlap in
intensity on purpose: what tells them apart is place, texture and neighbourhood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Num, UInt8
from numpy.random import Generator

CLASSES = {"liver": 1, "spleen": 2, "kidneys": 3, "lesion": 4}
EDGE_MM = 3.0  # width of the transition between two tissues: about one voxel

Points = Float32[np.ndarray, "N 3"]
Values = Float32[np.ndarray, " N"]

# Mean signal of each tissue; a subject's own lies within some 10 % of it.
SIGNAL = {
    "fat": 0.88,
    "muscle": 0.36,
    "bone": 0.14,
    "marrow": 0.56,
    "disc": 0.34,
    "fluid": 0.16,
    "lung": 0.06,
    "blood": 0.86,
    "bowel": 0.46,
    "stomach": 0.44,
    "liver": 0.58,
    "spleen": 0.50,
    "cortex": 0.66,
    "medulla": 0.46,
    "lesion": 0.36,
}


@dataclass(frozen=True)
class Waves:
    """A smooth random field of variance 1: a sum of plane waves, defined at every point."""

    vectors: Float32[np.ndarray, "3 W"]
    phases: Float32[np.ndarray, " W"]

    def __call__(self, points: Points) -> Values:
        waves = np.cos(points @ self.vectors + self.phases)
        return waves.sum(axis=1) * np.float32(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Ellipsoid:
    """`axes` maps mm to units of the radii; `signal` in units of SIGNAL."""

    centre: Float32[np.ndarray, "3"]
    axes: Float32[np.ndarray, "3 3"]
    signal: float = 0.0

    def depth(self, points: Points) -> Values:
        """Distance to the surface in mm, positive inside (first order)."""
        inner = (points - self.centre) @ self.axes.T
        radius = np.linalg.norm(inner, axis=1)
        slope = np.linalg.norm(inner @ self.axes, axis=1)
        return (1 - radius) * (radius + 1e-3) / (slope + 1e-4)


@dataclass(frozen=True)
class Torso:
    """All that was drawn for one subject."""

    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    scale: Float32[np.ndarray, "3"]
    bend: tuple[Waves, Waves, Waves]
    signal: dict[str, float]
    organs: dict[str, Ellipsoid]
    lesions: tuple[Ellipsoid, ...]
    textures: dict[str, Waves]


def draw_torso(rng: Generator, *, lesions: bool) -> Torso:
    """Draw the anatomy of one subject: sizes, places, shapes, tissues, and 1 to 3 liver lesions."""
    organs = {
        name: _ellipsoid(rng, centre, radii, tilt, move=3.0, grow=0.1)
        for name, (centre, radii, tilt) in ORGANS.items()
    }
    found = []
    for number in range(int(rng.integers(1, 4)) if lesions else 0):
        # The first one is large and deep in the right lobe, so that a subject with lesions shows.
        largest = 14.0 if number == 0 else 10.0
        place = rng.uniform(-0.5, 0.5, 3) @ np.linalg.inv(organs["right lobe"].axes).T
        centre = organs["right lobe"].centre + place
        radii = rng.uniform(0.75, 1.0) * largest * rng.uniform(0.8, 1.0, 3)
        found.append(_ellipsoid(rng, centre, radii, 30, signal=rng.normal(1, 0.12)))
    return Torso(
        half_width_mm=float(rng.normal(70, 3)),
        half_depth_mm=float(rng.normal(52, 3)),
        fat_mm=float(rng.uniform(3, 9)),
        scale=rng.normal(1, 0.05, 3).astype(np.float32),
        bend=(_waves(rng, 80, 10), _waves(rng, 80, 10), _waves(rng, 80, 10)),
        signal={name: float(mean * rng.normal(1, 0.1)) for name, mean in SIGNAL.items()},
        organs=organs,
        lesions=tuple(found),
        textures={name: _waves(rng, *size) for name, size in TEXTURES.items()},
    )


# Centre and radii in mm (right, front, head) and largest random tilt in degrees.
ORGANS = {
    "right lobe": ((31, 3, 16), (27, 33, 33), 12),
    "left lobe": ((4, 19, 24), (29, 16, 17), 12),
    "spleen": ((-42, -14, 20), (14, 22, 25), 15),
    "left kidney": ((-29, -21, -14), (13, 12, 23), 12),
    "right kidney": ((31, -22, -22), (13, 12, 23), 12),
    "stomach": ((-24, 13, 15), (19, 18, 22), 20),
    "heart": ((-9, 12, 66), (27, 24, 22), 15),
    "gallbladder": ((22, 25, -11), (7, 7, 10), 20),
    "colon right": ((44, 8, -42), (11, 12, 26), 10),
    "colon left": ((-47, 2, -34), (9, 10, 30), 10),
}
# Length in mm over which a texture changes, and the number of its waves.
TEXTURES = {
    "fine": (9, 24),
    "coarse": (22, 16),
    "bowel": (20, 16),
    "vessel a": (34, 8),
    "vessel b": (34, 8),
}


def paint(torso: Torso, points: Points) -> tuple[Values, UInt8[np.ndarray, " N"]]:
    """Signal (air 0, fat about 0.9) and class of each point."""
    bend = np.stack([waves(points) for waves in torso.bend], axis=1)
    points = (points + np.float32(2.2) * bend) / torso.scale
    canvas = _Canvas(len(points))
    wall = _paint_walls(canvas, torso, points)
    _paint_bowel(canvas, torso, points, wall)
    _paint_organs(canvas, torso, points, wall)
    _paint_spine_and_vessels(canvas, torso, points)
    return canvas.signal, canvas.label


class _Canvas:
    """Later tissues cover earlier ones; a point belongs to the class that covers half of it."""

    def __init__(self, size: int) -> None:
        self.signal = np.zeros(size, np.float32)
        self.label = np.zeros(size, np.uint8)

    def cover(self, depth: Values, signal: Num[np.ndarray, " N"] | float, label: int = 0) -> None:
        part = np.clip(depth / np.float32(EDGE_MM) + np.float32(0.5), 0, 1)
        self.signal += part * (np.asarray(signal, np.float32) - self.signal)
        self.label[part > 0.5] = label


def _paint_walls(canvas: _Canvas, torso: Torso, points: Points) -> Values:
    """Skin fat, muscle wall with ribs, abdominal fat and lungs; return the depth of the cavity."""
    x, y, z = points.T
    waist = 1 - 0.05 * np.cos(z / 40) ** 2
    back = np.where(y < 0, np.float32(0.9), np.float32(1.0))
    width, depth = torso.half_width_mm * waist, torso.half_depth_mm * waist * back
    reach = (np.abs(x / width) ** 2.4 + np.abs(y / depth) ** 2.4) ** (1 / 2.4) + 1e-3
    body = (np.hypot(x, y) * (1 - reach) / reach).astype(np.float32)
    fat, muscle = torso.signal["fat"], torso.signal["muscle"]
    canvas.cover(body, fat)
    canvas.cover(body - torso.fat_mm, muscle * (1 + 0.06 * torso.textures["fine"](points)))
    wall = body - torso.fat_mm - 7
    ribs = 3 * np.cos(2 * np.pi * (z - 0.3 * y) / 19) - 1
    ribs = np.minimum(ribs, 2.5 - np.abs(wall + 3.5)) - np.maximum(0, -12 - z) / 4
    canvas.cover(ribs.astype(np.float32), torso.signal["bone"])
    canvas.cover(wall, fat * (0.92 + 0.05 * torso.textures["coarse"](points)))
    dome = ((np.abs(x) - 28) / 30) ** 2 + ((y - 2) / 42) ** 2
    lungs = np.minimum(np.minimum(z - 50 + 9 * dome, wall), np.abs(x) - 9)
    branches = 0.10 * np.maximum(0, torso.textures["fine"](points))
    canvas.cover(lungs.astype(np.float32), torso.signal["lung"] + branches)
    heart = np.minimum(torso.organs["heart"].depth(points), wall - 1)
    canvas.cover(heart, muscle * 1.1)
    canvas.cover(heart - 7, torso.signal["blood"] * 0.9)
    return wall


def _paint_bowel(canvas: _Canvas, torso: Torso, points: Points, wall: Values) -> None:
    """Loops below the stomach, colon with dark content, and the stomach."""
    loops = 4 * torso.textures["bowel"](points) + np.minimum(0, -6 - points[:, 2]) / 2
    content = torso.signal["bowel"] * (1 + 0.25 * torso.textures["coarse"](points))
    behind = points[:, 1] + 14  # the loops lie in front of spine and kidneys
    canvas.cover(np.minimum(np.minimum(loops, wall - 1), behind), content)
    for name in ("colon right", "colon left", "stomach"):
        depth = np.minimum(torso.organs[name].depth(points), wall - 1)
        own = torso.signal["stomach" if name == "stomach" else "bowel"]
        canvas.cover(depth, own * 1.15)
        canvas.cover(depth - 3, own * (0.85 + 0.22 * torso.textures["coarse"](points)))


def _paint_organs(canvas: _Canvas, torso: Torso, points: Points, wall: Values) -> None:
    fine, signal = torso.textures["fine"](points), torso.signal
    spleen = np.minimum(torso.organs["spleen"].depth(points), wall - 0.5)
    canvas.cover(spleen, signal["spleen"] * (1 + 0.10 * fine), CLASSES["spleen"])

    lobes = [torso.organs[name].depth(points) for name in ("right lobe", "left lobe")]
    liver = np.minimum(np.maximum(*lobes), wall - 0.5)
    a, b = torso.textures["vessel a"](points), torso.textures["vessel b"](points)
    vessels = np.exp(-(a**2 + b**2) / 0.09)
    tissue = signal["liver"] * (1 + 0.04 * torso.textures["coarse"](points))
    canvas.cover(liver, tissue + vessels * (signal["blood"] - tissue) * 0.8, CLASSES["liver"])

    for lesion in torso.lesions:
        depth = np.minimum(lesion.depth(points), liver - 1)
        value = lesion.signal * signal["lesion"] * (1 + 0.08 * fine)
        canvas.cover(depth, value, CLASSES["lesion"])
    canvas.cover(np.minimum(torso.organs["gallbladder"].depth(points), wall - 2), signal["fluid"])

    for name in ("left kidney", "right kidney"):
        depth = np.minimum(torso.organs[name].depth(points), wall)
        canvas.cover(depth + 3, signal["fat"])  # the capsule of fat
        canvas.cover(depth, signal["cortex"] * (1 + 0.05 * fine), CLASSES["kidneys"])
        pyramids = np.minimum(depth - 3.5, 2.5 * torso.textures["bowel"](points) + 1)
        canvas.cover(pyramids, signal["medulla"], CLASSES["kidneys"])
        canvas.cover(depth - 8, signal["fat"], CLASSES["kidneys"])


def _paint_spine_and_vessels(canvas: _Canvas, torso: Torso, points: Points) -> None:
    x, y, z = points.T
    signal, texture = torso.signal, torso.textures["coarse"](points)
    y = y - 2 * np.cos(z / 45)  # the spine is not straight

    def tube(right: float, front: float, rx: float, ry: float) -> Values:
        reach = np.sqrt(((x - right) / rx) ** 2 + ((y - front) / ry) ** 2)
        return ((1 - reach) * min(rx, ry)).astype(np.float32)

    for side in (-1, 1):
        canvas.cover(tube(side * 15, -36, 11, 7), signal["muscle"] * (1 + 0.08 * texture))
        psoas = tube(side * 15, -22, 7.5, 8) - np.maximum(0, z + 12) / 6
        canvas.cover(psoas, signal["muscle"] * (1 + 0.04 * texture))
    vertebra = tube(0, -24, 12.5, 9.5)
    canvas.cover(vertebra + 1.5, signal["bone"])
    discs = np.minimum(vertebra, 3 - np.abs((z + 80) % 27 - 13.5)).astype(np.float32)
    canvas.cover(vertebra, signal["marrow"] * (1 + 0.05 * texture))
    canvas.cover(discs, signal["disc"])
    canvas.cover(tube(0, -37, 5.5, 4), signal["fluid"])
    canvas.cover(tube(0, -37, 2.5, 2), signal["muscle"])  # the cord
    canvas.cover(tube(-6, -10, 5, 5), signal["blood"])
    canvas.cover(tube(9, -10, 6, 5), signal["blood"] * 0.93)


def _waves(rng: Generator, length_mm: float, count: int) -> Waves:
    """Plane waves of random directions and of lengths about `length_mm`."""
    directions = rng.normal(size=(3, count))
    directions /= np.linalg.norm(directions, axis=0)
    lengths = length_mm * rng.uniform(0.7, 1.4, count)
    return Waves(
        (2 * np.pi * directions / lengths).astype(np.float32),
        rng.uniform(0, 2 * np.pi, count).astype(np.float32),
    )


def _ellipsoid(
    rng: Generator,
    centre: tuple[float, ...] | Num[np.ndarray, "3"],
    radii: tuple[float, ...] | Num[np.ndarray, "3"],
    tilt_degrees: float,
    *,
    move: float = 0.0,
    grow: float = 0.0,
    signal: float = 0.0,
) -> Ellipsoid:
    """An ellipsoid moved (mm), grown (share) and tilted at random."""
    grown = np.asarray(radii) * rng.normal(1, grow, 3).clip(0.7, 1.3)
    rotation = small_rotation(rng, tilt_degrees)
    return Ellipsoid(
        (np.asarray(centre) + rng.normal(0, move, 3)).astype(np.float32),
        (rotation.T / grown[:, None]).astype(np.float32),
        float(signal),
    )


def small_rotation(rng: Generator, largest_degrees: float) -> Num[np.ndarray, "3 3"]:
    """A rotation about a random axis by at most `largest_degrees`."""
    from scipy.spatial.transform import Rotation

    axis = rng.normal(size=3)
    angle = np.deg2rad(rng.uniform(-largest_degrees, largest_degrees))
    return Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
