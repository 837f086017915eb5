"""Overlap and surface metrics of one case, per class, in mm on the grid of the masks.

With P and R the voxels of a class in the prediction and in the reference:

    dice           2 |P n R| / (|P| + |R|)
    iou            |P n R| / |P u R|
    reference_mm3  |R| times the volume of a voxel;  predicted_mm3 likewise

The surface of a mask is the set of voxel faces between inside and outside. Outside the image
counts as outside, holes have a surface too. A face weighs its area in mm2 (the product of the
spacings of its two axes), and its distance d to the other surface is the one from its centre to
the nearest face centre there. With A(.) the area of a set of faces, SP and SR the two surfaces:

    assd_mm        mean of d over all faces of SP and SR together, weighted by area
    nsd            A(faces of SP and SR with d <= tolerance) / (A(SP) + A(SR))
    hd95_mm        the larger of two directed percentiles; each is the smallest distance within
                   which at least 95 % of the area of one surface lies from the other

Empty masks: the reference decides whether there is anything to score. If it is empty, nothing but
the volumes is defined, whatever was predicted (note "both empty" or "reference empty"), and the
class of that case enters no mean; that it was found all the same is counted apart, by its volume.
If the prediction alone is empty, dice, iou and nsd are 0 and the distances are undefined (note
"prediction empty").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy.spatial import cKDTree

Triple = tuple[float, float, float]

METRICS = ("dice", "iou", "hd95_mm", "nsd", "assd_mm", "reference_mm3", "predicted_mm3")
OVERLAPS = ("dice", "iou", "nsd")  # 0 where the prediction alone is empty
FALSE_FIND = "reference empty"  # the note of a class that was predicted and is not there

# Distances are sums of floats: a shift by exactly the tolerance must count as within it.
SLACK_MM = 1e-6


class Score(NamedTuple):
    """One number of one class; `value` is None where the metric is undefined, and `note` why."""

    class_name: str
    metric: str
    value: float | None
    note: str


def class_metrics(
    prediction: Num[np.ndarray, "X Y Z"],
    reference: Num[np.ndarray, "X Y Z"],
    spacing_mm: Triple,
    classes: dict[str, int],
    *,
    nsd_tolerance_mm: float,
) -> list[Score]:
    """Score every class of `classes` (name -> value in both label maps), METRICS in order.

    The axes are taken as orthogonal. Definitions and the rule for empty masks: see the module.
    """
    scores = []
    for name, value in classes.items():
        values, note = _values(
            prediction == value, reference == value, spacing_mm, nsd_tolerance_mm
        )
        for metric in METRICS:
            is_volume = metric.endswith("_mm3")
            scores.append(Score(name, metric, values.get(metric), "" if is_volume else note))
    return scores


def _values(
    predicted: Bool[np.ndarray, "X Y Z"],
    reference: Bool[np.ndarray, "X Y Z"],
    spacing_mm: Triple,
    nsd_tolerance_mm: float,
) -> tuple[dict[str, float], str]:
    """Every defined metric, and the note on what is empty."""
    voxel_mm3 = float(np.prod(spacing_mm))
    p, r = int(np.count_nonzero(predicted)), int(np.count_nonzero(reference))
    values = {"reference_mm3": r * voxel_mm3, "predicted_mm3": p * voxel_mm3}
    if not r:
        return values, FALSE_FIND if p else "both empty"
    if not p:
        return values | dict.fromkeys(OVERLAPS, 0.0), "prediction empty"
    box = _bounding_box(predicted | reference)
    predicted, reference = predicted[box], reference[box]
    both = int(np.count_nonzero(predicted & reference))
    values |= {"dice": 2 * both / (p + r), "iou": both / (p + r - both)}
    return values | _surface_values(predicted, reference, spacing_mm, nsd_tolerance_mm), ""


def _surface_values(
    predicted: Bool[np.ndarray, "X Y Z"],
    reference: Bool[np.ndarray, "X Y Z"],
    spacing_mm: Triple,
    nsd_tolerance_mm: float,
) -> dict[str, float]:
    """All three surface metrics from one pair of directed distances."""
    centres_p, areas_p = _faces(predicted, spacing_mm)
    centres_r, areas_r = _faces(reference, spacing_mm)
    distances_p = _nearest(centres_p, centres_r)
    distances_r = _nearest(centres_r, centres_p)
    distances = np.concatenate([distances_p, distances_r])
    areas = np.concatenate([areas_p, areas_r])
    near = areas[distances <= nsd_tolerance_mm + SLACK_MM].sum()
    return {
        "hd95_mm": max(_percentile(distances_p, areas_p), _percentile(distances_r, areas_r)),
        "nsd": float(near / areas.sum()),
        "assd_mm": float(np.average(distances, weights=areas)),
    }


def _bounding_box(mask: Bool[np.ndarray, "X Y Z"]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (occupied,) = np.nonzero(mask.any(axis=others))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def _faces(
    mask: Bool[np.ndarray, "X Y Z"], spacing_mm: Triple
) -> tuple[Float[np.ndarray, "faces 3"], Float[np.ndarray, " faces"]]:
    """Centres (mm) and areas (mm2) of the voxel faces between inside and outside."""
    inside = np.pad(mask, 1)
    centres, areas = [], []
    for axis in range(3):
        # Face i along the axis lies between voxels i and i + 1.
        corners = np.argwhere(np.diff(inside, axis=axis)).astype(float)
        corners[:, axis] += 0.5
        centres.append(corners * spacing_mm)
        areas.append(np.full(len(corners), np.prod(spacing_mm) / spacing_mm[axis]))
    return np.concatenate(centres), np.concatenate(areas)


def _nearest(
    points: Float[np.ndarray, "faces 3"], others: Float[np.ndarray, "others 3"]
) -> Float[np.ndarray, " faces"]:
    """Distance of each point to the nearest of the others."""
    # Faces lie on a lattice: splitting space in the middle answers up to 4 times faster than
    # splitting the points in halves, which cuts through planes of equal coordinates.
    tree = cKDTree(others, leafsize=16, balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(points)
    return distances


def _percentile(
    distances: Float[np.ndarray, " faces"], areas: Float[np.ndarray, " faces"]
) -> float:
    """Smallest distance within which at least 95 % of the area lies."""
    order = np.argsort(distances)
    reached = np.cumsum(areas[order])
    # The slack keeps a share of exactly 95 % from being missed by rounding.
    enough = np.searchsorted(reached, 0.95 * reached[-1] * (1 - 1e-9))
    return float(distances[order[enough]])
