"""Make the plan: what the images of the pool say about spacing, crop, strides and intensities.

Every choice follows from the fingerprint of the pool's images; no label and no image of a
validation or test subject is looked at. A key the user gives wins and is marked `given`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from medcl.config import Dataset, Intensity, PlanKeys
from medcl.data.body import find_body
from medcl.data.channels import filled
from medcl.data.plan import OF_NO_VOXEL, ORIENTATION, Channel, Plan, by_value
from medcl.data.strides import (
    Spacing,
    Triple,
    check_divisible,
    check_slices,
    check_strides,
    dividing_strides,
    fit_crop,
    natural_strides,
    product,
    shrunk,
    thick_axis,
    triple,
)
from medcl.data.volume import Volume, reorient
from medcl.errors import MedclError

ANISOTROPIC = 3.0  # from here on the thick axis is planned apart from the others
THICK_PERCENTILE = 10  # of the thick axis' spacings: thinner slices need not be thrown away
PERCENTILES = (0.5, 1, 5, 25, 50, 75, 95, 99, 99.5)
SAMPLE = 10_000  # body voxels of a volume in the fingerprint
CT_BODY_HU = -500.0  # between lung or fat and air
CT_RANGE_HU = (-1024.0, 3071.0)  # twelve bits of HU: what lies outside is metal or padding
# Per cent of the body's voxels. Uptake worth seeing is in the last per cent of PET.
LIMITS = {"PET": (0.0, 99.9)}
LIMITS_OTHERWISE = (1.0, 99.0)


@dataclass(frozen=True)
class Measured:
    """What the plan needs to know of one image; lengths along the RAS axes.

    `sample` are values of the body, NaN where a channel shows nothing.
    """

    case: str
    shape: Triple
    spacing: Spacing
    body_mm: tuple[float, float, float]
    sample: Float32[np.ndarray, "C N"]


def body_threshold(modality: str) -> float | None:
    """The value that parts body from air (HU), where the modality has one."""
    return CT_BODY_HU if modality == "CT" else None


def measure(case: str, volume: Volume, modality: str, *others: str) -> Measured:
    """Measure one image of the pool; one modality of all its channels, or one of each."""
    volume = reorient(volume, ORIENTATION)
    modalities = [modality, *others] if others else [modality] * len(volume.array)
    body = find_body(filled(volume), threshold=[body_threshold(name) for name in modalities])
    x, y, z = (
        (high - low) * spacing for low, high, spacing in zip(*body.box, volume.spacing, strict=True)
    )
    values = body.values(volume.array)
    values = values[:, :: max(1, math.ceil(values.shape[1] / SAMPLE))]
    return Measured(case, volume.shape, volume.spacing, (x, y, z), values.astype(np.float32))


def make_plan(
    measured: Sequence[Measured], dataset: Dataset, *, cases: int, names: Sequence[str] = ()
) -> Plan:
    """Derive the plan; `cases` is the number of pool images, of which `measured` were read.

    `names` are those of the channels. Raises MedclError if the images differ in channels or given
    keys contradict one another.
    """
    channels = _same_channels(measured)
    keys = dataset.plan
    spacing = keys.spacing or _spacing([image.spacing for image in measured])
    across = thick_axis(spacing) if keys.dims == 2 else None
    body_mm = np.median([image.body_mm for image in measured], axis=0)
    needed = triple(
        1 if axis == across else max(1, math.ceil(mm / step - 1e-6))
        for axis, (mm, step) in enumerate(zip(body_mm, spacing, strict=True))
    )
    if across is not None:
        check_slices(keys.crop, keys.strides, across)
    if keys.crop and keys.strides:
        crop, strides = keys.crop, check_strides(tuple(keys.strides))
        check_divisible(crop, strides)
    elif keys.crop:
        crop, strides = keys.crop, dividing_strides(keys.crop, spacing)
    elif keys.strides:
        strides = check_strides(tuple(keys.strides))
        crop = fit_crop(needed, spacing, triple(product(strides)))
    else:
        strides = natural_strides(shrunk(needed, spacing), spacing)
        crop = fit_crop(needed, spacing, triple(product(strides)))
    fingerprint = _fingerprint(measured, cases)
    inputs = _inputs(dataset, names, fingerprint["intensity_percentiles"])
    return Plan(
        modality=dataset.modality,
        classes=by_value(dataset.classes),
        spacing=spacing,
        crop=crop,
        strides=strides,
        channels=channels,
        intensity=inputs[0].intensity
        if inputs
        else _intensity(dataset.modality, keys.intensity, fingerprint["intensity_percentiles"]),
        body_threshold=inputs[0].body_threshold if inputs else body_threshold(dataset.modality),
        threads=keys.threads or 1,
        fingerprint=fingerprint,
        given=_given(keys),
        across=across,
        inputs=inputs,
        reference=(dataset.reference or names[0]) if names else None,
        dicom=dataset.dicom.model_copy(update=dict.fromkeys(OF_NO_VOXEL, False)),
    )


def _given(keys: PlanKeys) -> tuple[str, ...]:
    """The keys the user gave, of the rules of channels each by its name."""
    told = keys.model_dump(exclude_none=True)
    named = told.pop("channel_intensity")
    return tuple(sorted([*told, *(f"channel_intensity.{name}" for name in named)]))


def _inputs(
    dataset: Dataset, names: Sequence[str], percentiles: list[list[float]]
) -> tuple[Channel, ...]:
    """The named channels, each with its own modality's rule unless another one is given."""
    keys = dataset.plan
    if unknown := sorted(set(keys.channel_intensity).difference(names)):
        raise MedclError(
            f"plan.channel_intensity.{unknown[0]}: no such channel; there are "
            f"{', '.join(names) or 'none with a name'}"
        )
    inputs = []
    for name, row in zip(names, percentiles if names else (), strict=True):
        modality = dataset.modality_of(name)
        given = keys.channel_intensity.get(name, keys.intensity)
        rule = _intensity(modality, given, [row])
        inputs.append(Channel(name, modality, rule, body_threshold(modality)))
    return tuple(inputs)


