"""From feature maps to embeddings: pooling and the projector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def pool(features: Sequence[Tensor]) -> Float[Tensor, "B E"]:
    """Mean over space of each feature map, concatenated; E is the sum of their channels."""
    return torch.cat([level.flatten(2).mean(2) for level in features], dim=1)


class Standardise(nn.Module):
    """Zero mean and unit variance of each feature over the rows; no weights, no running values.

    Of a single row nothing is left, so it needs two.
    """

    def forward(self, x: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        return F.batch_norm(x, None, None, training=True)


def standardise_row(x: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
    """Zero mean and unit variance of each row; what InstanceNorm1d does to a matrix of rows."""
    return F.layer_norm(x, x.shape[1:])


class StandardiseRow(nn.Module):
    """`standardise_row` as a layer."""

    def forward(self, x: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        return standardise_row(x)


def projector(channels: int, width: int, *, by_row: bool = False) -> nn.Sequential:
    """Three linear layers of `width`, the first two standardised over the rows and rectified.

    What is common to all rows is removed, so that embeddings start well apart: normalised by
    sample instead (`by_row`, as in nnssl), VoCo starts with all cosines near 1 and stays there.
    Call it on all rows of a batch at once, in `compare`.
    """
    norm = StandardiseRow if by_row else Standardise
    return nn.Sequential(
        nn.Linear(channels, width, bias=False),
        norm(),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
        norm(),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
    )
