"""From feature maps to embeddings: pooling and the projector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def pool(features: Sequence[Tensor]) -> Float[Tensor, "B E"]:
    """Mean over space of each feature map, concatenated; E is the sum of their channels."""
    return torch.cat([level.flatten(2).mean(2) for level in features], dim=1)


def projector(channels: int, width: int) -> nn.Sequential:
    """Three linear layers of `width`, the first two followed by a norm and a ReLU.

    The norm is over the features of each sample and has no weights, so an embedding does not
    depend on the rest of the batch.
    """
    return nn.Sequential(
        nn.Linear(channels, width),
        nn.LayerNorm(width, elementwise_affine=False),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.LayerNorm(width, elementwise_affine=False),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
    )
