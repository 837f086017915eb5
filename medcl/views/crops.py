"""Boxes in a volume: random crops, grids of cells, and how much of one lies in another.

A box is (first voxel, voxel after the last one) of each axis, as `StoredVolume.read` takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Bool, Float

from medcl.data.store import Box, Triple

AIR = 0.1  # above the value outside the volume; voxels are in 0..1 or in standard deviations


def is_tissue(
    values: Float[np.ndarray, "C X Y Z"], fill: Sequence[float]
) -> Bool[np.ndarray, "X Y Z"]:
    """Tell which voxels are brighter, in any channel, than what is outside the volume."""
    air = np.array(fill, np.float32)[:, None, None, None] + AIR
    return np.any(values > air, axis=0)


def box_at(corner: Sequence[int], size: Sequence[int]) -> Box:
    """Box of `size` voxels whose first voxel is `corner`."""
    x, y, z = corner
    i, j, k = size
    return (x, y, z), (x + i, y + j, z + k)


def random_box(shape: Triple, body: Box, size: Triple, rng: np.random.Generator) -> Box:
    """Draw a box of `size` voxels inside the body, or around it where the body is smaller.

    It leaves the volume only along an axis on which the volume is smaller than the box; it then
    holds the whole of that axis, at any place.
    """
    corner = []
    for length, low, high, side in zip(shape, *body, size, strict=True):
        first, last = sorted((low, high - side))
        edges = sorted((0, length - side))
        first, last = max(first, edges[0]), min(last, edges[1])
        corner.append(int(rng.integers(first, last + 1)))
    return box_at(corner, size)


def grid_boxes(corner: Sequence[int], cell: Triple, grid: Triple) -> list[Box]:
    """Cells of a grid that starts at voxel `corner`; the last axis runs fastest."""
    places = product(*(range(count) for count in grid))
    return [
        box_at([c + i * n for c, i, n in zip(corner, place, cell, strict=True)], cell)
        for place in places
    ]


def overlap_fractions(crops: Sequence[Box], cells: Sequence[Box]) -> Float[np.ndarray, "N K"]:
    """Share of each crop's volume that lies in each cell; a row sums to 1 inside the grid."""
    inner = np.asarray(crops, np.float64).reshape(-1, 1, 2, 3)
    outer = np.asarray(cells, np.float64).reshape(1, -1, 2, 3)
    first = np.maximum(inner[:, :, 0], outer[:, :, 0])
    last = np.minimum(inner[:, :, 1], outer[:, :, 1])
    common = np.clip(last - first, 0, None).prod(-1)
    return common / (inner[:, :, 1] - inner[:, :, 0]).prod(-1)
