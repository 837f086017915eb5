"""Resampling to another spacing: one small matrix for each axis.

Interpolation on a grid whose axes stay parallel is separable. Along one axis it is linear in the
voxel values, so the whole of it (finding the spline's coefficients, evaluating the spline,
averaging where the new voxels are larger) is one matrix of (new voxels, old voxels), and
resampling a volume is three matrix products.

Where a new voxel is r > 1 times as long as an old one, the interpolated values are averaged over
sqrt(r^2 - 1) old voxels: the blur of an old voxel and that of the average together (their
variances add) are the blur of a voxel of the new length, so that fine detail does not come back
as false coarse detail. For r <= 1 nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Integer, Num, UInt8
from scipy import ndimage

from medcl.data.volume import Volume

Triple = tuple[int, int, int]
Axis = Float32[np.ndarray, "_ _"]  # new voxels, old voxels

NEGLIGIBLE = 1e-7  # of a voxel's weight: less than single precision resolves
ROWS = 32  # new voxels of one product; a band is only so long as its rows see
SAMPLES = 4  # at least, for an old voxel, of the average over a larger new one
SAME = 0.01  # voxels; a grid that ends this close to another is the other
CHUNK_VALUES = 1 << 25  # probabilities interpolated at a time: 128 MB
TIE = 1e-5  # probabilities closer than this are equal but for rounding


def resample(
    volume: Volume, spacing: tuple[float, float, float], *, labels: bool = False
) -> Volume:
    """Resample to `spacing` (mm along the volume's axes).

    Cubic for images, the most probable label for label maps (the lowest of several). The field of
    view keeps its centre, and its length to half a voxel; beyond the outermost voxel centres the
    border voxels go on. Raises ValueError for a spacing that is not positive or would make an
    axis shorter than one voxel.
    """
    shape = new_shape(volume.shape, volume.spacing, spacing)
    order = 1 if labels else 3
    axes = axis_matrices(volume.shape, volume.spacing, shape, spacing, order=order)
    if labels:
        array = np.stack([_most_probable(channel, axes) for channel in volume.array])
    else:
        array = apply(axes, volume.array.astype(np.float32, copy=False))
    return Volume(array, new_affine(volume.affine, volume.shape, shape, spacing))


def new_shape(shape: Triple, spacing: Sequence[float], new_spacing: Sequence[float]) -> Triple:
    """Voxels along each axis at another spacing (mm)."""
    voxels = []
    for axis, length, old, new in zip("XYZ", shape, spacing, new_spacing, strict=True):
        if not new > 0:
            raise ValueError(f"spacing must be positive, got {new} mm along {axis}")
        # A hair more than half a voxel: 5 x 0.7 mm at 7 mm must not hang on rounding errors.
        voxels.append(int(np.floor(length * old / new + 0.5 + 1e-6)))
        if voxels[-1] < 1:
            raise ValueError(
                f"{length} voxels of {old:g} mm along {axis} are shorter than one of {new:g} mm"
            )
    x, y, z = voxels
    return x, y, z


def new_affine(
    affine: Num[np.ndarray, "4 4"], shape: Triple, shape_new: Triple, spacing: Sequence[float]
) -> Float[np.ndarray, "4 4"]:
    """Affine of the grid of `resample`: same directions, same centre, `spacing` in mm."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) * np.asarray(spacing)
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    new = np.eye(4)
    new[:3, :3] = axes
    new[:3, 3] = centre - axes @ ((np.array(shape_new) - 1) / 2)
    return new


def axis_matrices(
    shape: Triple,
    spacing: Sequence[float],
    shape_new: Triple,
    spacing_new: Sequence[float],
    *,
    order: int,
) -> list[Axis]:
    """One matrix for each axis, from a grid to another with the same centre; order 1 or 3."""
    ratios = [new / old for old, new in zip(spacing, spacing_new, strict=True)]
    return [
        # Rounded, so that volumes whose spacings differ by rounding errors share the matrix.
        axis_matrix(length, length_new, round(ratio, 9), order=order)
        for length, length_new, ratio in zip(shape, shape_new, ratios, strict=True)
    ]


@lru_cache(maxsize=256)
def axis_matrix(length: int, length_new: int, ratio: float, *, order: int) -> Axis:
    """Weights of `length` old voxels in each of `length_new` voxels, `ratio` times as long."""
    centres = (np.arange(length_new) - (length_new - 1) / 2) * ratio + (length - 1) / 2
    if length == length_new and abs(ratio - 1) * length < SAME:
        weights = np.eye(length)
    else:
        count = SAMPLES * int(np.ceil(ratio)) if ratio > 1 else 1
        width = np.sqrt(max(ratio**2 - 1, 0))
        offsets = ((np.arange(count) + 0.5) / count - 0.5) * width
        positions = np.clip(centres[:, None] + offsets, 0, length - 1)
        basis = _linear(positions, length) if order == 1 else _cubic(positions, length)
        weights = basis.mean(axis=1)
    weights[np.abs(weights) < NEGLIGIBLE] = 0
    matrix = weights.astype(np.float32)
    matrix.setflags(write=False)  # it is shared
    return matrix


def apply(
    axes: Sequence[Axis], array: Float32[np.ndarray, "C X Y Z"]
) -> Float32[np.ndarray, "C x y z"]:
    """Interpolate along the three axes, those that shrink first."""
    order = sorted(range(3), key=lambda axis: axes[axis].shape[0] / axes[axis].shape[1])
    for axis in order:
        array = _along(axes[axis], array, axis + 1)
    return array


def most_probable(
    probabilities: Float[np.ndarray, "K X Y Z"], axes: Sequence[Axis]
) -> UInt8[np.ndarray, "x y z"]:
    """Interpolate probabilities and take the largest, slab by slab so that memory stays bounded.

    The first of several equal ones is taken.
    """
    shape = tuple(len(matrix) for matrix in axes)
    out = np.empty(shape, np.uint8)
    rows = max(1, CHUNK_VALUES // (len(probabilities) * shape[1] * shape[2]))
    for first in range(0, shape[0], rows):
        slab = axes[0][first : first + rows]
        low, high = _support(slab)
        part = np.asarray(probabilities[:, low:high], np.float32)
        values = apply((slab[:, low:high], axes[1], axes[2]), part)
        out[first : first + rows] = values.argmax(axis=0)
    return out


def _most_probable(
    labels: Integer[np.ndarray, "X Y Z"], axes: Sequence[Axis]
) -> Integer[np.ndarray, "x y z"]:
    """Interpolate each label's mask where it can matter; the background is what is left."""
    if all(_is_identity(matrix) for matrix in axes):
        return labels
    values = np.unique(labels)
    places = np.searchsorted(values, labels)
    shape = tuple(len(matrix) for matrix in axes)
    # The label of most voxels needs no interpolation of its own: probabilities sum to one.
    common = int(np.bincount(places.ravel()).argmax())
    best = np.full(shape, -1.0, np.float32)
    total = np.zeros(shape, np.float32)
    chosen = np.full(shape, values[common], labels.dtype)
    for number, box in enumerate(ndimage.find_objects(places + 1)):
        if number == common:
            continue
        region = [_rows(matrix, part) for matrix, part in zip(axes, box, strict=True)]
        parts = [m[r, part] for m, r, part in zip(axes, region, box, strict=True)]
        mask = (places[box] == number).astype(np.float32)
        share = apply(parts, mask[None])[0]
        here = tuple(region)
        total[here] += share
        wins = share > best[here] + TIE
        np.copyto(best[here], share, where=wins)
        np.copyto(chosen[here], values[number], where=wins)
    rest = 1 - total
    lower = values[common] < chosen
    wins = np.where(lower, rest >= best - TIE, rest > best + TIE)
    return np.where(wins, values[common], chosen)


def _rows(matrix: Axis, columns: slice) -> slice:
    """The new voxels that see any of these old voxels."""
    low, high = _support(matrix[:, columns].T)
    return slice(low, high)


def _support(rows: Float[np.ndarray, "new old"]) -> tuple[int, int]:
    """First column with a weight, and the one after the last."""
    used = np.flatnonzero(rows.any(axis=0))
    return (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)


def _along(matrix: Axis, array: np.ndarray, axis: int) -> np.ndarray:
    """Multiply one axis by the matrix, a band of rows at a time."""
    if _is_identity(matrix):
        return array
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    lines = array.reshape(int(np.prod(before)), array.shape[axis], int(np.prod(after)))
    out = np.empty((lines.shape[0], len(matrix), lines.shape[2]), np.float32)
    for rows, columns in _bands(matrix):
        band = matrix[rows, columns]
        if lines.shape[2] == 1:
            out[:, rows, 0] = lines[:, columns, 0] @ band.T
        else:
            np.matmul(band, lines[:, columns], out=out[:, rows])
    return out.reshape(*before, len(matrix), *after)


def _is_identity(matrix: Axis) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))


