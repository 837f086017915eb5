r"""Mean pooling: the baseline in which every instance counts alike.

    h_k = relu(W h'_k + b),   z = 1/N sum_k h_k,   logits = Linear(z)

The classifier is linear, so the logits of the bag are the mean of those of its instances.
"""

from __future__ import annotations

from torch import Tensor

from medcl.slides.mil.base import BagPrediction, Pooling


class Mean(Pooling):
    """Mean of the instances; see the module's text."""

    def pooled(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.pool(equal(mask, features), self.embed, features, None)[:, 0]

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        attention = equal(mask, self.classifier.weight)
        logits = self.classifier(self.pool(attention, self.embed, features, chunk)[:, 0])
        instances = self.by_instance(lambda x: self.classifier(self.embed(x)), features, chunk)
        return BagPrediction(logits.softmax(1), attention[..., 0], instances.softmax(2))


def equal(mask: Tensor, like: Tensor) -> Tensor:
    """Equal shares (B, N, 1) of the instances of a bag, in the type of `like`."""
    return (mask / mask.sum(1, keepdim=True))[..., None].to(like.dtype)
