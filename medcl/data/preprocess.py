"""From a volume as it was acquired to a network's input, and from its output back.

A volume is turned to RAS, cropped to the body, resampled to the plan's spacing (for a 2-D network
within its slices alone) and given the plan's intensity rule. `restore` takes the same way back, to
the voxels of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32, Float64, Integer, Num, UInt8

from medcl.config import Intensity
from medcl.data.body import find_body
from medcl.data.channels import filled
from medcl.data.plan import ORIENTATION, Plan
from medcl.data.resample import Axis, apply, axis_matrices, most_probable, resample
from medcl.data.store import Box
from medcl.data.volume import Volume, reorient, same_grid
from medcl.errors import MedclError

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Geometry:
    """A grid in space: voxels, and the affine from voxels to mm (RAS+)."""

    shape: Triple
    affine: Float64[np.ndarray, "4 4"]

    @classmethod
    def of(cls, volume: Volume) -> Geometry:
        return cls(volume.shape, volume.affine)

    def volume(self) -> Volume:
        """A volume of zeros on this grid that takes no memory."""
        return Volume(np.broadcast_to(np.uint8(0), (1, *self.shape)), self.affine)


@dataclass(frozen=True)
class Prepared:
    """A network's input and what `restore` needs.

    `body` is in voxels of the array; `fill` the value of each channel outside it; `crop` the
    part of the `canonical` (RAS) grid that the array covers; `original` the grid of the file.
    """

    array: Float32[np.ndarray, "C X Y Z"]
    affine: Float64[np.ndarray, "4 4"]
    spacing: tuple[float, float, float]
    body: Box
    fill: tuple[float, ...]
    crop: Box
    canonical: Geometry
    original: Geometry

    @property
    def shape(self) -> Triple:
        return self.array.shape[1:]


def prepare(volume: Volume, plan: Plan) -> Prepared:
    """Make the network's input; NaN (a channel shows nothing there) counts for no intensity.

    Raises MedclError for another number of channels than the plan's, and for an axis shorter
    than one voxel of the plan's spacing.
    """
    if len(volume.array) != plan.channels:
        raise MedclError(
            f"the image has {len(volume.array)} channels, the plan's images have {plan.channels}; "
            "exclude it or supply all channels"
        )
    seen = reorient(volume, ORIENTATION)
    canonical = filled(seen)
    body = find_body(canonical, threshold=plan.body_thresholds)
    scales = [
        _scale(_shown_values(inside, channel), rule)
        for inside, channel, rule in zip(
            body.values(seen.array), seen.array, plan.intensities, strict=True
        )
    ]
    if canonical is not seen:
        canonical = _background(seen, canonical, plan, scales)
    part = _cropped(canonical, body.crop)
    spacing = plan.spacing_of(part.spacing)
    try:
        resampled = resample(part, spacing)
    except ValueError as error:
        raise MedclError(f"{error}; exclude it or choose a finer `spacing`") from None
    array = resampled.array
    for channel, (low, scale), rule in zip(array, scales, plan.intensities, strict=True):
        channel -= low
        channel /= scale
        if rule.rule != "zscore":
            np.clip(channel, 0, 1, out=channel)
    return Prepared(
        array=array,
        affine=resampled.affine,
        spacing=spacing,
        body=_body_box(body.box, body.crop, part.shape, part.spacing, resampled),
        fill=tuple(
            float(channel.min()) if rule.rule == "zscore" else 0.0
            for channel, rule in zip(array, plan.intensities, strict=True)
        ),
        crop=body.crop,
        canonical=Geometry.of(canonical),
        original=Geometry.of(volume),
    )


def prepare_label(
    label: Volume, prepared: Prepared, plan: Plan
) -> tuple[UInt8[np.ndarray, "X Y Z"], int]:
    """Bring a label map of the same file grid to the prepared grid, as class numbers.

    Class k is the k-th of the plan; values of no class become background. Also returns how many
    labelled voxels of the file lie outside the prepared part. Raises MedclError for another grid.
    """
    if not same_grid(label, prepared.original.volume()):
        raise MedclError(
            f"the label's grid ({_shown(label)}) is not the image's "
            f"({_shown(prepared.original.volume())}); resample the label to the image"
        )
    # The image's affine: rounding in the label's must not turn its axes another way.
    canonical = reorient(Volume(label.array[:1], prepared.original.affine), ORIENTATION)
    classes = Volume(_class_numbers(canonical.array, plan.values), canonical.affine)
    part = _cropped(classes, prepared.crop)
    outside = np.count_nonzero(classes.array) - np.count_nonzero(part.array)
    return resample(part, prepared.spacing, labels=True).array[0], int(outside)


def restore(
    probabilities: Float[np.ndarray, "K X Y Z"],
    prepared: Prepared,
    values: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "x y z"]:
    """Bring probabilities on the prepared grid back to the file's grid, as a label map.

    They are interpolated linearly, then the largest is taken; outside the prepared part all is
    background. `values` are the label values of the channels (`plan.values`), else their numbers.
    """
    if probabilities.shape[1:] != prepared.shape:
        raise ValueError(
            f"expected probabilities of {prepared.shape} voxels, got {probabilities.shape[1:]}"
        )
    table = np.array(range(len(probabilities)) if values is None else values, np.uint8)
    return _in_file_order(table[most_probable(probabilities, _way_back(prepared))], prepared)


def restore_values(
    values: Float32[np.ndarray, "X Y Z"], prepared: Prepared
) -> Float32[np.ndarray, "x y z"]:
    """Bring values on the prepared grid back to the file's grid, linearly; 0 outside the part."""
    return _in_file_order(apply(_way_back(prepared), values[None])[0], prepared)