def _bands(matrix: Axis) -> Iterator[tuple[slice, slice]]:
    for first in range(0, len(matrix), ROWS):
        rows = slice(first, first + ROWS)
        yield rows, slice(*_support(matrix[rows]))


def _linear(positions: np.ndarray, length: int) -> np.ndarray:
    """Hat functions of the old voxels at the positions (voxels): (..., old)."""
    return np.maximum(0, 1 - np.abs(positions[..., None] - np.arange(length)))


def _cubic(positions: np.ndarray, length: int) -> np.ndarray:
    """Weights of the old voxels in the cubic spline through them: (..., old).

    The spline is mirrored about the outermost voxel centres.
    """
    if length == 1:
        return np.ones((*positions.shape, 1))
    knots = np.arange(-2, length + 2)
    mirrored = np.abs((knots + length - 1) % (2 * length - 2) - (length - 1))
    fold = np.zeros((len(knots), length))
    fold[np.arange(len(knots)), mirrored] = 1
    at_voxels = _bspline(np.arange(length)[:, None] - knots) @ fold
    return _bspline(positions[..., None] - knots) @ fold @ np.linalg.inv(at_voxels)


def _bspline(distance: np.ndarray) -> np.ndarray:
    """The cubic B-spline at a distance in voxels."""
    d = np.abs(distance)
    inner = 2 / 3 - d**2 + d**3 / 2
    outer = np.maximum(2 - d, 0) ** 3 / 6
    return np.where(d < 1, inner, outer)
