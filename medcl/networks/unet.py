"""A plain U-Net whose encoder can be used alone; 2-D or 3-D by the length of its strides.

Two convolutions a level, each followed by a norm and a leaky ReLU; strided convolutions go down,
transposed ones up; skips are concatenated. An axis is convolved with kernel 1 until the level
before its first downsampling, so that thick slices are not mixed with their neighbours while a
voxel is still flat.

Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, arXiv:1505.04597; norm, leaky ReLU and
per-axis strides as in Isensee et al., "nnU-Net", Nature Methods 2021, arXiv:1904.08128.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcl.config import Count
from medcl.contrast.gather import GatheredNorm

Norm = Literal["instance", "batch"]
CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[str, dict[int, Any]] = {
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "batch": {2: GatheredNorm, 3: GatheredNorm},
}


class Encoder(nn.Module):
    """Feature maps from fine to coarse.

    strides: downsampling of each level along each axis; the first is all ones.
    width: channels of the first level, doubled at each further one
    width_max: most channels of a level
    norm: instance or batch (of all devices); instance keeps a volume independent of its batch
    """

    def __init__(
        self,
        channels_in: int,
        strides: Sequence[Sequence[int]],
        *,
        width: Count = 16,
        width_max: Count = 256,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.strides = [tuple(stride) for stride in strides]
        self.dims = len(self.strides[0])
        self.norm: Norm = norm
        self.channels = [min(width * 2**level, width_max) for level in range(len(self.strides))]
        self.down = nn.ModuleList()
        previous = channels_in
        for level, (channels, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            kernel = kernel_at(self.strides, level)
            self.down.append(
                nn.Sequential(
                    _block(previous, channels, kernel, norm, stride),
                    _block(channels, channels, kernel, norm),
                )
            )
            previous = channels

    def encode(self, x: Float[Tensor, "B C *space"]) -> list[Tensor]:
        """Feature maps of every level, the finest first and the bottleneck last.

        Raises ValueError if an axis of `x` is not a multiple of the product of its strides.
        """
        for axis, size in enumerate(x.shape[2:]):
            product = 1
            for stride in self.strides:
                product *= stride[axis]
            if size % product:
                raise ValueError(
                    f"axis {axis} has {size} voxels, which {product} (the product of its strides) "
                    "does not divide; choose another `crop`"
                )
        features = []
        for level in self.down:
            x = level(x)
            features.append(x)
        return features


class UNet(Encoder):
    """Encoder, decoder and a 1x1 head.

    channels_out: channels of the head, e.g. background and classes.
    """

    def __init__(
        self,
        channels_in: int,
        strides: Sequence[Sequence[int]],
        channels_out: int,
        *,
        width: Count = 16,
        width_max: Count = 256,
        norm: Norm = "instance",
    ) -> None:
        super().__init__(channels_in, strides, width=width, width_max=width_max, norm=norm)
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for level in reversed(range(len(self.channels) - 1)):
            coarse, fine = self.channels[level + 1], self.channels[level]
            stride = self.strides[level + 1]
            kernel = kernel_at(self.strides, level)
            self.up.append(TRANSPOSED[self.dims](coarse, fine, stride, stride, bias=False))
            self.merge.append(
                nn.Sequential(
                    _block(2 * fine, fine, kernel, norm), _block(fine, fine, kernel, norm)
                )
            )
        self.head = CONVOLUTION[self.dims](self.channels[0], channels_out, 1)

    def decode(self, features: Sequence[Tensor], until: int | None = None) -> Tensor:
        """Feature map after the first `until` decoder levels (all: full resolution)."""
        x = features[-1]
        levels = list(zip(self.up, self.merge, reversed(list(features[:-1])), strict=True))
        for up, merge, skip in levels[:until]:
            x = merge(torch.cat([up(x), skip], dim=1))
        return x

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B K *space"]:
        return self.head(self.decode(self.encode(x)))


def kernel_at(strides: Sequence[Sequence[int]], level: int) -> tuple[int, ...]:
    """Kernel of a level: 1 along the axes that are not yet due for downsampling, else 3."""
    due = strides[: level + 2]
    last = level == len(strides) - 1
    return tuple(
        3 if last or any(stride[axis] > 1 for stride in due) else 1
        for axis in range(len(strides[0]))
    )


def _block(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    norm: Norm,
    stride: Sequence[int] | int = 1,
) -> nn.Sequential:
    dims = len(kernel)
    stride = tuple(stride) if not isinstance(stride, int) else (stride,) * dims
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(
        CONVOLUTION[dims](channels_in, channels_out, tuple(kernel), stride, padding, bias=False),
        NORMS[norm][dims](channels_out, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )
