r"""Lesion-patch contrast: a patch of lesion is like the lesion next to it, unlike its surroundings.

A crop is divided into patches of `block` voxels, and the voxels of lesion in each are counted. An
anchor is at least the share `upper` lesion. Of its neighbours (8 in a plane, 26 in space) those
that are anchors too are its positives, and those of at most `lower` are its negatives; with
`distant` the patch twice as far away is taken instead of a negative, if it is as free of lesion.
With f the head's output of a patch and cos the cosine of a pair,

    loss = mean over the pairs of   1 - cos          for a positive
                                    [cos - margin]_+  for a negative

Of each kind `pairs` at most are kept, and as many of one kind as of the other.

It reads the voxel labels of all labelled pool cases: no comparison with arms that see fewer labels
is fair, and the summary says so.

Reading the log: `chance` is the best loss of one cosine for all pairs, (1 - margin) / 2; a batch
without a pair has loss 0. `zero_logits` is the share of the pairs below the margin, which pass no
gradient; with as many positives it stays at one half or less.

Source: Lee et al., "Prostate-Specific Foundation Models for Enhanced Detection of Clinically
Significant Cancer" (ProViCNet), npj Digital Medicine 2026, arXiv:2502.00366.

Differs from the paper: the pairs alone, as pretraining; there they are a part (0.05) of a
supervised loss. Any network: a patch is the mean of the encoder's maps over it instead of a
transformer's token; patches may be divided in depth too.
The head is standardised over the patches of a batch.
Differs from the authors' code: neighbours beyond the border do not exist, where the code wraps
around or fails. Pairs are counted over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from medcl.config import Count, Share, Voxels
from medcl.contrast.gather import gather, gather_all
from medcl.contrast.sphere import collapse_terms
from medcl.data.store import StoredVolume, Triple
from medcl.errors import MedclError, TrainingFailed
from medcl.networks.base import Network
from medcl.networks.heads import Prototypes
from medcl.objectives.base import (
    Batch,
    Embeddings,
    Objective,
    Terms,
    Views,
    in_float32,
    refuse_slices,
)
from medcl.views.augment import Augment, Spacing, apply
from medcl.views.crops import box_at, random_box

UPPER, LOWER = 62 / 64, 2 / 64  # as in the authors' training, of 8x8 pixels
PATCHES_SHOWN = 256  # at most, that show a collapse
AUGMENT = Augment(  # intensity alone, so that patches stay where the labels are
    rotate=(0.0, 0.0),
    scale=(0.0, 0.0),
    bias=(0.0, 0.0),
    coarse=(0.0, 0.0),
)


def lesion_shares(
    lesion: Bool[np.ndarray, "X Y Z"], block: Sequence[int]
) -> Float[np.ndarray, "i j k"]:
    """Share of lesion in each patch of `block` voxels, which divides the shape."""
    shape = [size for n, own in zip(lesion.shape, block, strict=True) for size in (n // own, own)]
    return lesion.reshape(shape).mean((1, 3, 5))


def mine_pairs(
    shares: Float[np.ndarray, "i j k"],
    *,
    upper: float = UPPER,
    lower: float = LOWER,
    distant: bool = False,
    axes: Sequence[int] = (0, 1, 2),
) -> tuple[Int64[np.ndarray, "N 3"], Int64[np.ndarray, "N 3"], Int64[np.ndarray, " N"]]:
    """Anchors, the patches they are compared with, and +1 for a positive and -1 for a negative.

    Anchors in raster order, of each first its positives; neighbours lie along `axes`.
    """
    steps = [(-1, 0, 1) if axis in axes else (0,) for axis in range(3)]
    offsets = [np.array(step) for step in product(*steps) if any(step)]
    found: list[tuple[np.ndarray, np.ndarray, int]] = []
    for anchor in np.argwhere(shares >= upper):
        near = [anchor + offset for offset in offsets]
        found += [(anchor, place, 1) for place in near if _at(shares, place) >= upper]
        for offset, place in zip(offsets, near, strict=True):
            if not 0 <= _at(shares, place) <= lower:
                continue
            if distant:
                place = anchor + 2 * offset
                if not 0 <= _at(shares, place) <= lower:
                    continue
            found.append((anchor, place, -1))
    anchors = np.array([anchor for anchor, _, _ in found], np.int64).reshape(-1, 3)
    places = np.array([place for _, place, _ in found], np.int64).reshape(-1, 3)
    return anchors, places, np.array([kind for _, _, kind in found], np.int64)


def _at(shares: np.ndarray, place: np.ndarray) -> float:
    """Share of a patch; -1 beyond the border."""
    inside = (place >= 0).all() and (place < shares.shape).all()
    return float(shares[tuple(place)]) if inside else -1.0


def balanced(
    kinds: Int64[np.ndarray, " N"], most: int, rng: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """Draw as many positives as negatives, at most `most` of each; in their order."""
    groups = [np.flatnonzero(kinds == kind) for kind in (1, -1)]
    count = min(most, *map(len, groups))
    kept = [rng.choice(group, count, replace=False) for group in groups if count]
    return np.sort(np.concatenate([*kept, np.empty(0, np.int64)]).astype(np.int64))


def margin_losses(
    first: Float[Tensor, "N E"],
    second: Float[Tensor, "N E"],
    positive: Bool[Tensor, " N"],
    margin: float,
) -> Float[Tensor, " N"]:
    """1 - cos of a positive, [cos - margin]_+ of a negative."""
    cosine = F.cosine_similarity(first, second, dim=1)
    return torch.where(positive, 1 - cosine, (cosine - margin).relu())


@dataclass(frozen=True)
class LesionViews(Views):
    """A crop around a voxel of lesion, and its pairs of patches; `spacing` in mm."""

    spacing: Spacing
    size: Triple
    block: Triple
    lesion: int | None
    upper: float
    lower: float
    distant: bool
    pairs: int

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """image; first, second: numbers of the patches of a pair; kind: 1, -1, or 0 for none."""
        (volume,) = volumes
        label = self.marked(volume.read_label(((0, 0, 0), volume.shape)))
        voxels = np.flatnonzero(label)
        if len(voxels):
            middle = np.unravel_index(voxels[int(rng.integers(len(voxels)))], label.shape)
            shifts = [int(rng.integers(side)) for side in self.size]
            corner = [
                min(max(int(at) - shift, min(0, n - side)), max(0, n - side))
                for at, shift, n, side in zip(middle, shifts, label.shape, self.size, strict=True)
            ]
            box = box_at(corner, self.size)
        else:
            box = random_box(volume.shape, volume.body, self.size, rng)
        shares = lesion_shares(self.marked(volume.read_label(box)), self.block)
        axes = [axis for axis, count in enumerate(shares.shape) if count > 1]
        anchors, places, kinds = mine_pairs(
            shares, upper=self.upper, lower=self.lower, distant=self.distant, axes=axes
        )
        kept = balanced(kinds, self.pairs, rng)
        item: Batch = {"image": torch.from_numpy(volume.read(box))}
        for name, values in (
            ("first", _numbers(anchors, shares.shape)),
            ("second", _numbers(places, shares.shape)),
            ("kind", kinds),
        ):
            padded = np.zeros(2 * self.pairs, np.int64)
            padded[: len(kept)] = values[kept]
            item[name] = torch.from_numpy(padded)
        return item

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change the intensities."""
        draw = AUGMENT.draw(
            len(batch["image"]), self.spacing, generator, channels=batch["image"].shape[1]
        )
        return {**batch, "image": apply(batch["image"], None, draw)[0]}

    def marked(self, label: UInt8[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
        """Tell which voxels are of the lesion."""
        return label > 0 if self.lesion is None else label == self.lesion


def _eighth(side: int) -> int:
    """The largest divisor of a side that is an eighth of it at most; 1 of a side below 8."""
    return max(n for n in range(1, max(1, side // 8) + 1) if side % n == 0)


def _numbers(places: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.ravel_multi_index(tuple(places.T), tuple(shape)).astype(np.int64)


class LesionPatches(Objective):
    """Bring patches of lesion together and apart from what is around; see the module's text.

    lesion: number of the class in the plan's order, from 1; every class if absent
    block: voxels of a patch; if absent, along each axis the largest that divides the crop into
        eight patches at least
    upper: least share of lesion of an anchor and of a positive
    lower: largest share of lesion of a negative
    distant: take negatives twice as far away
    pairs: of each kind, of a crop, at most
    margin: cosine below which a negative costs nothing
    hidden: features of the head's layers
    width: features of the head's unit vector
    prototypes: cosines the head gives; 65536 in the authors' code
    crop: voxels of a crop; the plan's crop if absent
    """

    trained = ("down.",)
    reads_labels = True

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        lesion: Count | None = None,
        block: Voxels | None = None,
        upper: Share = UPPER,
        lower: Share = LOWER,
        distant: bool = False,
        pairs: Count = 30,
        margin: Share = 0.5,
        hidden: Count = 512,
        width: Count = 256,
        prototypes: Count = 1024,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("LesionPatches: no `crop`; build it with the plan's, or give it")
        refuse_slices(network, "LesionPatches")
        if block is None:
            x, y, z = (_eighth(side) for side in crop)
            block = (x, y, z)
        if upper <= lower:
            raise MedclError(f"LesionPatches: upper {upper} has to be above lower {lower}")
        if any(side % own for side, own in zip(crop, block, strict=True)) or block == crop:
            raise MedclError(
                f"LesionPatches: block {tuple(block)} does not divide the crop {tuple(crop)} into "
                "patches; choose another `block`"
            )
        views = LesionViews(spacing, crop, block, lesion, upper, lower, distant, pairs)
        super().__init__(network, views)
        self.margin = margin
        x, y, z = (side // own for side, own in zip(crop, block, strict=True))
        self.grid = (x, y, z)
        self.head = Prototypes(
            sum(network.channels), hidden=hidden, width=width, prototypes=prototypes
        )

    def lacks(self, volume: StoredVolume) -> str | None:
        return None if volume.has_label else "a voxel label"

    def begin(self, steps: int, volumes: Sequence[StoredVolume]) -> None:
        """Raises TrainingFailed where no case holds a voxel of lesion."""
        assert isinstance(self.views, LesionViews)
        found: set[int] = set()
        for volume in volumes:
            label = volume.read_label(((0, 0, 0), volume.shape))
            if self.views.marked(label).any():
                return
            found |= set(np.unique(label).tolist()) - {0}
        wanted, known = self.views.lesion, ", ".join(map(str, sorted(found))) or "none"
        raise TrainingFailed(
            f"LesionPatches: no voxel of {'any class' if wanted is None else f'class {wanted}'} "
            f"in the labels of {len(volumes)} pool cases (classes there: {known}); choose another "
            "`lesion`, or another objective"
        )

    def embed(self, batch: Batch) -> Embeddings:
        """patches: the mean of every encoder map over each patch, (B, N, E)."""
        levels = self.network.encode(batch["image"])
        maps = torch.cat([F.adaptive_avg_pool3d(level, self.grid) for level in levels], 1)
        return {"patches": maps.flatten(2).mT}

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, the cosines, the number of pairs, and what shows a collapse."""
        patches = self.head(gather(embeddings["patches"]))
        known = gather_all({name: batch[name] for name in ("first", "second", "kind")})
        kind = known["kind"].flatten()
        pairs = []
        for name in ("first", "second"):
            index = known[name][..., None].expand(-1, -1, patches.shape[-1])
            pairs.append(patches.gather(1, index).flatten(0, 1))
        losses = margin_losses(pairs[0], pairs[1], kind > 0, self.margin)
        used = (kind != 0).to(losses)
        count = used.sum()
        loss = (losses * used).sum() / count.clamp_min(1) + 0 * patches.sum()
        shown = patches.detach().flatten(0, 1)
        with torch.no_grad():
            cosine = F.cosine_similarity(pairs[0], pairs[1], dim=1)
            positive, negative = (
                (cosine * chosen).sum() / chosen.sum().clamp_min(1)
                for chosen in (kind > 0, kind < 0)
            )
        terms: Terms = {
            "chance": (1 - self.margin) / 2 * (count > 0).to(losses),
            "pairs": count,
            "zero_logits": ((losses == 0) * used).sum() / count.clamp_min(1),
            "alignment": 2 - 2 * positive,
            "positive_cosine": positive,
            "negative_cosine": negative,
            **collapse_terms(shown[:: -(-len(shown) // PATCHES_SHOWN)]),
        }
        return loss, terms
