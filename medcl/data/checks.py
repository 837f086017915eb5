"""What makes a volume usable: place, values and labels, each problem a coded finding.

error: the case is quarantined; warning: accepted, and worth a look; info: nothing is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from jaxtyping import Integer, Num

from medcl.data.volume import (
    GRID_TOLERANCE,
    Volume,
    VolumeError,
    blank,
    grid_distance,
    is_sheared,
    reorient,
    same_grid,
    turned_grid,
)

DRIVE = re.compile(r"(?:^|/)([A-Za-z]:[\\/])")  # of Windows
SPACING_MM = (0.01, 20.0)  # outside: a unit other than mm, or a thumbnail


@dataclass(frozen=True)
class Finding:
    """One observation about one input."""

    code: str
    severity: Literal["error", "warning", "info"]
    message: str
    remedy: str = ""

    @classmethod
    def of(cls, error: VolumeError) -> Finding:
        return cls(error.code, "error", error.message, error.remedy)

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def check_image(volume: Volume, path: str, *, channels: int = 1) -> list[Finding]:
    """Findings on the place and the values of an image; `channels` is how many it should have."""
    findings = check_grid(volume, path, channels=channels)
    findings += check_values(volume.array, path)
    return findings


def check_grid(volume: Volume, path: str, *, channels: int = 1) -> list[Finding]:
    """Findings on what a header tells: the place and the channels of an image."""
    findings = check_place(volume, path)
    if len(volume.array) != channels:
        findings.append(
            _error(
                "not_3d",
                f"{path}: {len(volume.array)} values per voxel (time points, directions or "
                f"colours), expected {channels}",
                "supply one 3-D file per case",
            )
        )
    return findings


def check_place(volume: Volume, path: str) -> list[Finding]:
    """Findings on the affine and the shape."""
    affine, shape = volume.affine, volume.shape
    if min(shape) < 2:
        shown = "x".join(map(str, shape))
        return [
            _error("not_3d", f"{path}: a picture of {shown} voxels", "supply a volume, not a slice")
        ]
    if not np.isfinite(affine).all():
        return [_error("affine_not_finite", f"{path}: the affine holds NaN or inf", _REWRITE)]
    if not (affine[3] == (0, 0, 0, 1)).all() or _is_singular(affine):
        return [
            _error(
                "affine_singular",
                f"{path}: the affine has no inverse, spacing {_spacing(volume)}",
                _REWRITE,
            )
        ]
    findings = []
    if is_sheared(affine):
        findings.append(
            _error(
                "affine_sheared",
                f"{path}: the axes are not at right angles (a tilted gantry, or a registration)",
                "resample it to a grid with right angles",
            )
        )
    if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in volume.spacing):
        low, high = SPACING_MM
        findings.append(
            _error(
                "implausible_spacing",
                f"{path}: spacing {_spacing(volume)}, expected {low:g} to {high:g} mm",
                "correct the spacing; the unit is mm",
            )
        )
    return findings


def check_values(array: Num[np.ndarray, "C X Y Z"], path: str) -> list[Finding]:
    """Findings on intensities: finite, and not all the same."""
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()  # NaN and inf show here, without a second array
    if not (np.isfinite(low) and np.isfinite(high)):
        wrong = ~np.isfinite(array)
        first = ", ".join(str(int(i)) for i in np.argwhere(wrong)[0][1:])
        return [
            _error(
                "not_finite",
                f"{path}: {int(wrong.sum())} of {array.size} voxels are NaN or inf, "
                f"the first at ({first})",
                "replace them by the value of the background",
            )
        ]
    if low == high:
        return [
            _error(
                "constant",
                f"{path}: every voxel is {float(low):g}",
                "supply the image, or remove the case",
            )
        ]
    return []


def check_affines(header: Any, shape: tuple[int, int, int], path: str) -> list[Finding]:
    """Warn where the two affines of a NIfTI header disagree, or where it has none."""
    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except (ValueError, nib.spatialimages.HeaderDataError):  # not a rotation
        qform = np.full((4, 4), np.nan)
    if sform is None and qform is None:
        return [no_orientation(path, "neither sform nor qform is set")]
    if sform is None or qform is None or _is_singular(sform):
        return []
    apart = grid_distance(blank((1, *shape), sform), blank((1, *shape), qform))
    if apart <= GRID_TOLERANCE:
        return []
    by = f"by up to {apart:.2g} voxels" if np.isfinite(apart) else "(the qform is no rotation)"
    return [
        Finding(
            "sform_qform_differ",
            "warning",
            f"{path}: sform and qform place the volume differently {by}; the sform is used",
            "remove the wrong one",
        )
    ]


def no_orientation(path: str | Path, why: str) -> Finding:
    return Finding(
        "no_orientation",
        "warning",
        f"{path}: {why}; its sides are guessed",
        "set the affine, or make sure that all cases lie alike",
    )


def align_label(
    label: Volume, image: Volume, label_path: str, image_path: str
) -> tuple[Volume, list[Finding]]:
    """The label on the axes of the image, and what keeps the two from lying on one grid.

    A label that only stores its axes in another order or direction is turned; voxels are never
    interpolated. GRID_TOLERANCE is the share of a voxel two corners may lie apart.
    """
    if len(label.array) != 1:
        wrong = f"{label_path}: {len(label.array)} values per voxel in a label map"
        return label, [_error("not_3d", wrong, "supply one label map with a value per class")]
    if findings := check_place(label, label_path):
        return label, findings
    if same_grid(label, image):
        return label, []
    turned = turned_grid(label, image.orientation)
    if same_grid(turned, image):
        return reorient(label, image.orientation), [
            Finding(
                "label_reoriented",
                "info",
                f"{label_path}: stored as {label.orientation}, the image as {image.orientation}; "
                "a turned copy is used",
            )
        ]
    if turned.shape != image.shape:
        return label, [
            _error(
                "shape_differs",
                f"{label_path}: {_shape(label)} voxels, but the image {image_path} has "
                f"{_shape(image)}",
                "supply the label map on the grid of its image",
            )
        ]
    apart = grid_distance(turned, image)
    return label, [
        _error(
            "affine_differs",
            f"{label_path}: lies up to {apart:.3g} voxels away from the image {image_path}",
            f"resample it to the grid of its image (tolerance {GRID_TOLERANCE:g} of a voxel)",
        )
    ]


def check_label_values(
    values: list[int], path: str, classes: Mapping[str, int] | None
) -> list[Finding]:
    """Findings on the values of a label map; `classes` None: any value is accepted and listed."""
    if values == [0]:
        return [
            Finding(
                "empty_label",
                "warning",
                f"{path}: holds background only",
                "check that this patient has none of the classes",
            )
        ]
    if classes is None:
        return [Finding("label_values", "info", f"{path}: values {_list(values)}")]
    undeclared = [value for value in values if value not in (0, *classes.values())]
    if undeclared:
        declared = ", ".join(f"{value} {name}" for name, value in classes.items())
        return [
            _error(
                "undeclared_label_values",
                f"{path}: value {_list(undeclared)} is not declared; "
                f"declared are 0 background, {declared}",
                "add it to `classes`, or correct the label map",
            )
        ]
    return []


def label_values(array: Integer[np.ndarray, "..."]) -> list[int]:
    """The values that occur, in order."""
    if array.min() < 0 or array.max() >= 1 << 16:
        return [int(value) for value in np.unique(array)]
    seen = np.zeros(int(array.max()) + 1, bool)  # several times faster than sorting
    seen[array.ravel(order="K")] = True
    return [int(value) for value in np.flatnonzero(seen)]


def missing_file(code: str, path: str | Path) -> Finding:
    if drive := DRIVE.search(str(path)):
        told = f"{str(path)[drive.start(1) :]}: a path of another computer, no such file here"
        return _error(code, told, "write it as seen from the table, with / between folders")
    gone = next((folder for folder in reversed(Path(path).parents) if not folder.exists()), None)
    why = f" (there is no folder {gone})" if gone else ""
    remedy = "correct its path, supply it, or remove the case from the table"
    return _error(code, f"{path}: no such file{why}", remedy)


_REWRITE = "write a valid affine with the tool that made the file"


def _error(code: str, message: str, remedy: str) -> Finding:
    return Finding(code, "error", message, remedy)


def _is_singular(affine: np.ndarray) -> bool:
    """Judged on unit axes, so that a fine spacing is not taken for a singular matrix."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.min() < 1e-9 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4)


def _spacing(volume: Volume) -> str:
    return " x ".join(f"{s:g}" for s in volume.spacing) + " mm"


def _shape(volume: Volume) -> str:
    return "x".join(map(str, volume.shape))


def _list(values: list[int], most: int = 20) -> str:
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