def _way_back(prepared: Prepared) -> list[Axis]:
    """Linear interpolation from the prepared grid to the voxels of the part it covers."""
    size, spacing = _size(prepared.crop), prepared.canonical.volume().spacing
    return axis_matrices(prepared.shape, prepared.spacing, size, spacing, order=1)


def _in_file_order(part: Num[np.ndarray, "X Y Z"], prepared: Prepared) -> Num[np.ndarray, "x y z"]:
    """The whole grid of the file, 0 outside the part."""
    whole = np.zeros((1, *prepared.canonical.shape), part.dtype)
    whole[0][tuple(slice(low, high) for low, high in zip(*prepared.crop, strict=True))] = part
    codes = "".join(nib.aff2axcodes(prepared.original.affine))
    turned = reorient(Volume(whole, prepared.canonical.affine), codes)
    return np.ascontiguousarray(turned.array[0])


def _shown_values(
    body: Num[np.ndarray, " N"], channel: Num[np.ndarray, "X Y Z"]
) -> Num[np.ndarray, " n"]:
    """Those of the body, or of the whole channel if it shows none of the body."""
    shown = body[~np.isnan(body)]
    return shown if shown.size else channel[~np.isnan(channel)]


def _scale(body: Num[np.ndarray, " N"], intensity: Intensity) -> tuple[float, float]:
    """What becomes 0, and how much more becomes 1; `body` are values before resampling."""
    if intensity.rule == "zscore":
        low, scale = float(body.mean(dtype=np.float64)), float(body.std(dtype=np.float64))
    else:
        assert intensity.low is not None  # the plan fills both
        assert intensity.high is not None
        low, high = intensity.low, intensity.high
        if intensity.rule == "percentiles":
            low, high = (float(value) for value in np.percentile(body, (low, high)))
        scale = high - low
    return low, scale if scale > 0 else 1.0


def _background(
    seen: Volume, canonical: Volume, plan: Plan, scales: Sequence[tuple[float, float]]
) -> Volume:
    """What a channel does not show becomes what lies outside a volume: `Prepared.fill`."""
    array = canonical.array.copy()
    for channel, given, (low, _), rule in zip(
        array, seen.array, scales, plan.intensities, strict=True
    ):
        if rule.rule != "zscore":
            channel[np.isnan(given)] = low
    return Volume(array, canonical.affine)


def _cropped(volume: Volume, box: Box) -> Volume:
    part = tuple(slice(low, high) for low, high in zip(*box, strict=True))
    affine = volume.affine.copy()
    affine[:3, 3] = volume.affine[:3, :3] @ np.array(box[0]) + volume.affine[:3, 3]
    return Volume(volume.array[(slice(None), *part)], affine)


def _body_box(box: Box, crop: Box, shape: Triple, spacing: Any, resampled: Volume) -> Box:
    """The body's box in voxels of the resampled array; every voxel it touches."""
    corners = []
    for edge, to_whole in zip(box, (np.floor, np.ceil), strict=True):
        # Both grids have the same centre.
        mm = (np.array(edge) - crop[0] - np.array(shape) / 2) * spacing
        voxels = mm / resampled.spacing + np.array(resampled.shape) / 2
        corners.append(np.clip(to_whole(voxels.round(3)), 0, resampled.shape).astype(int))
    (x0, y0, z0), (x1, y1, z1) = (corner.tolist() for corner in corners)
    return (x0, y0, z0), (x1, y1, z1)


def _class_numbers(
    labels: Integer[np.ndarray, "*any"], values: Sequence[int]
) -> UInt8[np.ndarray, "*any"]:
    """The place of each label in the ascending `values`, 0 where it is none of them."""
    known = np.array(values)
    places = np.searchsorted(known, labels).clip(max=len(known) - 1)
    return np.where(known[places] == labels, places, 0).astype(np.uint8)


def _size(box: Box) -> Triple:
    x, y, z = (high - low for low, high in zip(*box, strict=True))
    return x, y, z


def _shown(volume: Volume) -> str:
    spacing = " x ".join(f"{mm:.3g}" for mm in volume.spacing)
    origin = ", ".join(f"{mm:.1f}" for mm in volume.affine[:3, 3])
    return f"{'x'.join(map(str, volume.shape))} voxels of {spacing} mm from ({origin})"
