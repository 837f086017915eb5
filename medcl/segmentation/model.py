"""Supervised segmentation: Dice and class-weighted cross-entropy.

    dice = 1/K sum_k 2 sum(p_k g_k) / (sum p_k + sum g_k + e)      over all voxels of the batch
    loss = 1 - dice + sum_v w_{y_v} (-log p_v[y_v]) / sum_v w_{y_v}

K runs over the classes without the background; a class that is nowhere in the batch is left out.
The weight w of every class but the background is `foreground_weight`: with equal weights small
classes collapse to zero when one to four volumes are labelled (measured on cardiac MR).

Voxels labelled IGNORED enter neither sum. In a mixed batch (mixup) g is the mixture of both labels
and the cross-entropy that of the cross-entropies. Mixup: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup:
Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from medcl.networks.base import Network
from medcl.segmentation.regularisers import CoreTuning

EPSILON = 1e-10
IGNORED = 255


class Segmentation(nn.Module):
    """A network with its loss.

    A batch holds `image` (B, C, X, Y, Z) and `label` (B, X, Y, Z); where images were mixed also
    `other_label` and `share` (B), the share of the first. `core_weight` is that of `core_tuning`'s
    contrast.
    """

    weights: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        foreground_weight: float,
        core_tuning: CoreTuning | None = None,
        core_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.core_tuning = core_tuning
        self.core_weight = core_weight
        weights = torch.full((classes + 1,), float(foreground_weight))
        weights[0] = 1.0
        self.register_buffer("weights", weights, persistent=False)

    def embed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, network = batch["image"], self.network
        if self.core_tuning is None:
            return {"logits": network(image)}
        assert isinstance(network, Network)
        features = network.decode(network.encode(image))
        logits = network.shaped_like(image, network.head(features))
        return {"logits": logits, "features": features}

    def compare(
        self, embeddings: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = embeddings["logits"].float()
        target, known = _target(batch, logits)
        log_p = logits.log_softmax(1)
        weighted = target * self.weights.to(logits.dtype).view(1, -1, *[1] * (logits.ndim - 2))
        cross_entropy = -(weighted * log_p).sum() / (weighted.sum() + EPSILON)
        present = target.flatten(2).sum((0, 2))[1:] > 0
        loss = dice_loss(log_p.exp() * known[:, None], target, over_batch=True, classes=present)
        terms = {"dice_loss": loss.detach(), "cross_entropy": cross_entropy.detach()}
        total = loss + cross_entropy
        if self.core_tuning is not None:
            label = torch.where(known, batch["label"].long(), IGNORED)
            head: nn.Module = self.network.head  # type: ignore[assignment]
            contrast, mixed = self.core_tuning(embeddings["features"], label, head)
            terms |= {"core_contrast": contrast.detach(), "core_mixed": mixed.detach()}
            total = total + self.core_weight * contrast + mixed
        return total, terms

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.compare(self.embed(batch), batch)


def _target(
    batch: dict[str, Tensor], logits: Float[Tensor, "B K *space"]
) -> tuple[Float[Tensor, "B K *space"], Bool[Tensor, "B *space"]]:
    """Soft classes of the voxels, 0 throughout where nothing is known, and where that is not."""
    label = batch["label"]
    known, target = label != IGNORED, one_hot(label, logits)
    if "other_label" in batch:
        other = batch["other_label"]
        share = batch["share"].to(logits).view(-1, *[1] * (logits.ndim - 1))
        known = known & (other != IGNORED)
        target = (share * target + (1 - share) * one_hot(other, logits)) * known[:, None]
    return target, known


def one_hot(
    label: Integer[Tensor, "B *space"], like: Float[Tensor, "B K *space"]
) -> Float[Tensor, "B K *space"]:
    """1 in the channel of each label, 0 throughout for a label without a channel."""
    classes = torch.arange(like.shape[1], device=label.device)
    return (label[:, None] == classes.view(1, -1, *[1] * (like.ndim - 2))).to(like)


def dice_loss(
    probabilities: Float[Tensor, "B K *space"],
    target: Float[Tensor, "B K *space"],
    *,
    background: bool = False,
    over_batch: bool = False,
    classes: Tensor | None = None,
) -> Float[Tensor, ""]:
    """1 - mean Dice over classes, per image or `over_batch`.

    `background` counts class 0 too. `classes`: which of the counted classes enter the mean; 0 with
    a zero gradient if none does.
    """
    if not background:
        probabilities, target = probabilities[:, 1:], target[:, 1:]
    axes = [axis for axis in range(probabilities.ndim) if axis != 1]
    if not over_batch:
        axes.remove(0)
    overlap = (probabilities * target).sum(axes)
    total = probabilities.sum(axes) + target.sum(axes)
    dice = 2 * overlap / (total + EPSILON)
    if classes is None:
        return 1 - dice.mean()
    kept = classes.to(dice)
    return ((1 - dice) * kept).sum() / (kept.expand_as(dice).sum() + EPSILON)
