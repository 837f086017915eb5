"""Core-tuning: fine-tuning that contrasts the classes, hardest pairs first.

Voxels of one class are drawn together and those of different classes apart while the network is
fine-tuned. From the features x of drawn voxels (N of them, with soft labels y) two kinds of
mixtures are made,

    negatives   a x_o(i) + (1 - a) x_i            o a permutation, a >= 0.8
    positives   l x_p(i) + (1 - l) x_n(i)         p(i) the least similar row of the class of i,
                                                  n(i) the most similar row of another class

their labels mixed alike. Originals and mixtures go through the head (cross-entropy with soft
labels: a smoother boundary between the classes) and, projected to the unit sphere as f, through

    p_ij = exp(f_i.f_j / t) / sum_{k != i} exp(f_i.f_k / t)
    L = 1/A sum_i 1/N sum_{j in P(i)} (1 - p_ij) (-log p_ij)

where P(i) are the other rows with the label of i and A counts the rows that have any.

Source: Zhang, Hooi, Hu, Liang, Feng, "Unleashing the Power of Contrastive Self-Supervised Visual
Models via Contrast-Regularized Fine-Tuning", NeurIPS 2021, arXiv:2102.06605.

Differs from the paper: rows are voxels of the decoder's last feature map, as many of each class,
instead of images.
Differs from the authors' code: a row that is no positive never is the hardest one (there it is,
wherever cosines are not negative); cross-entropy reaches the encoder through the originals too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_SHARE = 0.8  # of the permuted row in a hard negative


def focal_contrast(
    unit: Float[Tensor, "N E"],
    labels: Float[Tensor, "N K"] | Integer[Tensor, " N"],
    temperature: float,
) -> Float[Tensor, ""]:
    """The loss L above; 0, still attached to the graph, if no row has a positive.

    Soft labels are of one class only if they are identical. The factor (1 - p) has a gradient.
    """
    rows = len(unit)
    if labels.ndim == 1:
        same = labels[:, None] == labels[None, :]
    else:
        same = (labels[:, None, :] == labels[None, :, :]).all(-1)
    itself = torch.eye(rows, dtype=torch.bool, device=unit.device)
    positive = same & ~itself
    logits = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    log_p = logits.log_softmax(1).masked_fill(itself, 0.0)
    terms = (1 - log_p.exp()) * -log_p * positive
    anchors = positive.any(1).sum().clamp_min(1)
    return terms.sum() / rows / anchors


def hard_mixtures(
    features: Float[Tensor, "N E"],
    labels: Float[Tensor, "N K"],
    order: Integer[Tensor, " N"],
    share_negative: Float[Tensor, " N"],
    share_positive: Float[Tensor, " N"],
) -> tuple[Float[Tensor, "M E"], Float[Tensor, "M K"]]:
    """Originals, hard negatives, hard positives (3 N rows) and their labels.

    order: the permutation o. share_negative: a, raised to 0.8 where it is less. share_positive: l.
    A row without a positive is its own; one without a negative likewise.
    """
    with torch.no_grad():
        unit = F.normalize(features, dim=1)
        cosine = unit @ unit.T
        same = (labels[:, None, :] == labels[None, :, :]).all(-1)
        itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
        alone = torch.arange(len(features), device=features.device)
        positive = cosine.masked_fill(~same | itself, torch.inf).argmin(1)
        positive = torch.where((same & ~itself).any(1), positive, alone)
        negative = cosine.masked_fill(same, -torch.inf).argmax(1)
        negative = torch.where((~same).any(1), negative, alone)
    a = share_negative.clamp_min(LEAST_SHARE)[:, None].to(features)
    b = share_positive[:, None].to(features)
    rows, soft = [features], [labels]
    for first, second, share in ((order, alone, a), (positive, negative, b)):
        rows.append(share * features[first] + (1 - share) * features[second])
        soft.append(share.to(labels) * labels[first] + (1 - share.to(labels)) * labels[second])
    return torch.cat(rows), torch.cat(soft)


class CoreTuning(nn.Module):
    """The regulariser over drawn voxels of a feature map.

    channels: of the feature map. voxels: drawn of each class of a batch. alpha: of the Beta
    distribution of the shares. Draws come from torch's own generator, which `fit` seeds each step.
    """

    def __init__(
        self,
        channels: int,
        *,
        voxels: int = 32,
        width: int = 64,
        temperature: float = 0.07,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        self.voxels, self.temperature = voxels, temperature
        self.beta = torch.distributions.Beta(alpha, alpha)
        self.projector = nn.Sequential(
            nn.Linear(channels, width), nn.ReLU(inplace=True), nn.Linear(width, width)
        )

    def forward(
        self,
        features: Float[Tensor, "B F *space"],
        label: Integer[Tensor, "B *space"],
        head: nn.Module,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Focal contrast, and cross-entropy of the mixtures.

        `head` is the pointwise convolution that follows `features`; a label it has no channel for
        is not drawn.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._terms(features, label, head)

    def _terms(self, features: Tensor, label: Tensor, head: nn.Module) -> tuple[Tensor, Tensor]:
        classes: int = head.out_channels  # type: ignore[assignment]
        flat = features.movedim(1, -1).flatten(0, -2).float()
        places = [self._drawn(label.flatten() == value) for value in range(classes)]
        rows = torch.cat(places)
        labels = F.one_hot(label.flatten()[rows].long(), classes).float()
        n = len(rows)
        order = torch.randperm(n).to(rows.device)
        shares = [self.beta.sample((n,)).to(flat) for _ in range(2)]
        mixed, soft = hard_mixtures(flat[rows], labels, order, *shares)
        weight: Tensor = head.weight  # type: ignore[assignment]
        bias: Tensor = head.bias  # type: ignore[assignment]
        logits = F.linear(mixed, weight.flatten(1).float(), bias.float())
        unit = F.normalize(self.projector(mixed), dim=1)
        return focal_contrast(unit, soft, self.temperature), F.cross_entropy(logits, soft)

    def _drawn(self, chosen: Tensor) -> Integer[Tensor, " n"]:
        places = chosen.nonzero().flatten()
        if len(places) <= self.voxels:
            return places
        return places[torch.randperm(len(places))[: self.voxels].to(places.device)]
