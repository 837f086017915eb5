"""Where a point of the body lies in a view, and what a feature map says there.

A point is in mm from the low corner of the body's box. A view is a crop with its centre (mm, in the
same frame) that was changed by a `Draw`: its matrix leads from a place in the view to one in the
crop, so its inverse leads from a point to its place in the view, through any rotation, zoom, mirror
or shift. Voxels are counted from 0 at the centre of the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medcl.views.augment import Spacing

ROUNDING = 1e-3  # voxels


def voxels_of(
    points: Float[Tensor, "B P 3"],
    centres: Float[Tensor, "B 3"],
    spacing: Spacing,
    shape: Sequence[int],
    matrix: Float[Tensor, "B 4 4"] | None = None,
) -> Float[Tensor, "B P 3"]:
    """Voxels of the points in the crops, or in the views made from them by `matrix`."""
    places = points - centres[:, None]
    if matrix is not None:
        back = torch.linalg.inv(matrix).to(points.device)
        places = places @ back[:, :3, :3].mT + back[:, None, :3, 3]
    middle = (torch.tensor(shape, device=points.device) - 1) / 2
    return places / places.new_tensor(spacing) + middle


def within(voxels: Float[Tensor, "*B 3"], shape: Sequence[int]) -> Bool[Tensor, "*B"]:
    """Tell which places lie between the centres of the outermost voxels."""
    last = torch.tensor(shape, device=voxels.device) - 1
    return ((voxels >= -ROUNDING) & (voxels <= last + ROUNDING)).all(-1)


def interpolate(
    features: Float[Tensor, "B C *space"], voxels: Float[Tensor, "B P d"]
) -> Float[Tensor, "B P C"]:
    """Linear interpolation at the places, in 2-D or 3-D; beyond the border, its nearest value.

    Gathers the 2^d neighbours alone: a feature map in half precision is not copied to float32.
    """
    shape = features.shape[2:]
    last = torch.tensor(shape, device=voxels.device) - 1
    places = voxels.minimum(last.to(voxels)).clamp_min(0)
    low = places.floor()
    share = places - low
    flat, out = features.flatten(2), None
    for corner in product((0, 1), repeat=len(shape)):
        step = torch.tensor(corner, device=voxels.device)
        at = (low.long() + step).minimum(last)
        weight = torch.where(step > 0, share, 1 - share).prod(-1)
        index = at[..., 0]
        for axis in range(1, len(shape)):
            index = index * shape[axis] + at[..., axis]
        values = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)).mT
        term = weight[..., None] * values
        out = term if out is None else out + term
    assert out is not None
    return out
