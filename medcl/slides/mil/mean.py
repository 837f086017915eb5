r"""Mean pooling: the baseline in which every instance counts alike.

    h_k = relu(W h'_k + b),   z = 1/N sum_k h_k,   logits = Linear(z)

The classifier is linear, so the logits of the bag are the mean of those of its instances.
"""

from __future__ import annotations

from collections.abc import Sequence

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


class Mean(Aggregator):
    """Mean of the instances; see the module's text.

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
        self.classifier = nn.Linear(width or features, classes)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        attention = equal(batch["mask"], batch["features"])
        logits = self.classifier(self.pool(attention, self.embed, batch["features"], None)[:, 0])
        loss = self.cross_entropy(logits, batch["label"])
        return loss, {"accuracy": bag_accuracy(logits, batch["label"])}

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        attention = equal(mask, self.classifier.weight)
        logits = self.classifier(self.pool(attention, self.embed, features, chunk)[:, 0])
        instances = self.by_instance(lambda x: self.classifier(self.embed(x)), features, chunk)
        return BagPrediction(logits.softmax(1), attention[..., 0], instances.softmax(2))


def equal(mask: Tensor, like: Tensor) -> Tensor:
    """Equal shares (B, N, 1) of the instances of a bag, in the type of `like`."""
    return (mask / mask.sum(1, keepdim=True))[..., None].to(like.dtype)
