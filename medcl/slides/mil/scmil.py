r"""SC-MIL: first tell bags of one class from those of others, then learn the classifier.

    z_b = bag embedding of ABMIL,   u_b = MLP(z_b) / |MLP(z_b)|
    L_SC = -1/|V| sum_{b in V} 1/|P(b)| sum_{p in P(b)}
               log( exp(u_b . u_p / tau) / sum_{a != b} exp(u_b . u_a / tau) )
    L    = beta L_SC + (1 - beta) L_CE

P(b) are the other bags of b's class in the batch and V the bags that have one; without any L_SC is
0. beta falls from 1 to 0 with t = step / steps:

    linear 1 - t,   parabolic 1 - t^2,   cosine (1 + cos(pi t)) / 2,   constant 1/2

A batch holds bags of equal length, drawn from each slide at random, so that a slide drawn twice is
its own positive, and of each class equally many.

Source: Juyal, Shingi, Javed, Padigela, Shah, Sampat, Khosla, Abel, Taylor-Weiner, "SC-MIL:
Supervised Contrastive Multiple Instance Learning for Imbalanced Classification in Pathology", WACV
2024, arXiv:2303.13405. The authors' code is not known to us; tau = 1 and a beta that falls from 1
are as reported of the paper, its curve and the shape of the MLP are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medcl.config import Count, Positive, Share
from medcl.contrast.similarity import contrast, mean_over
from medcl.contrast.sphere import collapse_terms
from medcl.errors import MedclError
from medcl.slides.mil.abmil import ABMIL
from medcl.slides.mil.base import Batch, Terms, bag_accuracy

Curriculum = Literal["linear", "parabolic", "cosine", "constant"]


class SCMIL(ABMIL):
    """ABMIL with supervised contrast of bags; see the module's text.

    temperature: tau
    curriculum: how beta falls; "linear", "parabolic", "cosine" or "constant"
    projection: features of u, and of the MLP's hidden layer
    """

    balanced = True
    step: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        class_weights: Sequence[float] | None = None,
        *,
        temperature: Positive = 1.0,
        curriculum: Curriculum = "linear",
        projection: Count = 128,
        gated: bool = True,
        attention: Count = 128,
        width: Count | None = 512,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(
            features,
            classes,
            class_weights,
            gated=gated,
            attention=attention,
            width=width,
            dropout=dropout,
        )
        self.temperature, self.curriculum = temperature, curriculum
        self.projector = nn.Sequential(
            nn.Linear(width or features, projection),
            nn.ReLU(inplace=True),
            nn.Linear(projection, projection),
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.steps = 0

    @property
    def least_batch(self) -> int:
        """Two bags of each class."""
        return 2 * self.classes

    def begin(self, steps: int, instances: int) -> None:
        self.steps = steps

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        if not self.steps:
            raise MedclError("SCMIL: call `begin` first: its curriculum runs over all steps")
        label, bag = batch["label"], self.pooled(batch).bag
        projected, logits = self.projector(bag), self.classifier(bag)
        losses, counted = bag_contrast(projected, label, self.temperature)
        contrasted, cross_entropy = mean_over(losses, counted), self.cross_entropy(logits, label)
        beta = share_of_contrast(int(self.step), self.steps, self.curriculum)
        loss = beta * contrasted + (1 - beta) * cross_entropy
        return loss, {
            "contrast": contrasted.detach(),
            "cross_entropy": cross_entropy.detach(),
            "beta": beta,
            "accuracy": bag_accuracy(logits, label),
            **collapse_terms(projected),
        }

    def after_step(self) -> None:
        self.step += 1


def bag_contrast(
    projected: Float[Tensor, "B P"], label: Int[Tensor, " B"], temperature: float
) -> tuple[Float[Tensor, " B"], Tensor]:
    """L_SC by bag and which bags have a positive; 0 for the others."""
    rows = torch.arange(len(label), device=label.device)
    positives = (label[:, None] == label) & (rows[:, None] != rows)
    counts = positives.sum(1, keepdim=True)
    weights = positives.to(projected.dtype) / counts.clamp_min(1)
    losses = contrast(
        projected, projected, weights, temperature=temperature, ids=rows, key_ids=rows
    )
    return losses, counts[:, 0] > 0


def share_of_contrast(step: int, steps: int, curriculum: Curriculum) -> float:
    """beta of the step numbered `step` from 0, of `steps`."""
    t = min(step / steps, 1.0)
    curves = {
        "linear": 1 - t,
        "parabolic": 1 - t**2,
        "cosine": (1 + math.cos(math.pi * t)) / 2,
        "constant": 0.5,
    }
    return curves[curriculum]
