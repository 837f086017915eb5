r"""Masked reconstruction: fill in what was hidden, through the whole U-Net.

Of the blocks of a crop a share `mask` is hidden. The network sees x m (m = 1 where visible) and a
1x1 convolution on its last decoder map gives the reconstruction y. Over the hidden voxels that lie
in the volume, H of them with C channels:

    loss = 1 / (H C) sum_hidden (y - x)^2

The target x is the crop after augmentation, before hiding. Encoder and decoder are both trained;
the new convolution is thrown away. It is the reference that a contrastive objective has to beat.

Reading the log: `chance` is the variance of the hidden voxels about the mean of their crop, which
an answer that ignores the visible voxels cannot beat.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377;
through a convolutional U-Net as in the OpenMind benchmark of Wald et al., ICCV 2025 (nnssl).

Differs from the paper: the hidden blocks are zeros in a convolutional network, which computes on
them, instead of tokens left out of a transformer; no normalisation of the target by block.
Differs from nnssl's code: blocks adapt to the crop (a quarter of each side, at most nnssl's 16
voxels), the hidden share is exact in every crop, and voxels outside the volume do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medcl.config import Share, Voxels
from medcl.contrast.gather import gather, summed
from medcl.contrast.sphere import collapse_terms
from medcl.data.store import StoredVolume, Triple
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.networks.unet import CONVOLUTION
from medcl.objectives.base import Batch, Embeddings, Objective, Terms, Views, in_float32
from medcl.views.augment import Augment, Spacing, apply, covered
from medcl.views.crops import random_box

BLOCK_MAX = 16  # voxels
VECTORS = 256  # of the bottleneck, at most, that show a collapse; a mean per crop would be too few
AUGMENT = Augment(  # as nnssl: space only, the intensities are the target
    flip=(0.5, 0.5, 0.5),
    rotate=(0.2, 20.0),
    scale=(0.2, 0.3),
    bias=(0.0, 0.0),
    gamma=(0.0, 0.0),
    gain=(0.0, 0.0),
    offset=(0.0, 0.0),
    blur=(0.0, 0.0),
    coarse=(0.0, 0.0),
    noise=(0.0, 0.0),
)


def masked_errors(
    prediction: Float[Tensor, "B C *space"],
    target: Float[Tensor, "B C *space"],
    counted: Bool[Tensor, "B 1 *space"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean squared and mean absolute error over the counted voxels of all ranks; 0 without any."""
    count = (summed(counted.sum()) * target.shape[1]).clamp_min(1)
    difference = (prediction - target).masked_fill(~counted, 0)
    return summed(difference.square().sum()) / count, summed(difference.abs().sum()) / count


def hidden_variance(
    target: Float[Tensor, "B C *space"], counted: Bool[Tensor, "B 1 *space"]
) -> Float[Tensor, ""]:
    """Mean squared distance of the counted voxels from the mean of their crop and channel."""
    space = tuple(range(2, target.ndim))
    kept = target.masked_fill(~counted, 0)
    mean = kept.sum(space, keepdim=True) / counted.sum(space, keepdim=True).clamp_min(1)
    return masked_errors(mean.expand_as(target), target, counted)[0]


def draw_blocks(
    batch: int, blocks: Triple, hidden: float, generator: torch.Generator
) -> Bool[Tensor, "B i j k"]:
    """Draw the visible blocks: all but the share `hidden`, at least one of each kind."""
    total = int(np.prod(blocks))
    count = min(max(1, round(hidden * total)), total - 1)
    order = torch.rand(batch, total, generator=generator).argsort(1)
    return (order.argsort(1) >= count).view(batch, *blocks)


def blocks_to_voxels(
    blocks: Bool[Tensor, "B i j k"], block: Triple, shape: Triple
) -> Bool[Tensor, "B 1 X Y Z"]:
    """Voxels of the blocks; the last block of an axis may be cut short."""
    for axis, size in enumerate(block, start=1):
        blocks = blocks.repeat_interleave(size, axis)
    x, y, z = shape
    return blocks[:, None, :x, :y, :z]


@dataclass(frozen=True)
class MAEViews(Views):
    """One random crop and the blocks hidden from it; `spacing` in mm."""

    spacing: Spacing
    size: Triple
    block: Triple
    mask: float

    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """image: the crop; inside: 1 where it lies in the volume."""
        (volume,) = volumes
        box = random_box(volume.shape, volume.body, self.size, rng)
        inside = torch.zeros(self.size, dtype=torch.uint8)
        low, high = box
        inside[
            tuple(
                slice(max(0, -first), length - first if last > length else None)
                for first, last, length in zip(low, high, volume.shape, strict=True)
            )
        ] = 1
        return {"image": torch.from_numpy(volume.read(box)), "inside": inside}

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """image: moved; visible: what the network sees; counted: hidden and in the volume."""
        images = batch["image"]
        draw = AUGMENT.draw(
            len(images), self.spacing, generator, size=self.size, channels=images.shape[1]
        )
        image, inside = apply(images, batch["inside"], draw)
        assert inside is not None
        in_volume = (inside > 0) & covered(draw, self.size, image.device)
        x, y, z = (-(-n // side) for n, side in zip(self.size, self.block, strict=True))
        blocks = draw_blocks(len(image), (x, y, z), self.mask, generator).to(image.device)
        visible = blocks_to_voxels(blocks, self.block, self.size)
        return {"image": image, "visible": visible, "counted": ~visible & in_volume[:, None]}


class MAE(Objective):
    """Fill in hidden blocks of a crop; see the module's text.

    mask: share of the blocks that is hidden
    block: voxels of a block; a quarter of the crop, at most 16 voxels, if absent
    crop: voxels of a crop; the plan's crop if absent
    """

    trained = ("down.", "up.", "merge.")

    def __init__(
        self,
        network: Network,
        spacing: Spacing = (1.0, 1.0, 1.0),
        *,
        mask: Share = 0.75,
        block: Voxels | None = None,
        crop: Voxels | None = None,
    ) -> None:
        if crop is None:
            raise MedclError("MAE: no `crop`; build it with the plan's, or give the voxels")
        if block is None:
            x, y, z = (min(BLOCK_MAX, max(1, side // 4)) for side in crop)
            block = (x, y, z)
        if all(side >= whole for side, whole in zip(block, crop, strict=True)):
            raise MedclError(f"MAE: one block {block} covers the crop {crop}; lower `block`")
        super().__init__(network, MAEViews(spacing, crop, block, mask))
        self.reconstruct = CONVOLUTION[network.dims](network.channels[0], network.channels_in, 1)

    def embed(self, batch: Batch) -> Embeddings:
        """prediction: the reconstruction; bottleneck: vectors of the coarsest map, (B, N, E)."""
        features = self.network.encode(batch["image"] * batch["visible"])
        prediction = self.network.shaped_like(
            batch["image"], self.reconstruct(self.network.decode(features))
        )
        bottleneck = features[-1].detach().flatten(2).mT
        return {"prediction": prediction, "bottleneck": bottleneck}

    @in_float32
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """The loss, the absolute error, the chance level and what shows a collapse."""
        target, counted = batch["image"], batch["counted"]
        squared, absolute = masked_errors(embeddings["prediction"], target, counted)
        vectors = gather(embeddings["bottleneck"]).flatten(0, 1)
        terms: Terms = {
            "absolute": absolute.detach(),
            "chance": hidden_variance(target, counted),
            **collapse_terms(vectors[:: -(-len(vectors) // VECTORS)]),
        }
        return squared, terms
