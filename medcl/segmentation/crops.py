"""Labelled crops for fine-tuning: a share of them is centred on a voxel of a drawn class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from medcl.data.store import Box, StoredVolume
from medcl.errors import TrainingFailed
from medcl.segmentation.model import IGNORED
from medcl.views.augment import Augment, apply

VOXELS_KEPT = 20_000  # per case and class; enough to centre crops on, small in memory


@runtime_checkable
class Labelled(Protocol):
    """What a labelled volume offers: its size, and the voxels and classes of a box."""

    @property
    def has_label(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    def read(self, box: Box) -> np.ndarray: ...
    def read_label(self, box: Box) -> np.ndarray: ...


class LabelledCrops:
    """Crops of the labelled cases with image and label; cases are drawn evenly.

    `foreground` is the share centred on a voxel of a class drawn evenly among those of the case,
    so that a small class is seen as often as a large one. `augment` None leaves crops as they are.
    `mixup` is the parameter of the Beta distribution crops of a batch are mixed by; 0 mixes none.
    Of a `crop` of one voxel along an axis, crops are slices, drawn in the same way.
    """

    def __init__(
        self,
        volumes: Sequence[Labelled],
        *,
        crop: tuple[int, int, int],
        spacing: tuple[float, float, float],
        foreground: float,
        augment: Augment | None,
        mixup: float = 0.0,
    ) -> None:
        self.volumes = [volume for volume in volumes if volume.has_label]
        if not self.volumes:
            raise TrainingFailed(
                "no labelled case of the subset is in the store; nothing to train on"
            )
        self.crop = crop
        self.spacing = spacing
        self.foreground = foreground
        self.augmentation = augment
        self.mixup = mixup
        self.centres = [_centres(volume) for volume in self.volumes]

    def item(self, rng: np.random.Generator) -> dict[str, Tensor]:
        which = int(rng.integers(len(self.volumes)))
        volume, centres = self.volumes[which], self.centres[which]
        if centres and rng.random() < self.foreground:
            voxels = centres[int(rng.integers(len(centres)))]
            box = box_around(voxels[int(rng.integers(len(voxels)))], volume, self.crop, rng)
        else:
            box = box_anywhere(volume, self.crop, rng)
        return {
            "image": torch.from_numpy(volume.read(box)),
            "label": torch.from_numpy(volume.read_label(box)),
        }

    def augment(self, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        if self.augmentation is not None:
            image = batch["image"]
            draw = self.augmentation.draw(
                len(image), self.spacing, rng, size=self.crop, channels=image.shape[1]
            )
            image, label = apply(image, batch["label"], draw)
            assert label is not None
            batch = {"image": image, "label": label}
        return mixed(batch, self.mixup, rng) if self.mixup else batch


def mixed(batch: dict[str, Tensor], alpha: float, rng: torch.Generator) -> dict[str, Tensor]:
    """Mix each image with the next of the batch, shares drawn from Beta(alpha, alpha).

    `label` is the one with the larger share, `other_label` the other.
    """
    image, label = batch["image"], batch["label"]
    if len(image) < 2:
        raise TrainingFailed(
            "mixup: one crop on this device has no other to be mixed with; raise `batch` to twice "
            "the number of devices"
        )
    # numpy draws Beta from a generator, torch from its global one alone
    seed = int(torch.randint(2**62, (), generator=rng))
    drawn = np.random.default_rng(seed).beta(alpha, alpha, len(image))
    share = torch.from_numpy(np.maximum(drawn, 1 - drawn)).to(image)
    mix = share.view(-1, *[1] * (image.ndim - 1))
    return {
        "image": mix * image + (1 - mix) * image.roll(1, 0),
        "label": label,
        "other_label": label.roll(1, 0),
        "share": share,
    }


@dataclass(frozen=True)
class PseudoLabelled:
    """A stored volume with labels somebody predicted; IGNORED where they are not trusted."""

    volume: StoredVolume
    file: Path

    has_label = True

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.volume.shape

    def read(self, box: Box) -> np.ndarray:
        return self.volume.read(box)

    def read_label(self, box: Box) -> np.ndarray:
        return replace(self.volume, label=self.file).read_label(box)


@dataclass(frozen=True)
class SharedCrops:
    """Crops of labelled cases, and for `share` of the items of others."""

    labelled: LabelledCrops
    others: LabelledCrops
    share: float

    def item(self, rng: np.random.Generator) -> dict[str, Tensor]:
        return (self.others if rng.random() < self.share else self.labelled).item(rng)

    def augment(self, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        return self.labelled.augment(batch, rng)


def _centres(volume: Labelled) -> list[np.ndarray]:
    """Voxels of each class of a case, thinned evenly; classes without a voxel are left out."""
    label = volume.read_label(((0, 0, 0), volume.shape))
    found = []
    for value in np.unique(label[(label > 0) & (label != IGNORED)]):
        voxels = np.argwhere(label == value)
        found.append(voxels[:: max(1, len(voxels) // VOXELS_KEPT)])
    return found


def box_anywhere(volume: Labelled, crop: tuple[int, int, int], rng: np.random.Generator) -> Box:
    """A crop within the volume; centred on an axis that is shorter than the crop."""
    start = [
        int(rng.integers(size - length + 1)) if size >= length else (size - length) // 2
        for size, length in zip(volume.shape, crop, strict=True)
    ]
    return _box(start, crop)


def box_around(
    voxel: np.ndarray, volume: Labelled, crop: tuple[int, int, int], rng: np.random.Generator
) -> Box:
    """A crop that holds `voxel` in its inner half, kept within the volume where it fits."""
    start = []
    for place, size, length in zip(voxel, volume.shape, crop, strict=True):
        shift = int(rng.integers(-(length // 4), length // 4 + 1))
        lowest, highest = sorted((0, size - length))
        if size < length:
            lowest = highest = (size - length) // 2
        start.append(int(np.clip(int(place) - length // 2 + shift, lowest, highest)))
    return _box(start, crop)


def _box(start: Sequence[int], crop: tuple[int, int, int]) -> Box:
    first = (start[0], start[1], start[2])
    return first, (start[0] + crop[0], start[1] + crop[1], start[2] + crop[2])
