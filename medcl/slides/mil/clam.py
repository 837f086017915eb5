r"""CLAM: attention pooling whose most and least attended instances are classified too.

    h_k    = relu(W h'_k + b)
    a_.k   = softmax_k of the gated attention of ABMIL; one branch (SB), or one of each class (MB)
    z_.    = sum_k a_.k h_k
    logits = Linear(z) (SB),   logit_c = Linear_c(z_c) (MB)

Each class c has an instance classifier of two outputs. For the bag's class y it is told that the n
instances of highest attention (of branch y) are of it and the n of lowest are not: the mean
cross-entropy over these 2 n. With `subtyping`, where one bag cannot hold two classes, the n of
highest attention of every other class are not of that class, and the sum over the classes is
divided by C. Then

    L = 0.7 L_bag + 0.3 L_instances

Source: Lu, Williamson, Chen, Chen, Barbieri, Mahmood, "Data-efficient and weakly supervised
computational pathology on whole-slide images", Nature Biomedical Engineering 2021. There: n = 8,
Adam, learning rate 2e-4, weight decay 1e-5, one bag a step.

Differs from the authors' code: the instance loss is cross-entropy, not the smooth top-1 SVM loss
they recommend; in a bag of fewer than 2 n instances n is half of them (and 1 highest of 1), so that
none is told to be both; bags of several in a batch are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Share
from medcl.contrast.similarity import full
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


class Chosen(NamedTuple):
    """Logits (n, 2) and targets (n,) of the instances of a bag that are classified."""

    logits: Tensor
    targets: Tensor


class CLAM(Aggregator):
    """Clustering-constrained attention; see the module's text.

    branches: of the attention; "single" (CLAM-SB), or "multi", one of each class (CLAM-MB)
    subtyping: whether a bag of one class cannot hold instances of another
    instances: n, of highest and of lowest attention
    bag_weight: weight of the bag's loss; the instances have the rest
    width: features of an embedded instance
    attention: width of the attention's two maps
    dropout: of the embedded instance and of the attention
    """

    def __init__(
        self,
        features: int,
        classes: int,
        class_weights: Sequence[float] | None = None,
        *,
        branches: Literal["single", "multi"] = "single",
        subtyping: bool = False,
        instances: Count = 8,
        bag_weight: Share = 0.7,
        width: Count = 512,
        attention: Count = 256,
        dropout: Share = 0.25,
    ) -> None:
        super().__init__(features, classes, class_weights)
        self.multi, self.subtyping = branches == "multi", subtyping
        self.instances, self.bag_weight = instances, bag_weight
        self.embed = embedding(features, width, dropout)
        count = classes if self.multi else 1
        self.attend = Attention(width, attention, branches=count, dropout=dropout)
        self.classifier = nn.Linear(width, classes)
        self.instance_classifiers = nn.ModuleList(nn.Linear(width, 2) for _ in range(classes))

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        mask, label = batch["mask"], batch["label"]
        h = self.embed(batch["features"])
        scores = self.attend(h)
        logits = self.bag_logits(weighted_sum(masked_softmax(scores, mask), h))
        bag_loss = self.cross_entropy(logits, label)
        losses = [
            self.instance_loss(self.choose(h[b][mask[b]], scores[b][mask[b]], int(label[b])))
            for b in range(len(label))
        ]
        instance_loss = torch.stack(losses).mean()
        loss = self.bag_weight * bag_loss + (1 - self.bag_weight) * instance_loss
        return loss, {
            "bag_loss": bag_loss.detach(),
            "instance_loss": instance_loss.detach(),
            "accuracy": bag_accuracy(logits, label),
        }

    def bag_logits(self, bag: Tensor) -> Tensor:
        """Logits (B, C) of the bag embeddings (B, branches, E)."""
        if not self.multi:
            return self.classifier(bag[:, 0])
        return (bag * self.classifier.weight).sum(2) + self.classifier.bias

    def choose(self, h: Tensor, scores: Tensor, label: int) -> list[Chosen]:
        """The classified instances of one bag, h (N, E) with scores (N, branches), by class."""
        highest = max(1, min(self.instances, len(h) // 2))
        lowest = min(self.instances, len(h) // 2)
        chosen = []
        for c, classifier in enumerate(self.instance_classifiers):
            branch = scores[:, c if self.multi else 0]
            top = branch.topk(highest).indices
            if c == label:
                rows = torch.cat([top, (-branch).topk(lowest).indices])
                targets = (torch.arange(len(rows), device=h.device) < highest).long()
            elif self.subtyping:
                rows, targets = top, torch.zeros_like(top)
            else:
                continue
            chosen.append(Chosen(classifier(h[rows]), targets))
        return chosen

    def instance_loss(self, chosen: list[Chosen]) -> Tensor:
        """Sum over the classes of one bag, divided by their number with `subtyping`."""
        losses = [F.cross_entropy(full(logits), targets) for logits, targets in chosen]
        return torch.stack(losses).sum() / (self.classes if self.subtyping else 1)

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        scores = self.by_instance(lambda x: self.attend(self.embed(x)), features, chunk)
        attention = masked_softmax(scores, mask)
        logits = self.bag_logits(self.pool(attention, self.embed, features, chunk))
        instances = self.by_instance(self._instances, features, chunk)
        shown = attention if self.multi else attention[..., 0]
        return BagPrediction(logits.softmax(1), shown, instances)

    def _instances(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        of_class = [classifier(h).softmax(2)[..., 1] for classifier in self.instance_classifiers]
        return torch.stack(of_class, dim=2)
