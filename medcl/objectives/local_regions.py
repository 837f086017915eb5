"""Regions of a feature map for local contrast, their neighbours, and their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from medcl.errors import MedclError
from medcl.objectives.local_lists import LISTS
from medcl.views.coordinates import interpolate


@dataclass(frozen=True)
class Regions:
    """corners: first voxel of each region. The first J are compared; near: rows of `corners`."""

    corners: Int64[Tensor, "M d"]
    near: Int64[Tensor, "J k"]
    side: tuple[int, ...]

    def voxels(self) -> Int64[Tensor, "M v d"]:
        """The voxels of each region."""
        offsets = torch.cartesian_prod(*(torch.arange(n) for n in self.side))
        return self.corners[:, None, :] + offsets.view(-1, len(self.side))[None]


def nearest_regions(
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    region: int = 3,
    negatives: int = 5,
    centres: bool = True,
    margins: Sequence[float] | None = None,
) -> Regions:
    """Regions of a map of `shape` with the nearest other ones of each; `spacing` of the map, mm.

    `margins`: share of each side, at both ends, without regions; 0 if None. An axis shorter than a
    region is taken whole, and places that coincide count once.
    """
    free = [round(m * n) for m, n in zip(margins or [0.0] * len(shape), shape, strict=True)]
    shape = [length - 2 * own for length, own in zip(shape, free, strict=True)]
    side = tuple(min(region, length) for length in shape)
    # As in the authors' code, the last voxel is left out where regions are larger than one.
    extent = [max(0, n - own - (own > 1)) for n, own in zip(shape, side, strict=True)]
    points = list(product(*(sorted({0, m // 2, m}) for m in extent)))
    if centres:
        quarters = product(*(sorted({m // 4, 3 * m // 4}) for m in extent))
        points += [point for point in quarters if point not in points]
    if len(points) < 2:
        raise MedclError(
            f"local contrast: a map of {tuple(shape)} voxels holds one region of {side}; use "
            "`region: 1`, more `blocks`, or a larger `crop`"
        )
    corners = torch.tensor(points) + torch.tensor(free)
    places = corners * torch.tensor(spacing, dtype=torch.float64)
    distances = torch.cdist(places, places).fill_diagonal_(torch.inf)
    near = distances.argsort(dim=1, stable=True)[:, : min(negatives, len(points) - 1)]
    return Regions(corners, near, side)


def published_regions(
    length: int, *, region: int = 3, negatives: int = 5, centres: bool = True
) -> Regions:
    """The regions of the authors' code on a square map, with the first of its 5 neighbours."""
    m = length - (4 if region == 3 else 1)
    at = {"0": 0, "q": m // 4, "h": m // 2, "t": 3 * m // 4, "m": m}
    lists = LISTS[(13 if centres else 9, region)]
    own = [[at[symbol] for symbol in point] for point in lists]
    near = [
        [[at[symbol] for symbol in name] for name in names.split(",")[:negatives]]
        for names in lists.values()
    ]
    places = {tuple(point): number for number, point in reversed(list(enumerate(own)))}
    corners = list(own)
    for point in (point for row in near for point in row):
        if tuple(point) not in places:
            places[tuple(point)] = len(corners)
            corners.append(point)
    rows = [[places[tuple(point)] for point in row] for row in near]
    return Regions(torch.tensor(corners), torch.tensor(rows), (region, region))


def cut(
    maps: Float[Tensor, "N C *space"],
    regions: Regions,
    moved: Float[Tensor, "N M v d"] | None = None,
) -> Float[Tensor, "N M E"]:
    """The voxels of each region in order, the channels of each voxel together.

    `moved`: where they lie in each map; as the regions say if None.
    """
    if moved is not None:
        found = interpolate(maps, moved.flatten(1, 2))
        return found.unflatten(1, moved.shape[1:3]).flatten(2)
    places = regions.voxels()
    index = torch.zeros(places.shape[:2], dtype=torch.int64)
    for axis, length in enumerate(maps.shape[2:]):
        index = index * length + places[..., axis]
    return maps.flatten(2).mT[:, index.to(maps.device)].flatten(2)
