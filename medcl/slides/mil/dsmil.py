r"""DSMIL: the most telling instance of each class, and the others by their likeness to it.

    c_nk  = W_0 h_n + b_0                             instance logits of the outputs k
    m_k   = argmax_n c_nk,   c_max,k = c_{m_k, k}      the critical instance, first stream
    q_n   = tanh(Linear(relu(Linear(h_n))))            or Linear(h_n)
    A_nk  = softmax_n( q_n . q_{m_k} / sqrt(Q) )
    b_k   = sum_n A_nk v_n,   v_n = h_n or relu(Linear(h_n))
    logits = Linear of all b_k together                second stream
    L     = 1/2 BCE(logits, t) + 1/2 BCE(c_max, t)

The outputs are the classes, and t is 1 for the bag's class. Where class 0 is the absence of the
others (a slide without tumour) it has no output and t is all 0 for it; with two classes that is
the single output of the authors' binary case. Probabilities are those of the second stream: the
odds exp(logit_k), 1 for a class 0 without an output, divided by their sum, which for a single
output is its sigmoid.

Source: Li, Li, Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
Classification with Self-supervised Contrastive Learning", CVPR 2021. There: Q = 128, Adam with
betas (0.5, 0.9), learning rate 1e-4, weight decay 1e-3.

Differs from the authors' code: no threshold is chosen, on the evaluated fold least of all; weights
start as PyTorch's; ours may weight classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Share
from medcl.contrast.similarity import full
from medcl.slides.mil.base import (
    Aggregator,
    BagPrediction,
    Batch,
    Terms,
    bag_accuracy,
    masked_softmax,
)


class Streams(NamedTuple):
    """instance_logits (B, N, K), critical (B, K), max_logits (B, K), attention (B, N, K),
    bag (B, K, V), bag_logits (B, K).
    """

    instance_logits: Tensor
    critical: Tensor
    max_logits: Tensor
    attention: Tensor
    bag: Tensor
    bag_logits: Tensor


class DSMIL(Aggregator):
    """Two streams; see the module's text.

    negative_class: whether class 0 is the absence of the others; null means so with two classes
    query: Q
    nonlinear: whether queries are of two layers
    value: whether the pooled features are mapped, too
    dropout: of the features before that map
    """

    def __init__(
        self,
        features: int,
        classes: int,
        class_weights: Sequence[float] | None = None,
        *,
        negative_class: bool | None = None,
        query: Count = 128,
        nonlinear: bool = True,
        value: bool = False,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(features, classes, class_weights)
        self.negative = classes == 2 if negative_class is None else negative_class
        outputs = classes - self.negative
        self.instance_classifier = nn.Linear(features, outputs)
        self.query: nn.Module = nn.Linear(features, query)
        if nonlinear:
            self.query = nn.Sequential(self.query, nn.ReLU(), nn.Linear(query, query), nn.Tanh())
        self.value: nn.Module = nn.Identity()
        if value:
            self.value = nn.Sequential(
                nn.Dropout(dropout), nn.Linear(features, features), nn.ReLU()
            )
        self.bag_classifier = nn.Linear(outputs * features, outputs)

    def streams(self, features: Tensor, mask: Tensor, chunk: int | None = None) -> Streams:
        """Both streams, `chunk` instances at a time if given."""
        instance_logits = self.by_instance(self.instance_classifier, features, chunk)
        there = full(instance_logits).masked_fill(~mask[..., None], -torch.inf)
        max_logits, critical = there.max(1)
        places = critical[..., None].expand(-1, -1, features.shape[2])
        (telling,) = self.pieces(features.gather(1, places), None)
        key = self.query(telling).transpose(1, 2)

        def likeness(x: Tensor) -> Tensor:
            return self.query(x) @ key / key.shape[1] ** 0.5

        attention = masked_softmax(self.by_instance(likeness, features, chunk), mask)
        bag = self.pool(attention, self.value, features, chunk)
        logits = self.bag_classifier(bag.flatten(1))
        return Streams(instance_logits, critical, max_logits, attention, bag, logits)

    def losses(self, streams: Streams, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of the second stream and of the first by bag (B,); targets are 0 or 1, (B, K)."""
        bag, largest = (
            F.binary_cross_entropy_with_logits(
                full(logits), targets.to(full(logits)), reduction="none"
            ).mean(1)
            for logits in (streams.bag_logits, streams.max_logits)
        )
        return bag, largest

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        label = batch["label"]
        streams = self.streams(batch["features"], batch["mask"])
        targets = F.one_hot(label, self.classes)[:, int(self.negative) :]
        weights = self.class_weights[label]
        bag, largest = ((weights.to(loss) * loss).mean() for loss in self.losses(streams, targets))
        return (bag + largest) / 2, {
            "bag_loss": bag.detach(),
            "max_loss": largest.detach(),
            "accuracy": bag_accuracy(self._with_negative(streams.bag_logits), label),
        }

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        """Attention is 0 of a class 0 without an output; with a single output it is of the bag."""
        streams = self.streams(features, mask, chunk)
        attention = streams.attention
        if attention.shape[2] == 1:
            attention = attention[..., 0]
        elif self.negative:
            attention = F.pad(attention, (1, 0))
        return BagPrediction(
            self._with_negative(streams.bag_logits).softmax(1),
            attention,
            self._with_negative(streams.instance_logits).softmax(2),
        )

    def _with_negative(self, logits: Tensor) -> Tensor:
        """A logit of 0 for the class that has no output, before the others."""
        return F.pad(logits, (1, 0)) if self.negative else logits
