"""Planes become a grid: order, distance, gaps and tilt, judged by positions alone.

SliceThickness and SpacingBetweenSlices are never believed. A gap that a multiple of the slice
distance fills is a missing slice; any other distance is uneven. Where the configuration allows,
both are mended by linear interpolation along the stack, and a tilted stack is sheared onto a grid
with right angles; every mended series says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num

from medcl.config import Dicom
from medcl.data.checks import Finding
from medcl.data.dicom_planes import Plane
from medcl.data.volume import LPS_TO_RAS, VolumeError, is_sheared

STEP_TOLERANCE = 0.05  # share of the slice distance: positions are often rounded to 0.01 mm
SAME_DIRECTION = 1e-3  # largest difference of the components of two orientations
SAME_PLACE_MM = 1e-3
FEWEST_SLICES = 3  # with two there is no second distance to tell a gap by


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in order. `places`: where, counted in planes, each slice of the grid lies between
    them, None where every slice is a plane. `slide`: by how many columns and rows each slice of a
    tilted stack lies beside the one before, which the affine leaves out; None where none does.
    """

    planes: tuple[Plane, ...]
    affine: Float64[np.ndarray, "4 4"]
    places: tuple[float, ...] | None = None
    slide: tuple[float, float] | None = None
    findings: tuple[Finding, ...] = ()


def normal_of(plane: Plane) -> Float64[np.ndarray, "3"]:
    return np.cross(np.array(plane.row), np.array(plane.column))


def places_along(
    planes: Sequence[Plane], normal: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, " n"]:
    """Where the planes lie along a normal, in mm, sorted."""
    return np.sort(np.array([plane.position for plane in planes]) @ normal)


def same_direction(a: Plane, b: Plane) -> bool:
    pairs = zip((*a.row, *a.column), (*b.row, *b.column), strict=True)
    return max(abs(x - y) for x, y in pairs) <= SAME_DIRECTION


