"""The plan: every choice about spacing, crop, strides and intensities, as plan.yaml holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcl.config import Dicom, Intensity
from medcl.data.strides import Spacing, Triple, triple
from medcl.errors import MedclError
from medcl.files import read_yaml, sha256_of

FORMAT = 1
ORIENTATION = "RAS"
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
            classes=by_value(content["classes"]),
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


def by_value(classes: dict[str, int]) -> dict[str, int]:
    """The classes in the order of their values."""
    return dict(sorted(classes.items(), key=lambda item: item[1]))
