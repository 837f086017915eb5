"""Where the patient is: foreground by intensity, never by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num
from scipy import ndimage

from medcl.data.store import Box
from medcl.data.volume import Volume

SIDE = 96  # voxels of an axis are skipped until at most this many are looked at
MARGIN_MM = 10.0  # kept around the body: skin and table edges are not found exactly
AIR_FACE = 0.9  # air: at least one face of the volume has this share of background
AIR_CONTRAST = 0.15  # air: its median is below this share of the body's
WORTHWHILE = 0.9  # a crop that keeps more of the volume is not made
BINS = 256  # of Otsu's histogram


@dataclass(frozen=True)
class Body:
    """The body in a volume, found on every `step`-th voxel.

    `box` is the body without, `crop` with a margin, in voxels; `mask` leaves out its rim. Where
    nothing can be told from air, as in a patch cut out of an organ, all three are everything.
    """

    box: Box
    crop: Box
    step: tuple[int, int, int]
    mask: Bool[np.ndarray, "x y z"]

    def values(self, array: Num[np.ndarray, "C X Y Z"]) -> Num[np.ndarray, "C N"]:
        """The values of (some of) the body's voxels."""
        x, y, z = self.step
        return array[:, ::x, ::y, ::z][:, self.mask]


def find_body(volume: Volume, *, threshold: float | Sequence[float | None] | None = None) -> Body:
    """Find the largest connected thing brighter than air in any channel; its holes belong to it.

    `threshold`, one for all channels or one for each, is the value that parts it from air (HU);
    without one it is Otsu's, on the cube roots of the smoothed values: few voxels of high uptake
    then do not pass for the body.
    """
    x, y, z = (max(1, -(-length // SIDE)) for length in volume.shape)
    step = (x, y, z)
    looked_at = volume.array[:, ::x, ::y, ::z].astype(np.float32)
    each = threshold if isinstance(threshold, Sequence) else [threshold] * len(looked_at)
    masks = [_foreground(*channel) for channel in zip(looked_at, each, strict=True)]
    mask = _largest(np.any(masks, axis=0))
    if not mask.any() or not _has_air_face(mask):
        return _everything(volume, step, mask.shape)
    box, crop = [], []
    for axis, spacing, length, by in zip(range(3), volume.spacing, volume.shape, step, strict=True):
        used = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = int(used[0]) * by, min((int(used[-1]) + 1) * by, length)
        margin = int(np.ceil(MARGIN_MM / spacing))
        box.append((low, high))
        crop.append((max(low - margin, 0), min(high + margin, length)))
    if _voxels(crop) > WORTHWHILE * np.prod(volume.shape):
        crop = [(0, length) for length in volume.shape]
    # Smoothing takes in a layer of air, which must not count as body's values.
    inner = ndimage.binary_erosion(mask, border_value=1)
    return Body(_box(box), _box(crop), step, inner if inner.any() else mask)


def _foreground(
    values: Num[np.ndarray, "x y z"], threshold: float | None
) -> Bool[np.ndarray, "x y z"]:
    if threshold is not None:
        return values > threshold
    smooth = ndimage.gaussian_filter(values, 1.0)
    # Air is near zero, unless the values have been shifted below it.
    low, high = min(float(smooth.min()), 0.0), float(np.percentile(smooth, 99))
    if not high > low:
        return np.zeros(values.shape, bool)
    roots = np.cbrt(np.clip((smooth - low) / (high - low), 0, 1))
    mask = roots > _otsu(roots)
    if mask.all() or not mask.any():
        return np.zeros(values.shape, bool)
    air, body = np.median(smooth[~mask]) - low, np.median(smooth[mask]) - low
    return mask if air < AIR_CONTRAST * body else np.zeros(values.shape, bool)


def _otsu(values: Num[np.ndarray, "x y z"]) -> float:
    """The threshold in 0..1 with the largest variance between the two classes."""
    counts, edges = np.histogram(values, BINS, (0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * centres)
    above = values.size - below
    apart = sums[:-1] * values.size - sums[-1] * below
    between = apart**2 / np.maximum(below * above, 1)
    return float(edges[1 + between.argmax()])


def _largest(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    parts, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        mask = parts == sizes.argmax()
    return ndimage.binary_fill_holes(mask) if count else mask


def _has_air_face(mask: Bool[np.ndarray, "x y z"]) -> bool:
    """Whether some face of the volume is nearly all background.

    A patch from inside the body has darker tissue everywhere and air nowhere.
    """
    faces = [mask.take(end, axis=axis) for axis in range(3) for end in (0, -1)]
    return any(1 - face.mean() >= AIR_FACE for face in faces)


def _everything(volume: Volume, step: tuple[int, int, int], shape: tuple[int, ...]) -> Body:
    whole = _box([(0, length) for length in volume.shape])
    return Body(whole, whole, step, np.ones(shape, bool))


def _box(ranges: list[tuple[int, int]]) -> Box:
    (x0, x1), (y0, y1), (z0, z1) = ranges
    return (x0, y0, z0), (x1, y1, z1)


def _voxels(ranges: list[tuple[int, int]]) -> int:
    return int(np.prod([high - low for low, high in ranges]))
