"""RTSTRUCT: contours drawn on planes become voxels.

A voxel belongs to a structure if its centre lies inside an odd number of the contours drawn on
its plane: a contour within another is a hole, and a hole may be connected to the outside by a
line. A centre exactly on a contour belongs to the side of smaller coordinates of the structure
(its left and upper border), so that two structures that share a border share no voxel.
Every plane of the image takes the contours of the nearest drawn plane within half a slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pydicom.dataset import Dataset

from medcl.data.checks import Finding
from medcl.data.structures import Canvas
from medcl.data.volume import LPS_TO_RAS, Volume, VolumeError

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
HALF_WAY = 1e-3  # slices
ROUNDING = 4  # decimals of a voxel: contours through voxel centres must not hang on the last bit
FLAT = 0.25  # slices; a contour that leaves its plane further was drawn on other planes
SAME_PLANE = 0.05  # slices


def structure_names(dataset: Dataset) -> dict[int, str]:
    """Number and name of every structure of an RTSTRUCT, in its order."""
    return {
        int(item.ROINumber): str(item.get("ROIName", "") or f"ROI {item.ROINumber}").strip()
        for item in dataset.get("StructureSetROISequence") or []
    }


def paint_contours(
    dataset: Dataset, labels: dict[int, str], canvas: Canvas, image: Volume, where: str
) -> tuple[list[Finding], int]:
    """Paint the structures `labels` (number -> class); return findings and the voxels outside."""
    findings: list[Finding] = []
    names, to_voxels, outside = structure_names(dataset), _to_voxels(image), 0
    contours: dict[int, list[Dataset]] = {number: [] for number in labels}
    for item in dataset.get("ROIContourSequence") or []:
        number = int(item.ReferencedROINumber)
        if number in contours:
            contours[number] += item.get("ContourSequence") or []
    for number, drawn in contours.items():
        what = f"{where}: structure '{names[number]}'"
        polygons = [_points(contour, to_voxels, what) for contour in drawn if _is_closed(contour)]
        if left := len(drawn) - len(polygons):
            told = f"{what}: {left} of {len(drawn)} contours are points or open lines, left out"
            severity: Literal["warning", "info"] = "warning" if polygons else "info"
            remedy = "close them where they bound something"
            findings.append(Finding("contour_not_closed", severity, told, remedy))
        if not polygons:
            told = f"{what}: holds no contours"
            findings.append(Finding("structure_empty", "warning", told, "check that it was drawn"))
            continue
        planes = _by_plane(polygons)
        for plane, flat in planes.items():
            columns, rows = np.nonzero(inside(flat, image.shape[:2]))
            outside += canvas.paint(labels[number], (columns, rows, np.full_like(rows, plane)))
            outside += _left_of_image(flat, image.shape[:2])
        findings += _gaps(planes, what)
    return findings, outside


def inside(
    polygons: Sequence[Float[np.ndarray, "_ 2"]], shape: tuple[int, int]
) -> Bool[np.ndarray, "X Y"]:
    """Grid points inside an odd number of the polygons (voxels, x and y)."""
    width, height = shape
    crossings = np.zeros((width + 1) * height, np.int64)
    for start in polygons:
        way = np.roll(start, -1, axis=0) - start
        ends = start[:, 1] + way[:, 1]
        # Row y meets an edge if low <= y < high: a corner between two edges counts once.
        first = np.clip(np.ceil(np.minimum(start[:, 1], ends)), 0, height).astype(np.int64)
        last = np.clip(np.ceil(np.maximum(start[:, 1], ends)), 0, height).astype(np.int64)
        edge = np.repeat(np.arange(len(start)), last - first)
        row = np.arange(len(edge)) + np.repeat(last - np.cumsum(last - first), last - first)
        x = start[edge, 0] + (row - start[edge, 1]) / way[edge, 1] * way[edge, 0]
        x = np.round(x, ROUNDING)
        column = np.clip(np.ceil(x), 0, width).astype(np.int64)
        crossings += np.bincount(column * height + row, minlength=len(crossings))
    parity = np.cumsum(crossings.reshape(width + 1, height), axis=0) % 2
    return parity[:width].astype(bool)


def _is_closed(contour: Dataset) -> bool:
    kind = str(contour.get("ContourGeometricType", "") or "CLOSED_PLANAR")
    return kind in CLOSED and len(contour.get("ContourData") or ()) >= 9


def _to_voxels(image: Volume) -> Float[np.ndarray, "4 4"]:
    return np.linalg.inv(image.affine) @ LPS_TO_RAS


def _points(
    contour: Dataset, to_voxels: Float[np.ndarray, "4 4"], what: str
) -> Float[np.ndarray, "_ 3"]:
    """Corners in voxels; raises VolumeError for a contour across the planes of the image."""
    values = np.array(contour.ContourData, np.float64)
    if len(values) % 3 or not np.isfinite(values).all():
        raise VolumeError(
            "unreadable",
            f"{what}: a contour of {len(values)} numbers, not three for each corner",
            "export the structures again",
        )
    points = values.reshape(-1, 3) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    leaves = float(np.ptp(points[:, 2])) / 2
    if leaves > FLAT:
        raise VolumeError(
            "contour_across_planes",
            f"{what}: a contour leaves the planes of the image by {leaves:.2g} slices: it was "
            "drawn on another series",
            "use the series it was drawn on",
        )
    return np.round(points, ROUNDING)


def _by_plane(
    polygons: Sequence[Float[np.ndarray, "_ 3"]],
) -> dict[int, list[Float[np.ndarray, "_ 2"]]]:
    """Plane of the image -> the contours of the drawn plane nearest to it."""
    drawn: dict[float, list[np.ndarray]] = {}
    for polygon in sorted(polygons, key=lambda points: float(points[:, 2].mean())):
        height = float(polygon[:, 2].mean())
        key = next((k for k in reversed(drawn) if height - k <= SAME_PLANE), height)
        drawn.setdefault(key, []).append(polygon[:, :2])
    nearest: dict[int, float] = {}
    for height in drawn:
        # Contours half a slice off go one way, all of them, however their heights are rounded.
        plane = math.floor(height + 0.5 + HALF_WAY)
        if plane not in nearest or abs(height - plane) < abs(nearest[plane] - plane):
            nearest[plane] = height
    return {plane: drawn[height] for plane, height in nearest.items()}


def _left_of_image(polygons: Sequence[Float[np.ndarray, "_ 2"]], shape: tuple[int, int]) -> int:
    """Grid points inside the polygons but beyond the image."""
    low = np.floor(np.min([points.min(axis=0) for points in polygons], axis=0))
    high = np.ceil(np.max([points.max(axis=0) for points in polygons], axis=0))
    if (low >= 0).all() and (high < shape).all():
        return 0
    width, height = (int(length) for length in high - low + 1)
    if width * height > 16 * shape[0] * shape[1]:  # nonsense: counting it would take all memory
        return width * height
    whole = inside([points - low for points in polygons], (width, height))
    here = inside(polygons, shape)
    return int(whole.sum() - here.sum())


def _gaps(planes: dict[int, list[np.ndarray]], what: str) -> Iterator[Finding]:
    span = max(planes) - min(planes) + 1
    if span > len(planes):
        told = f"{what}: drawn on {len(planes)} of the {span} planes it spans"
        yield Finding(
            "contours_with_gaps", "warning", told, "check that it was drawn on every plane"
        )
