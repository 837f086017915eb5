"""The attention of ABMIL, which CLAM, SC-MIL and INS use too."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcl.slides.mil.base import dropped


class Attention(nn.Module):
    """Score of each instance and branch: w^T tanh(V h + b) + c, gated by sigmoid(U h + d).

    features: of an instance. width: of V and U. branches: K. dropout: of tanh and of the gate.
    """

    def __init__(
        self,
        features: int,
        width: int,
        *,
        branches: int = 1,
        gated: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.value = nn.Linear(features, width)
        self.gate = nn.Linear(features, width) if gated else None
        self.dropout = dropped(dropout)
        self.score = nn.Linear(width, branches)

    def forward(self, h: Float[Tensor, "B N E"]) -> Float[Tensor, "B N K"]:
        x = self.dropout(torch.tanh(self.value(h)))
        if self.gate is not None:
            x = x * self.dropout(torch.sigmoid(self.gate(h)))
        return self.score(x)
