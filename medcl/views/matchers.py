r"""Which place of one body matches a place of another.

A place is a share of the way through the body's box, 0 to 1 along each axis. All subjects meet in a
common frame. What the plain position says is `position`: the frame is every body's own box. Else it
is the box of one subject, the reference, and a table holds for each case and for the g x g x g
nodes i of a grid over the frame and over its own body

    own_i     what has to be added to a place of the frame to come to its match in the body
    common_i  what has to be added to a place of the body to come to its match in the frame

with linear interpolation between the nodes (and beyond them the value of the nearest one). A table
of zeros is the plain position. How it is filled:

    affine   the bodies are registered: intensities alone, 12 parameters, correlation as measure,
             in shares of the boxes, so that equal bodies start at rest. A matrix a case: 2 nodes.
    nearest  the nearest neighbour of an embedding, by `nearest_shifts`. Neighbours farther away
             than `REACH` are not believed, air matches nothing, and a median over 3 nodes along
             each axis takes single errors out.

Nothing here has weights: an embedding comes from an objective (objectives/matching.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial.distance import cdist

from medcl.data.store import Box, StoredVolume, Triple
from medcl.views.crops import box_at

Matcher = Literal["position", "affine", "nearest"]

NODES = {"affine": 2, "nearest": 8}  # of the grid along each axis
REACH = 0.4  # of a body: how far a nearest neighbour may lie from the plain position
SIDE = 32  # voxels along each axis that are registered, about
LEVELS = (4, 2)  # shrinking of the registration's levels
STEPS = 200  # of its optimiser at each level, at most
VOLUMES = (0.2, 5.0)  # a registered body that shrinks or grows by more is not believed


@dataclass(frozen=True, eq=False)
class Matches:
    """The table of all cases: `rows` names its rows, `shifts` holds own (0) and common (1)."""

    rows: Mapping[str, int] = field(default_factory=dict)
    shifts: Float[np.ndarray, "n 2 g g g 3"] | None = None

    def own(self, case: str, places: Float[np.ndarray, "*P 3"]) -> Float[np.ndarray, "*P 3"]:
        """Places of the body of `case` that match places of the frame."""
        return self._moved(case, 0, places)

    def common(self, case: str, places: Float[np.ndarray, "*P 3"]) -> Float[np.ndarray, "*P 3"]:
        """Places of the frame that match places of the body of `case`."""
        return self._moved(case, 1, places)

    def _moved(self, case: str, way: int, places: np.ndarray) -> np.ndarray:
        if self.shifts is None:
            return places
        table = self.shifts[self.rows[case], way]
        at = (places * (len(table) - 1)).reshape(-1, 3).T
        shift = [
            ndimage.map_coordinates(table[..., k], at, order=1, mode="nearest") for k in (0, 1, 2)
        ]
        return places + np.stack(shift, -1).reshape(places.shape)


POSITION = Matches()


def nodes(count: int) -> Float[np.ndarray, "n 3"]:
    """The nodes of a grid of `count` along each axis, the last axis fastest."""
    along = np.linspace(0, 1, count)
    return np.stack(np.meshgrid(along, along, along, indexing="ij"), -1).reshape(-1, 3)


def centred_box(volume: StoredVolume, size: Triple, place: Sequence[float]) -> Box:
    """Box of `size` around a place of the body, moved into the volume where it is large enough."""
    corner = []
    for length, low, high, side, share in zip(volume.shape, *volume.body, size, place, strict=True):
        first, last = sorted((0, length - side))
        middle = low + share * (high - low)
        corner.append(int(np.clip(round(middle - side / 2), first, last)))
    return box_at(corner, size)


def reference_of(volumes: Sequence[StoredVolume]) -> StoredVolume:
    """The volume whose body has the most usual sides (mm): nearest to the medians of all."""
    sides = np.log([_sides_mm(volume) for volume in volumes])
    distances = np.abs(sides - np.median(sides, axis=0)).sum(1)
    return volumes[int(distances.round(6).argmin())]


def _sides_mm(volume: StoredVolume) -> list[float]:
    low, high = volume.body
    return [(b - a) * s for a, b, s in zip(low, high, volume.spacing, strict=True)]


def affine_shifts(reference: StoredVolume, volume: StoredVolume) -> Float[np.ndarray, "2 g g g 3"]:
    """Both tables of a case by registration; zeros where that fails or is not believed.

    The same on every machine and with any number of threads: it computes on one.
    """
    count = NODES["affine"]
    at = nodes(count)
    found = np.zeros((2, len(at), 3))
    matrix = None if volume.case == reference.case else _registered(reference, volume)
    if matrix is not None:
        linear, moved = matrix[:, :3], matrix[:, 3]
        found[0] = at @ linear.T + moved - at
        found[1] = np.linalg.solve(linear, (at - moved).T).T - at
    return found.reshape(2, count, count, count, 3)


def _registered(reference: StoredVolume, volume: StoredVolume) -> Float[np.ndarray, "3 4"] | None:
    """From a place in the reference's body to its match in the volume's; None if not believed."""
    import SimpleITK as sitk  # 0.2 s: only for those who need it

    fixed, moving = (_small_image(v) for v in (reference, volume))
    start = sitk.AffineTransform(3)
    start.SetCenter((0.5, 0.5, 0.5))
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in another order would give other digits
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=0.02, minStep=1e-5, numberOfIterations=STEPS, gradientMagnitudeTolerance=1e-9
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(LEVELS))
    method.SetSmoothingSigmasPerLevel([level / 2 / SIDE for level in LEVELS])
    method.SetInitialTransform(start, inPlace=True)
    try:
        before = method.MetricEvaluate(fixed, moving)
        method.Execute(fixed, moving)
        after = method.MetricEvaluate(fixed, moving)
    except RuntimeError:  # the bodies were driven apart, or one is of a single value
        return None
    linear = np.array(start.GetMatrix()).reshape(3, 3)
    if not VOLUMES[0] < np.linalg.det(linear) < VOLUMES[1] or not after < before:
        return None
    centre = np.array(start.GetCenter())
    moved = np.array(start.GetTranslation()) + centre - linear @ centre
    return np.concatenate([linear, moved[:, None]], 1)


def _small_image(volume: StoredVolume):  # type: ignore[no-untyped-def]  # an image of SimpleITK
    """The body's first channel as means over blocks; its box goes from 0 to 1 along each axis."""
    import SimpleITK as sitk

    values = volume.read(volume.body)[0]
    sides = np.array(values.shape)
    block = np.maximum(1, np.rint(sides / SIDE).astype(int))
    count = sides // block
    kept = values[tuple(slice(n) for n in count * block)]
    means = kept.reshape([n for pair in zip(count, block, strict=True) for n in pair]).mean(
        (1, 3, 5)
    )
    image = sitk.GetImageFromArray(np.ascontiguousarray(means.T.astype(np.float32)))
    image.SetSpacing((block / sides).tolist())
    image.SetOrigin((block / sides / 2).tolist())
    return image


def nearest_shifts(
    places: tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, "N 3"]],
    embedded: tuple[Float[np.ndarray, "M E"], Float[np.ndarray, "N E"]],
    shown: tuple[Bool[np.ndarray, " M"], Bool[np.ndarray, " N"]],
) -> Float[np.ndarray, "g g g 3"]:
    """One table: from the nodes of one body (first of each pair) to the candidates of another.

    M is g^3, in the order of `nodes`. Embeddings are of length 1; `shown` is False for air.
    """
    at, candidates = places
    count = round(len(at) ** (1 / 3))
    likeness = embedded[0] @ embedded[1].T
    likeness[:, ~shown[1]] = -np.inf
    likeness[cdist(at, candidates) > REACH] = -np.inf
    best = likeness.argmax(1)
    matched = shown[0] & np.isfinite(likeness.max(1, initial=-np.inf))
    shifts = np.where(matched[:, None], candidates[best] - at, 0).reshape(count, count, count, 3)
    if not matched.any():
        return shifts
    # A node without a match follows the nearest one that has one.
    missing = ~matched.reshape(count, count, count)
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled = shifts[tuple(nearest)]
    return ndimage.median_filter(filled, size=(3, 3, 3, 1), mode="nearest")
