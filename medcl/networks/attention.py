"""Cross-attention: tokens of one map look things up in another.

    x   = LN( W softmax(Q K^T / sqrt(d)) V + q ),   Q = q W_q,  K = t W_k,  V = t W_v,  by head
    out = LN( W_2 relu(W_1 x + b_1) + b_2 + x )

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762, with the norms
after the sums; the maps of the attention have no bias.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


class CrossAttention(nn.Module):
    """width: features of a token. size: features of a head. hidden: of the feed-forward layer."""

    def __init__(self, width: int, *, heads: int, size: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (
            nn.Linear(width, heads * size, bias=False) for _ in range(3)
        )
        self.merge = nn.Linear(heads * size, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.norm_out = nn.LayerNorm(width, eps=EPSILON)

    def forward(
        self, query: Float[Tensor, "B T E"], tokens: Float[Tensor, "B U E"]
    ) -> Float[Tensor, "B T E"]:
        def by_head(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        found = F.scaled_dot_product_attention(
            by_head(self.query(query)), by_head(self.key(tokens)), by_head(self.value(tokens))
        )
        x = self.norm(self.merge(found.transpose(1, 2).flatten(2)) + query)
        return self.norm_out(self.narrow(F.relu(self.widen(x))) + x)
