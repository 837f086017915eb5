"""Labelled crops for fine-tuning: a share of them is centred on a voxel of a drawn class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medcl.data.store import Box, Store, StoredVolume
from medcl.errors import TrainingFailed
from medcl.views.augment import Augment, apply

VOXELS_KEPT = 20_000  # per case and class; enough to centre crops on, small in memory


class LabelledCrops:
    """Crops of the labelled cases with image and label; cases are drawn evenly.

    `foreground` is the share centred on a voxel of a class drawn evenly among those of the case,
    so that a small class is seen as often as a large one. `augment` None leaves crops as they are.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[str],
        *,
        crop: tuple[int, int, int],
        spacing: tuple[float, float, float],
        foreground: float,
        augment: Augment | None,
    ) -> None:
        self.volumes = [store[case] for case in cases if store[case].has_label]
        if not self.volumes:
            raise TrainingFailed(
                "no labelled case of the subset is in the store; nothing to train on"
            )
        self.crop = crop
        self.spacing = spacing
        self.foreground = foreground
        self.augmentation = augment
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
        if self.augmentation is None:
            return batch
        draw = self.augmentation.draw(
            len(batch["image"]), self.spacing, rng, channels=batch["image"].shape[1]
        )
        image, label = apply(batch["image"], batch["label"], draw)
        assert label is not None
        return {"image": image, "label": label}


def _centres(volume: StoredVolume) -> list[np.ndarray]:
    """Voxels of each class of a case, thinned evenly; classes without a voxel are left out."""
    label = volume.read_label(((0, 0, 0), volume.shape))
    found = []
    for value in np.unique(label[label > 0]):
        voxels = np.argwhere(label == value)
        found.append(voxels[:: max(1, len(voxels) // VOXELS_KEPT)])
    return found


def box_anywhere(volume: StoredVolume, crop: tuple[int, int, int], rng: np.random.Generator) -> Box:
    """A crop within the volume; centred on an axis that is shorter than the crop."""
    start = [
        int(rng.integers(size - length + 1)) if size >= length else (size - length) // 2
        for size, length in zip(volume.shape, crop, strict=True)
    ]
    return _box(start, crop)


def box_around(
    voxel: np.ndarray, volume: StoredVolume, crop: tuple[int, int, int], rng: np.random.Generator
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
