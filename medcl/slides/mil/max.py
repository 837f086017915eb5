r"""Max pooling: of each feature only the largest instance counts.

    h_k = relu(W h'_k + b),   z_d = max_k h_kd,   logits = Linear(z)

The attention told is the share of the features whose maximum an instance holds; of equal instances
the first holds it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.slides.mil.base import BagPrediction, Pooling


class Max(Pooling):
    """Largest value of each feature; see the module's text."""

    def pooled(self, features: Tensor, mask: Tensor) -> Tensor:
        return self._largest(features, mask, None)[0]

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
