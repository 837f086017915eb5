"""What every network offers: feature maps of an encoder, a decoder level by level, and a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcl.data.strides import nearest_crop, product

Norm = Literal["instance", "batch"]


class Network(nn.Module):
    """A U-shaped network; 2-D or 3-D by the length of its strides.

    Tensors are named by the part they belong to, because a pretext task says by the beginnings of
    names what it trains: `down.` is the encoder, `up.<level>.` and `merge.<level>.` are the
    decoder from coarse to fine, and `head.` is the last layer, which is not transferred.

    bottleneck: the beginnings of the names of what the last of the encoder's maps depends on.

    A 2-D network also takes crops of a volume that are one voxel long along the axis `across`, as
    slices, and gives its output the same axes. Its maps are those of slices.
    """

    across = 2
    bottleneck: tuple[str, ...] = ("down.",)
    down: nn.ModuleList
    up: nn.ModuleList
    merge: nn.ModuleList
    head: nn.Module

    def __init__(
        self,
        channels_in: int,
        strides: Sequence[Sequence[int]],
        channels: Sequence[int],
        norm: Norm = "instance",
    ) -> None:
        """channels: of each level, from fine to coarse. norm: also of what a task adds to it."""
        super().__init__()
        self.channels_in = channels_in
        self.strides = [tuple(stride) for stride in strides]
        self.dims = len(self.strides[0])
        self.channels = list(channels)
        self.norm: Norm = norm

    @property
    def axes(self) -> list[int]:
        """Axes of a volume the network sees."""
        return [axis for axis in range(3) if self.dims == 3 or axis != self.across]

    def encode(self, x: Float[Tensor, "B C *space"]) -> list[Tensor]:
        """Feature maps of every level, the finest first and the bottleneck last.

        Raises ValueError if an axis of `x` is not a multiple of the product of its strides, and
        in 2-D if a crop of a volume is no slice.
        """
        if self.dims == 2 and x.ndim == 5:
            if x.shape[2 + self.across] != 1:
                raise ValueError(
                    f"a crop of {tuple(x.shape[2:])} voxels for a 2-D network, which takes slices; "
                    f"choose a `crop` of 1 along axis {self.across}"
                )
            x = x.squeeze(2 + self.across)
        self._check_size(x.shape[2:])
        return self.maps(x)

    def maps(self, x: Float[Tensor, "B C *space"]) -> list[Tensor]:
        """Feature maps of an input whose size is right."""
        features = []
        for level in self.down:
            x = level(x)
            features.append(x)
        return features

    def merged(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """Map of decoder level `level` (0 is the coarsest) from the one below and the encoder's."""
        return self.merge[level](torch.cat([self.up[level](x), skip], dim=1))

    def decode(self, features: Sequence[Tensor], until: int | None = None) -> Tensor:
        """Feature map after the first `until` decoder levels (all: full resolution)."""
        x = features[-1]
        for level, skip in enumerate(list(features[-2::-1])[:until]):
            x = self.merged(level, x, skip)
        return x

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B K *space"]:
        return self.shaped_like(x, self.head(self.decode(self.encode(x))))

    def shaped_like(self, x: Tensor, output: Tensor) -> Tensor:
        """An output with the axes of the input `x`: of a slice of a volume, the one it lost."""
        return output.unsqueeze(2 + self.across) if output.ndim < x.ndim else output

    def _check_size(self, shape: Sequence[int]) -> None:
        steps = product(self.strides)
        for axis, (size, step) in enumerate(zip(shape, steps, strict=True)):
            if size % step:
                raise ValueError(
                    f"axis {axis} has {size} voxels, which {step} (the product of its strides) "
                    f"does not divide; choose another `crop`, such as {nearest_crop(shape, steps)}"
                )
