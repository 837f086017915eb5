r"""ABMIL: the mean of a bag's instances, weighted by a learnt attention.

    h_k = relu(W h'_k + b')                                            where `width` is given
    a_k = softmax_k( w^T tanh(V h_k + b) + c )                          plain
    a_k = softmax_k( w^T (tanh(V h_k + b) * sigmoid(U h_k + d)) + c )   gated
    z   = sum_k a_k h_k,   logits = Linear(z),   L = cross-entropy(logits, label)

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018. There:
L = 128, Adam, learning rate 5e-4, weight decay 1e-4, one bag a step.

Differs from the paper: a softmax over the classes in place of one sigmoid; with the weights of the
first class at 0 it is the same function with the same gradients.
Differs from the authors' code: probabilities are not clamped before the logarithm, which a
log-softmax does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from medcl.config import Count, Share
from medcl.slides.mil.attention import Attention
from medcl.slides.mil.base import (
    Aggregator,
    BagPrediction,
    Batch,
    Terms,
    bag_accuracy,
    embedding,
    masked_softmax,
    weighted_sum,
)


class Pooled(NamedTuple):
    """attention (B, N), bag embedding (B, E)."""

    attention: Tensor
    bag: Tensor


class ABMIL(Aggregator):
    """Attention-weighted mean; see the module's text.

    gated: whether a sigmoid gates the attention
    attention: width of V and U
    width: features of an embedded instance; null takes the features as they are
    dropout: of the embedded instance
    """

    def __init__(
        self,
        features: int,
        classes: int,
        class_weights: Sequence[float] | None = None,
        *,
        gated: bool = True,
        attention: Count = 128,
        width: Count | None = 512,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(features, classes, class_weights)
        self.embed = embedding(features, width, dropout)
        self.attend = Attention(width or features, attention, gated=gated)
        self.classifier = nn.Linear(width or features, classes)

    def pooled(self, batch: Batch) -> Pooled:
        """Attention and embedding of the bags of a batch, with gradient."""
        h = self.embed(batch["features"])
        attention = masked_softmax(self.attend(h), batch["mask"])
        return Pooled(attention[..., 0], weighted_sum(attention, h)[:, 0])

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        logits = self.classifier(self.pooled(batch).bag)
        loss = self.cross_entropy(logits, batch["label"])
        return loss, {"accuracy": bag_accuracy(logits, batch["label"])}

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        scores = self.by_instance(lambda x: self.attend(self.embed(x)), features, chunk)
        attention = masked_softmax(scores, mask)
        bag = self.pool(attention, self.embed, features, chunk)[:, 0]
        return BagPrediction(self.classifier(bag).softmax(1), attention[..., 0])