def _spacing(spacings: Sequence[Spacing]) -> Spacing:
    table = np.array(spacings)
    target = np.median(table, axis=0)
    thick = int(target.argmax())
    others = np.delete(target, thick)
    if target[thick] >= ANISOTROPIC * others.min():
        thin = np.percentile(table[:, thick], THICK_PERCENTILE)
        target[thick] = max(thin, others.max())
    x, y, z = (round(float(mm), 6) for mm in target)
    return x, y, z


def _intensity(modality: str, given: Intensity | None, percentiles: list[list[float]]) -> Intensity:
    """The modality's rule, or the given one; what it leaves open is filled."""
    rule = given.rule if given else "window" if modality == "CT" else "percentiles"
    if rule == "zscore":
        return Intensity(rule=rule, low=None, high=None)
    if rule == "percentiles":
        low, high = LIMITS.get(modality, LIMITS_OTHERWISE)
    else:
        low, high = min(row[0] for row in percentiles), max(row[-1] for row in percentiles)
        if modality == "CT":
            low, high = (float(np.clip(round(value), *CT_RANGE_HU)) for value in (low, high))
        high = high if high > low else low + 1
    if given and given.low is not None:
        low = given.low
    if given and given.high is not None:
        high = given.high
    if not low < high:
        raise MedclError(f"plan.intensity: low {low} is not below high {high}; change one of them")
    return Intensity(rule=rule, low=low, high=high)


def _fingerprint(measured: Sequence[Measured], cases: int) -> dict[str, Any]:
    shapes = np.array([image.shape for image in measured])
    spacings = np.array([image.spacing for image in measured])
    bodies = np.array([image.body_mm for image in measured])
    sample = np.concatenate([image.sample for image in measured], axis=1)
    median = np.median(spacings, axis=0)
    return {
        "cases": cases,
        "images_read": len(measured),
        "shape_median": _rounded(np.median(shapes, axis=0)),
        "shape_range": [shapes.min(axis=0).tolist(), shapes.max(axis=0).tolist()],
        "spacing_median": _rounded(median),
        "spacing_range": [_rounded(spacings.min(axis=0)), _rounded(spacings.max(axis=0))],
        "anisotropy": _rounded([median.max() / median.min()])[0],
        "body_mm_median": _rounded(np.median(bodies, axis=0)),
        "body_mm_range": [_rounded(bodies.min(axis=0)), _rounded(bodies.max(axis=0))],
        "percentiles": list(PERCENTILES),
        "intensity_percentiles": [
            _rounded(
                np.percentile(
                    seen if (seen := channel[~np.isnan(channel)]).size else 0.0, PERCENTILES
                )
            )
            for channel in sample
        ],
    }


def _same_channels(measured: Sequence[Measured]) -> int:
    counts: dict[int, list[str]] = {}
    for image in measured:
        counts.setdefault(len(image.sample), []).append(image.case)
    if len(counts) > 1:
        listed = "; ".join(
            f"{channels} channels: {len(names)} cases, such as {names[0]}"
            for channels, names in sorted(counts.items())
        )
        raise MedclError(
            f"the pool's images differ in channels ({listed}); exclude the cases of one kind"
        )
    return next(iter(counts))


def _rounded(values: Any) -> list[float]:
    """Six significant digits: enough to read, and equal wherever the images are."""
    return [float(f"{float(value):.6g}") for value in values]
