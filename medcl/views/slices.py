"""Slices and slabs by normalised position: partition k of P holds the slices s with

    floor(P s / S) = k        of the S slices of the body, counted from its first one

so the same partition of two subjects shows about the same anatomy, every slice belongs to a
partition for any P, and no partition is empty as long as there are as many slices. Slabs of d
slices are partitioned likewise, by their first slice, of which a body of n slices has n - d + 1: no
two partitions share a slab, and none leaves the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from medcl.data.store import Box, Triple
from medcl.views.crops import box_at


def partition_slices(count: int, partitions: int) -> list[range]:
    """Slices of each partition; of fewer slices than partitions, the one at its middle."""
    if count >= partitions:
        edges = [-(-k * count // partitions) for k in range(partitions + 1)]
        return [range(low, high) for low, high in pairwise(edges)]
    middles = [(2 * k + 1) * count // (2 * partitions) for k in range(partitions)]
    return [range(middle, middle + 1) for middle in middles]


def draw_slices(count: int, partitions: int, rng: np.random.Generator) -> list[int]:
    """Draw one slice of each partition."""
    ranges = partition_slices(count, partitions)
    return [int(rng.integers(part.start, part.stop)) for part in ranges]


def matched_box(shape: Triple, body: Box, size: Triple, place: Sequence[float]) -> Box:
    """Box of `size` at the share `place` (0 to 1 along each axis) of the way through the body.

    The same place in two subjects is their match by normalised position. The box leaves the
    volume only along an axis on which the volume is smaller.
    """
    corner = [
        round(low + share * (high - low - side))
        for low, high, side, share in zip(*body, size, place, strict=True)
    ]
    return _within(corner, shape, size)


def slabs(body: Box, size: Triple, axis: int) -> int:
    """Number of places along `axis` for a slab of `size`; 1 where the body is no deeper."""
    return max(0, body[1][axis] - body[0][axis] - size[axis]) + 1


def slab(
    shape: Triple, body: Box, size: Triple, axis: int, first: int, place: Sequence[float]
) -> Box:
    """Box of `size` from slice `first` of the body on along `axis`, elsewhere as `matched_box`.

    Around the middle of a body that is less deep.
    """
    corner = list(matched_box(shape, body, size, place)[0])
    depth = body[1][axis] - body[0][axis]
    corner[axis] = body[0][axis] + (first if depth >= size[axis] else (depth - size[axis]) // 2)
    return _within(corner, shape, size)


def _within(corner: Sequence[int], shape: Triple, size: Triple) -> Box:
    kept = []
    for first, length, side in zip(corner, shape, size, strict=True):
        least, most = sorted((0, length - side))
        kept.append(min(max(first, least), most))
    return box_at(kept, size)