def stack(where: str, planes: Sequence[Plane], options: Dicom) -> Stack:
    """Order planes of one orientation, no two at one place. Raises VolumeError for no grid."""
    if len(planes) == 1:
        raise VolumeError(
            "single_slice", f"{where}: a single slice, {planes[0].name}", "supply the whole series"
        )
    _check_alike(where, planes)
    normal = normal_of(planes[0])
    planes = sorted(
        planes, key=lambda plane: (float(np.array(plane.position) @ normal), plane.name)
    )
    along = np.array([plane.position for plane in planes]) @ normal
    steps = np.diff(along)
    findings: list[Finding] = []
    if len(planes) < max(2, options.fewest_slices):
        raise VolumeError(
            "too_few_slices",
            f"{where}: {len(planes)} slices; gaps show only with {FEWEST_SLICES} or more",
            "supply the whole series, or lower `dicom.fewest_slices`",
        )
    if len(planes) < FEWEST_SLICES:
        told = f"{where}: two slices {steps[0]:.4g} mm apart; a gap between them would not show"
        findings.append(Finding("two_slices", "warning", told, "check their distance"))
    step = float(np.sort(steps)[(len(steps) - 1) // 2])  # a gap must not become the rule
    counts = np.round(steps / step).astype(int)
    affine = _affine(where, planes, along)
    places = None
    if counts.min() < 1 or np.abs(steps - counts * step).max() > STEP_TOLERANCE * step:
        places = _even_out(where, planes, steps, options, findings)
        affine[:3, 2] *= float(along[-1] - along[0]) / (len(places) - 1)
    elif counts.max() > 1:
        places = _fill(where, planes, along, counts, options, findings)
        affine[:3, 2] *= float(along[-1] - along[0]) / (len(places) - 1)
    else:
        affine[:3, 2] *= float(along[-1] - along[0]) / len(steps)
    slide = None
    if is_sheared(affine):
        slide = _straighten(where, affine, normal, options, findings)
    return Stack(tuple(planes), LPS_TO_RAS @ affine, places, slide, tuple(findings))


def _check_alike(where: str, planes: Sequence[Plane]) -> None:
    """One orientation, one matrix, one pixel spacing."""
    for item in planes[1:]:
        if not same_direction(item, planes[0]):
            raise VolumeError(
                "mixed_orientation",
                f"{where}: {item.name} lies in another orientation than {planes[0].name}",
                "give each orientation a folder of its own",
            )
    grids = Counter((*p.size, *(round(mm, 4) for mm in p.spacing)) for p in planes)
    if len(grids) > 1:
        shown = ", ".join(
            f"{n} slices of {r}x{c} at {a:g}x{b:g} mm" for (r, c, a, b), n in grids.most_common()
        )
        raise VolumeError(
            "mixed_geometry",
            f"{where}: slices of different size or spacing ({shown})",
            "give each its own folder",
        )


def _affine(
    where: str, planes: Sequence[Plane], along: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "4 4"]:
    """Voxel indices (column, row, 1 mm along the normal) to LPS mm; planes must lie on a line."""
    first, last = planes[0], planes[-1]
    corner = np.array(first.position)
    per_mm = (np.array(last.position) - corner) / (along[-1] - along[0])
    line = corner + np.outer(along - along[0], per_mm)
    beside = np.linalg.norm(np.array([p.position for p in planes]) - line, axis=1)
    if beside.max() > STEP_TOLERANCE * float(np.median(np.diff(along))):
        raise VolumeError(
            "mixed_geometry",
            f"{where}: {planes[int(beside.argmax())].name} lies {beside.max():.3g} mm beside the "
            "line of the others",
            "supply slices of one acquisition",
        )
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.row) * first.spacing[1]
    affine[:3, 1] = np.array(first.column) * first.spacing[0]
    affine[:3, 2] = per_mm
    affine[:3, 3] = corner
    return affine


def _fill(
    where: str,
    planes: Sequence[Plane],
    along: Float64[np.ndarray, " n"],
    counts: Num[np.ndarray, " m"],
    options: Dicom,
    findings: list[Finding],
) -> tuple[float, ...]:
    gap = int(np.argmax(counts > 1))
    missing = int((counts - 1).sum())
    told = (
        f"{where}: {missing} of {len(planes) + missing} slices are missing, the first between "
        f"{along[gap]:.4g} and {along[gap + 1]:.4g} mm ({planes[gap].name} and "
        f"{planes[gap + 1].name})"
    )
    if not options.allow_missing_slices:
        raise VolumeError(
            "missing_slices",
            told,
            "supply the slices, add the case to `exclude`, or set `dicom.allow_missing_slices`",
        )
    if missing >= len(planes):
        raise VolumeError("missing_slices", f"{told}; too many to fill", "supply the slices")
    told = f"{told}; filled by linear interpolation"
    findings.append(Finding("slices_interpolated", "warning", told, "look at the case"))
    places = [i + k / n for i, n in enumerate(counts) for k in range(n)]
    return (*map(float, places), float(len(counts)))


def _even_out(
    where: str,
    planes: Sequence[Plane],
    steps: Float64[np.ndarray, " m"],
    options: Dicom,
    findings: list[Finding],
) -> tuple[float, ...]:
    """Places of slices at equal distances, as many as the smallest common distance asks."""
    step = float(np.sort(steps)[(len(steps) - 1) // 2])
    worst = int(np.abs(steps - np.round(steps / step) * step).argmax())
    told = (
        f"{where}: slices are {steps.min():.4g} to {steps.max():.4g} mm apart, such as "
        f"{planes[worst].name} and {planes[worst + 1].name}"
    )
    if not options.allow_missing_slices:
        raise VolumeError(
            "uneven_spacing",
            told,
            "supply slices at equal distances, or set `dicom.allow_missing_slices`",
        )
    along = np.concatenate(([0.0], np.cumsum(steps)))
    count = max(2, round(along[-1] / step) + 1)
    if count > 2 * len(planes) or steps.min() < 0.1 * step:
        raise VolumeError(
            "uneven_spacing", f"{told}; too uneven to mend", "supply slices at equal distances"
        )
    findings.append(
        Finding(
            "slices_interpolated",
            "warning",
            f"{told}; resampled linearly to {count} slices {along[-1] / (count - 1):.4g} mm apart",
            "look at the case",
        )
    )
    targets = np.linspace(0, along[-1], count)
    return tuple(np.interp(targets, along, np.arange(len(along))).tolist())


def _straighten(
    where: str,
    affine: Float64[np.ndarray, "4 4"],
    normal: Float64[np.ndarray, "3"],
    options: Dicom,
    findings: list[Finding],
) -> tuple[float, float]:
    """Put the third axis of `affine` onto the normal; the shift per slice along columns, rows."""
    step = affine[:3, 2].copy()
    angle = math.degrees(math.acos(min(1.0, float(normal @ step / np.linalg.norm(step)))))
    told = f"{where}: slices are stacked at {angle:.1f} degrees to their normal (tilted gantry)"
    if options.gantry_tilt != "shear":
        raise VolumeError(
            "gantry_tilt",
            told,
            "resample the series to right angles first, or set `dicom.gantry_tilt: shear`",
        )
    if angle > 45:
        raise VolumeError("gantry_tilt", f"{told}; too much to mend", "check the positions")
    across = step - normal * (normal @ step)
    slide = tuple(
        float(across @ affine[:3, k]) / float(affine[:3, k] @ affine[:3, k]) for k in (0, 1)
    )
    affine[:3, 2] = normal * (normal @ step)
    told = f"{told}; sheared linearly onto right angles"
    findings.append(Finding("tilt_sheared", "warning", told, "look at the case"))
    return slide[0], slide[1]
