r"""Max pooling: of each feature only the largest instance counts.

    h_k = relu(W h'_k + b),   z_d = max_k h_kd,   logits = Linear(z)

The attention told is the share of the features whose maximum an instance holds; of equal instances
the first holds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medcl.config import Count, Share
from medcl.slides.mil.base import (
    Aggregator,
    BagPrediction,
    Batch,
    Terms,
    bag_accuracy,
    embedding,
)


class Max(Aggregator):
    """Largest value of each feature; see the module's text.

    width: features of an embedded instance; null takes the features as they are
    dropout: of the embedded instance
    """

    def __init__(
        self,
        features: int,
        classes: int,
        class_weights: Sequence[float] | None = None,
        *,
        width: Count | None = 512,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(features, classes, class_weights)
        self.embed = embedding(features, width, dropout)
        self.width = width or features
        self.classifier = nn.Linear(self.width, classes)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        largest, _ = self._largest(batch["features"], batch["mask"], None)
        logits = self.classifier(largest)
        loss = self.cross_entropy(logits, batch["label"])
        return loss, {"accuracy": bag_accuracy(logits, batch["label"])}

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        largest, holders = self._largest(features, mask, chunk)
        attention = largest.new_zeros(mask.shape)
        attention.scatter_add_(1, holders, torch.full_like(largest, 1 / self.width))
        return BagPrediction(self.classifier(largest).softmax(1), attention)

    def _largest(self, features: Tensor, mask: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
        """The largest value of each feature (B, E) and the number of the instance it is of."""
        values, holders, first = [], [], 0
        there = mask.split(chunk or mask.shape[1], dim=1)
        for piece, kept in zip(self.pieces(features, chunk), there, strict=True):
            embedded = self.embed(piece).masked_fill(~kept[..., None], -torch.inf)
            value, holder = embedded.max(1)
            values.append(value)
            holders.append(holder + first)
            first += piece.shape[1]
        largest, part = torch.stack(values).max(0)
        return largest, torch.stack(holders).gather(0, part[None])[0]
