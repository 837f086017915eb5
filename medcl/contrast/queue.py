"""A queue of the last embeddings, as further negatives, with the subject each came from.

Keys carry no gradient. Those of all ranks join it, so it is the same on each. It starts with places
that are not there: their id is -1, which `similarity.contrast` leaves out of every denominator, and
so it does keys of a row's own subject.

Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv:1911.05722; the subject ids are medcl's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medcl.contrast.gather import gather


class Queue(nn.Module):
    """`length` keys of `width` features; part of a checkpoint, and no parameter."""

    keys: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(length, width))
        self.register_buffer("ids", torch.full((length,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "N D"], ids: Int[Tensor, " N"]) -> None:
        """Put the keys of all ranks in place of the oldest; of more than fit, the last stay.

        Call it after the loss of the step: a key is no negative of its own step.
        """
        length = len(self.ids)
        keys, ids = gather(keys.detach())[-length:], gather(ids)[-length:]
        # In a new tensor: the graph of a loss may still hold the old one.
        where = (self.place + torch.arange(len(ids), device=self.ids.device)) % length
        self.keys = self.keys.index_copy(0, where, keys.to(self.keys.dtype))
        self.ids = self.ids.index_copy(0, where, ids)
        self.place = (self.place + len(ids)) % length
