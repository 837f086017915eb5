"""A label map on another grid than its image: moved onto the image's, where that is allowed.

At the centre of every voxel of the image the masks of all labels are interpolated linearly and
the largest is taken, the lowest label of equal ones. Beyond the label map's own grid is
background.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

from medcl.data.checks import Finding
from medcl.data.volume import Volume

TIE = 1e-6  # weights closer than this are equal but for rounding


def resample_label(label: Volume, image: Volume) -> tuple[Volume, int]:
    """The label map on the image's grid, and how many of its voxels lie outside the image."""
    old = label.array[0]
    to_old = np.linalg.inv(label.affine) @ image.affine
    best = np.zeros(image.shape, np.float32)
    total = np.zeros(image.shape, np.float32)
    chosen = np.zeros(image.shape, old.dtype)
    values = [int(value) for value in np.unique(old) if value != 0]
    for value in values:
        mask = old == value
        place = _reach(mask, to_old, image.shape)
        if place is None:
            continue
        start = to_old[:3, :3] @ [part.start for part in place] + to_old[:3, 3]
        size = tuple(part.stop - part.start for part in place)
        share = ndimage.affine_transform(
            mask.astype(np.float32), to_old[:3, :3], start, size, order=1, mode="grid-constant"
        )
        total[place] += share
        wins = share > best[place] + TIE
        np.copyto(best[place], share, where=wins)
        np.copyto(chosen[place], old.dtype.type(value), where=wins)
    chosen[1 - total >= best - TIE] = 0
    return Volume(chosen[None], image.affine), _outside(old, np.linalg.inv(to_old), image.shape)


def resampled(path: str) -> Finding:
    return Finding(
        "label_resampled",
        "warning",
        f"{path}: lies on another grid than its image; a resampled copy is used",
        "look at one of them beside its image",
    )


def _reach(
    mask: np.ndarray, to_old: np.ndarray, shape: tuple[int, int, int]
) -> tuple[slice, slice, slice] | None:
    """The box of new voxels that may see the mask."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    corners = np.array(np.meshgrid(*[(part.start - 1, part.stop) for part in found[0]]))
    to_new = np.linalg.inv(to_old)
    points = to_new[:3, :3] @ corners.reshape(3, -1) + to_new[:3, 3:]
    low = np.maximum(np.floor(points.min(axis=1)), 0).astype(int)
    high = np.minimum(np.ceil(points.max(axis=1)) + 1, shape).astype(int)
    if (low >= high).any():
        return None
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def _outside(
    old: Integer[np.ndarray, "X Y Z"], to_new: np.ndarray, shape: tuple[int, int, int]
) -> int:
    """Foreground voxels whose centre lies beyond the voxels of the new grid."""
    points = to_new[:3, :3] @ np.array(np.nonzero(old)) + to_new[:3, 3:]
    size = np.array(shape)[:, None]
    return int(((points < -0.5) | (points > size - 0.5)).any(axis=0).sum())
