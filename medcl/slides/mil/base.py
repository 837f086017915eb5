"""What every aggregator of instances offers to training and inference.

A bag (a slide) is a set of N instances (tiles), each a vector of D features, with one label. Bags
of a batch are filled up to one length: `mask` is True where an instance is. A batch holds

    features (B, N, D), mask (B, N), label (B,), instance (B, N)

where `instance` numbers the instances of all training bags and is -1 where there is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Share
from medcl.contrast.similarity import full
from medcl.errors import MedclError

Batch = dict[str, Tensor]
Terms = dict[str, Tensor | float]  # 0-dim and detached: the loop reads them when it likes
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BagPrediction:
    """probabilities: of the classes. attention: how much each instance counts, of the bag or by
    class; it sums to 1 over the bag and is 0 where there is no instance. instances: score of each
    class from 0 to 1 by instance, None if the method has none.
    """

    probabilities: Float[Tensor, "B C"]
    attention: Float[Tensor, "B N"] | Float[Tensor, "B N C"]
    instances: Float[Tensor, "B N C"] | None = None


class Aggregator(nn.Module, ABC):
    """From the instances of a bag to its class.

    The constructor takes the number of features and of classes and the weights of the classes in
    the loss (all 1 if None), then keyword-only arguments: those are the options of a configuration,
    described by the `name: text` lines of the class docstring.

    balanced: whether its batches should hold all classes equally often.
    chunked: whether `predict` by chunks of a bag gives what the whole bag gives.
    """

    balanced: ClassVar[bool] = False
    chunked: ClassVar[bool] = True
    class_weights: Tensor

    def __init__(
        self, features: int, classes: int, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if classes < 2:
            raise MedclError(f"{name}: {classes} classes; bags of at least 2 are needed")
        given = [1.0] * classes if class_weights is None else list(class_weights)
        if len(given) != classes:
            raise MedclError(f"{name}: {len(given)} class weights for {classes} classes")
        self.features, self.classes = features, classes
        weights = torch.tensor(given, dtype=torch.get_default_dtype())
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def least_batch(self) -> int:
        """Bags a step needs."""
        return 1

    def begin(self, steps: int, instances: int) -> None:
        """Called before the first step, also of a resumed run, with the length of the training
        and the instances of all its bags.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Loss of a batch and what to log."""

    def after_step(self) -> None:
        """Called after each optimiser step."""

    @torch.no_grad()
    def predict(
        self,
        features: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        chunk: int | None = None,
    ) -> BagPrediction:
        """Predict whole bags, `chunk` instances at a time if given, without dropout.

        Features may be of half precision; they are converted chunk by chunk. Raises MedclError for
        a bag without instances, and for a chunk where the method cannot be computed in parts.
        """
        name = type(self).__name__
        if not bool(mask.any(1).all()):
            empty = int((~mask.any(1)).nonzero()[0])
            raise MedclError(f"{name}: bag {empty} of the batch has no instance; leave it out")
        if chunk is not None and not self.chunked:
            raise MedclError(f"{name} compares all instances of a bag; predict without `chunk`")
        training = self.training
        self.eval()
        try:
            return self.infer(features, mask, chunk)
        finally:
            self.train(training)

    @abstractmethod
    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        """What `predict` returns, in evaluation mode and without gradient."""

    def pieces(self, features: Tensor, chunk: int | None) -> Iterator[Tensor]:
        """Split a bag's features along the instances, in the type of the weights."""
        dtype = next(self.parameters()).dtype
        for piece in features.split(chunk or features.shape[1], dim=1):
            yield piece.to(dtype)

    def by_instance(self, embed: Embed, features: Tensor, chunk: int | None) -> Tensor:
        """`embed` of all instances, computed by chunks."""
        return torch.cat([embed(piece) for piece in self.pieces(features, chunk)], dim=1)

    def pool(
        self, attention: Tensor, embed: Embed, features: Tensor, chunk: int | None
    ) -> Float[Tensor, "B K E"]:
        """Sum over the instances of attention (B, N, K) times `embed`, computed by chunks."""
        shares = attention.split(chunk or features.shape[1], dim=1)
        pieces = self.pieces(features, chunk)
        sums = [
            weighted_sum(share, embed(piece)) for share, piece in zip(shares, pieces, strict=True)
        ]
        return torch.stack(sums).sum(0)

    def cross_entropy(
        self, logits: Float[Tensor, "B C"], label: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """Mean over the bags, each times the weight of its class.

        Divided by the bags and not by their weights, which would cancel in a batch of one bag.
        """
        losses = F.cross_entropy(full(logits), label, reduction="none")
        return (losses * self.class_weights.to(losses)[label]).mean()


class Pooling(Aggregator):
    """Instances are embedded, a rule without weights makes one of them, a line classifies it.

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
        self.width = width or features
        self.embed = embedding(features, width, dropout)
        self.classifier = nn.Linear(self.width, classes)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        logits = self.classifier(self.pooled(batch["features"], batch["mask"]))
        loss = self.cross_entropy(logits, batch["label"])
        return loss, {"accuracy": bag_accuracy(logits, batch["label"])}

    @abstractmethod
    def pooled(self, features: Tensor, mask: Tensor) -> Float[Tensor, "B E"]:
        """The embedding of each bag, with gradient."""


def masked_softmax(
    scores: Float[Tensor, "B N K"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, "B N K"]:
    """Softmax over the instances of a bag; 0 where there is none."""
    return full(scores).masked_fill(~mask[..., None], -torch.inf).softmax(1)


def weighted_sum(
    attention: Float[Tensor, "B N K"], embedded: Float[Tensor, "B N E"]
) -> Float[Tensor, "B K E"]:
    """Sum over the instances."""
    return attention.transpose(1, 2) @ embedded.to(attention.dtype)


def bag_accuracy(logits: Float[Tensor, "B C"], label: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Share of the bags whose largest logit is their label's."""
    return (logits.detach().argmax(1) == label).to(torch.float32).mean()


def embedding(features: int, width: int | None, dropout: float) -> nn.Module:
    """Linear, ReLU and dropout of each instance; nothing where `width` is None."""
    if width is None:
        return nn.Identity()
    linear = nn.Linear(features, width)
    return nn.Sequential(linear, nn.ReLU(inplace=True), dropped(dropout))


def dropped(share: float) -> nn.Module:
    """Dropout; of nothing it would still copy a whole bag."""
    return nn.Dropout(share) if share > 0 else nn.Identity()
