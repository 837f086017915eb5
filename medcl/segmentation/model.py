"""Supervised segmentation: Dice and class-weighted cross-entropy.

    dice = 1/K sum_k 2 sum(p_k g_k) / (sum p_k + sum g_k + e)      over all voxels of the batch
    loss = 1 - dice + sum_v w_{y_v} (-log p_v[y_v]) / sum_v w_{y_v}

K runs over the classes without the background; a class that is nowhere in the batch is left out.
The weight w of every class but the background is `foreground_weight`: with equal weights small
classes collapse to zero when one to four volumes are labelled (measured on cardiac MR).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-10


class Segmentation(nn.Module):
    """A network with its loss; a batch holds `image` (B, C, X, Y, Z) and `label` (B, X, Y, Z)."""

    weights: Tensor

    def __init__(self, network: nn.Module, *, classes: int, foreground_weight: float) -> None:
        super().__init__()
        self.network = network
        weights = torch.full((classes + 1,), float(foreground_weight))
        weights[0] = 1.0
        self.register_buffer("weights", weights, persistent=False)

    def embed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.network(batch["image"])}

    def compare(
        self, embeddings: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = embeddings["logits"].float()
        label = batch["label"].long()
        cross_entropy = F.cross_entropy(logits, label, weight=self.weights.to(logits.dtype))
        present = torch.bincount(label.flatten(), minlength=logits.shape[1])[1:] > 0
        loss = dice_loss(logits.softmax(1), label, over_batch=True, classes=present)
        terms = {"dice_loss": loss.detach(), "cross_entropy": cross_entropy.detach()}
        return loss + cross_entropy, terms

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.compare(self.embed(batch), batch)


def dice_loss(
    probabilities: Float[Tensor, "B K *space"],
    label: Int[Tensor, "B *space"],
    *,
    background: bool = False,
    over_batch: bool = False,
    classes: Tensor | None = None,
) -> Float[Tensor, ""]:
    """1 - mean Dice over classes, per image or `over_batch`.

    `background` counts class 0 too. `classes`: which of the counted classes enter the mean; 0 with
    a zero gradient if none does.
    """
    one_hot = F.one_hot(label, probabilities.shape[1]).movedim(-1, 1).to(probabilities)
    if not background:
        probabilities, one_hot = probabilities[:, 1:], one_hot[:, 1:]
    axes = [axis for axis in range(probabilities.ndim) if axis != 1]
    if not over_batch:
        axes.remove(0)
    overlap = (probabilities * one_hot).sum(axes)
    total = probabilities.sum(axes) + one_hot.sum(axes)
    dice = 2 * overlap / (total + EPSILON)
    if classes is None:
        return 1 - dice.mean()
    kept = classes.to(dice)
    return ((1 - dice) * kept).sum() / (kept.expand_as(dice).sum() + EPSILON)
