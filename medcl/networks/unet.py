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
from typing import Any

from torch import nn

from medcl.config import Count
from medcl.contrast.gather import GatheredNorm
from medcl.networks.base import Network, Norm

CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[str, dict[int, Any]] = {
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "batch": {2: GatheredNorm, 3: GatheredNorm},
}


class UNet(Network):
    """Encoder, decoder and a 1x1 head.

    width: channels of the first level, doubled at each further one
    width_max: most channels of a level
    norm: instance or batch (of all devices); instance keeps a volume independent of its batch
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
        super().__init__(channels_in, strides, widths(width, width_max, len(strides)), norm)
        self.down = strided_encoder(channels_in, self.channels, self.strides, norm)
        self.up, self.merge = transposed_decoder(self.channels, self.strides, norm, blocks=2)
        self.head = CONVOLUTION[self.dims](self.channels[0], channels_out, 1)


def widths(width: int, width_max: int, levels: int) -> list[int]:
    """Channels of each level: doubled from one to the next, up to a maximum."""
    return [min(width * 2**level, width_max) for level in range(levels)]


def strided_encoder(
    channels_in: int, channels: Sequence[int], strides: Sequence[Sequence[int]], norm: Norm
) -> nn.ModuleList:
    """Two blocks a level, the first of which goes down by the level's stride."""
    levels = nn.ModuleList()
    for level, (size, stride) in enumerate(zip(channels, strides, strict=True)):
        kernel = kernel_at(strides, level)
        first = block(channels_in, size, kernel, norm, stride)
        levels.append(nn.Sequential(first, block(size, size, kernel, norm)))
        channels_in = size
    return levels


def transposed_decoder(
    channels: Sequence[int], strides: Sequence[Sequence[int]], norm: Norm, *, blocks: int
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Transposed convolutions up, and the `blocks` that merge each with its skip."""
    up, merge = nn.ModuleList(), nn.ModuleList()
    for level in reversed(range(len(channels) - 1)):
        coarse, fine = channels[level + 1], channels[level]
        stride = tuple(strides[level + 1])
        kernel = kernel_at(strides, level)
        up.append(TRANSPOSED[len(stride)](coarse, fine, stride, stride, bias=False))
        merge.append(merging(fine, kernel, norm, blocks=blocks))
    return up, merge


def merging(
    channels: int,
    kernel: Sequence[int],
    norm: Norm,
    *,
    blocks: int,
    rectifier: nn.Module | None = None,
) -> nn.Sequential:
    """Blocks from a map and its skip, one after the other, to as many channels as either has."""
    first = block(2 * channels, channels, kernel, norm, rectifier=rectifier)
    others = (
        block(channels, channels, kernel, norm, rectifier=rectifier) for _ in range(blocks - 1)
    )
    return nn.Sequential(first, *others)


def kernel_at(strides: Sequence[Sequence[int]], level: int) -> tuple[int, ...]:
    """Kernel of a level: 1 along the axes that are not yet due for downsampling, else 3."""
    due = strides[: level + 2]
    last = level == len(strides) - 1
    return tuple(
        3 if last or any(stride[axis] > 1 for stride in due) else 1
        for axis in range(len(strides[0]))
    )


def block(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    norm: Norm,
    stride: Sequence[int] | int = 1,
    *,
    rectifier: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, a norm, and a leaky ReLU if not given.

    The convolution has no bias, which the norm would take away.
    """
    dims = len(kernel)
    stride = tuple(stride) if not isinstance(stride, int) else (stride,) * dims
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(
        CONVOLUTION[dims](channels_in, channels_out, tuple(kernel), stride, padding, bias=False),
        NORMS[norm][dims](channels_out, affine=True),
        rectifier or nn.LeakyReLU(0.01, inplace=True),
    )
