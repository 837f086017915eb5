"""The plan: what the images of the pool say about spacing, crop, strides and intensities.

Every choice follows from the fingerprint of the pool's images; no label and no image of a
validation or test subject is looked at. A key the user gives wins and is marked `given`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from medcl.config import Dataset, Dicom, Intensity, PlanKeys
from medcl.data.body import find_body
from medcl.data.channels import filled
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
from medcl.files import read_yaml, sha256_of

FORMAT = 1
ORIENTATION = "RAS"

ANISOTROPIC = 3.0  # from here on the thick axis is planned apart from the others
THICK_PERCENTILE = 10  # of the thick axis' spacings: thinner slices need not be thrown away
PERCENTILES = (0.5, 1, 5, 25, 50, 75, 95, 99, 99.5)
SAMPLE = 10_000  # body voxels of a volume in the fingerprint
CT_BODY_HU = -500.0  # between lung or fat and air
CT_RANGE_HU = (-1024.0, 3071.0)  # twelve bits of HU: what lies outside is metal or padding
# Per cent of the body's voxels. Uptake worth seeing is in the last per cent of PET.
LIMITS = {"PET": (0.0, 99.9)}
LIMITS_OTHERWISE = (1.0, 99.0)
OF_NO_VOXEL = {"keep_identifiers"}  # of the rules for DICOM: what is recorded, not what is read


@dataclass(frozen=True)
class Channel:
    """A named channel of the network's input; `body_threshold` as in the plan."""

    name: str
    modality: str
    intensity: Intensity
    body_threshold: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "modality": self.modality,
            "intensity": self.intensity.model_dump(),
            "body_threshold": self.body_threshold,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Channel:
        intensity = Intensity.model_validate(content["intensity"])
        return cls(content["name"], content["modality"], intensity, content["body_threshold"])


@dataclass(frozen=True)
class Plan:
    """All derived choices. Spacing (mm), crop (voxels) and strides are along the RAS axes.

    `classes` is ordered by value: class k of a network's output is the k-th, 0 the background.
    `body_threshold` parts body from air (HU); None: found in each volume. `across` is the axis
    across the slices of a 2-D network, along which volumes keep their spacing; None: 3-D. `inputs`
    are the channels where they have names, `reference` the one whose grid a case has; `intensity`
    and `body_threshold` are then those of the first. `dicom` says how series became volumes: those
    of new scans must become so too.
    """

    modality: str
    classes: dict[str, int]
    spacing: Spacing
    crop: Triple
    strides: tuple[Triple, ...]
    channels: int
    intensity: Intensity
    body_threshold: float | None
    threads: int
    fingerprint: dict[str, Any]
    given: tuple[str, ...] = ()
    across: int | None = None
    inputs: tuple[Channel, ...] = ()
    reference: str | None = None
    dicom: Dicom = field(default_factory=Dicom)

    @property
    def intensities(self) -> list[Intensity]:
        """The rule of each channel."""
        return [channel.intensity for channel in self.inputs] or [self.intensity] * self.channels

    @property
    def body_thresholds(self) -> list[float | None]:
        """That of each channel."""
        named = [channel.body_threshold for channel in self.inputs]
        return named or [self.body_threshold] * self.channels

    def spacing_of(self, own: Spacing) -> Spacing:
        """Spacing (mm) a volume is resampled to; `own` is the one it has."""
        x, y, z = (
            mine if axis == self.across else planned
            for axis, (mine, planned) in enumerate(zip(own, self.spacing, strict=True))
        )
        return x, y, z

    @property
    def values(self) -> tuple[int, ...]:
        """Label value of each channel of a network's output, the background's 0 first."""
        return (0, *self.classes.values())

    def to_dict(self) -> dict[str, Any]:
        """The content of plan.yaml: plain numbers, strings, lists and mappings."""
        return {
            "format": FORMAT,
            "dims": 3 if self.across is None else 2,
            "across": self.across,
            "modality": self.modality,
            "classes": dict(self.classes),
            "orientation": ORIENTATION,
            "channels": self.channels,
            "spacing": list(self.spacing),
            "crop": list(self.crop),
            "strides": [list(stride) for stride in self.strides],
            "intensity": self.intensity.model_dump(),
            "body": {
                "rule": "otsu" if self.body_threshold is None else "threshold",
                "threshold": self.body_threshold,
            },
            "inputs": [channel.to_dict() for channel in self.inputs],
            "reference": self.reference,
            "dicom": self.dicom.model_dump(exclude=OF_NO_VOXEL),
            "threads": self.threads,
            "given": list(self.given),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], *, where: str = "plan") -> Plan:
        """Raises MedclError if `content` was written by another format of the plan."""
        if content.get("format") != FORMAT:
            raise MedclError(
                f"{where}: format {content.get('format')} of the plan, this version reads "
                f"{FORMAT}; run plan again"
            )
        strides = tuple(triple(stride) for stride in content["strides"])
        x, y, z = content["spacing"]
        return cls(
            modality=content["modality"],
            classes=_by_value(content["classes"]),
            spacing=(float(x), float(y), float(z)),
            crop=triple(content["crop"]),
            strides=strides,
            channels=content["channels"],
            intensity=Intensity.model_validate(content["intensity"]),
            body_threshold=content["body"]["threshold"],
            threads=content["threads"],
            fingerprint=content["fingerprint"],
            given=tuple(content["given"]),
            across=content.get("across"),
            inputs=tuple(map(Channel.from_dict, content.get("inputs", ()))),
            reference=content.get("reference"),
            dicom=Dicom.model_validate(content.get("dicom", {})),  # absent in plans of old
        )

    def preparation_sha256(self) -> str:
        """Hash of what decides a prepared volume, not of what only training uses."""
        keys = ["classes", "orientation", "channels", "spacing", "intensity", "body"]
        if self.across is not None:  # stores of volumes keep the hash they were made with
            keys.append("across")
        if self.inputs:  # stores of one channel keep the hash they were made with
            keys += ["inputs", "reference"]
        return sha256_of({key: self.to_dict()[key] for key in keys})


def read_plan(path: str | Path) -> Plan:
    """Read plan.yaml; raises MedclError if it is missing or of another format."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise MedclError(f"{path}: no such file; run plan first") from None
    return Plan.from_dict(content, where=str(path))


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
        classes=_by_value(dataset.classes),
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


def _by_value(classes: dict[str, int]) -> dict[str, int]:
    return dict(sorted(classes.items(), key=lambda item: item[1]))


def _rounded(values: Any) -> list[float]:
    """Six significant digits: enough to read, and equal wherever the images are."""
    return [float(f"{float(value):.6g}") for value in values]
