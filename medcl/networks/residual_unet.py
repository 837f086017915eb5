r"""A U-Net with a residual encoder: deeper at the same number of levels.

A level is a chain of residual blocks, of which the first goes down by the level's stride:

    y = lrelu( N(W_2 * lrelu(N(W_1 * x))) + s(x) )

with N a norm and s(x) the mean over the stride's voxels, then a 1x1 convolution with a norm where
the number of channels changes. Before the first level a plain convolution widens the input. The
decoder is the plain U-Net's with one convolution a level. Kernels as in the plain U-Net.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385; as
an encoder of a U-Net: Isensee et al., "nnU-Net Revisited", MICCAI 2024, arXiv:2404.09556.

Differs from nnU-Net: the same number of blocks at every level, two by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count
from medcl.networks.base import Network, Norm
from medcl.networks.unet import CONVOLUTION, NORMS, block, kernel_at, transposed_decoder, widths

POOLING: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class ResidualUNet(Network):
    """Residual encoder, plain decoder and a 1x1 head.

    width: channels of the first level, doubled at each further one
    width_max: most channels of a level
    blocks: residual blocks of a level
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
        blocks: Count = 2,
        norm: Norm = "instance",
    ) -> None:
        super().__init__(channels_in, strides, widths(width, width_max, len(strides)), norm)
        self.down = nn.ModuleList()
        previous = self.channels[0]
        for level, (channels, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            kernel = kernel_at(self.strides, level)
            chain: list[nn.Module] = [] if level else [block(channels_in, previous, kernel, norm)]
            chain.append(Residual(previous, channels, kernel, norm, stride))
            ones = [1] * self.dims
            chain += [Residual(channels, channels, kernel, norm, ones) for _ in range(blocks - 1)]
            self.down.append(nn.Sequential(*chain))
            previous = channels
        self.up, self.merge = transposed_decoder(self.channels, self.strides, norm, blocks=1)
        self.head = CONVOLUTION[self.dims](self.channels[0], channels_out, 1)


class Residual(nn.Module):
    """A residual block; see the module's text."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        norm: Norm,
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        dims = len(kernel)

        def normed(channels: int, size: Sequence[int]) -> list[nn.Module]:
            padding = tuple(n // 2 for n in size)
            return [
                CONVOLUTION[dims](channels, channels_out, tuple(size), 1, padding, bias=False),
                NORMS[norm][dims](channels_out, affine=True),
            ]

        self.first = block(channels_in, channels_out, kernel, norm, stride)
        self.second = nn.Sequential(*normed(channels_out, kernel))
        past: list[nn.Module] = []
        if max(stride) > 1:
            past.append(POOLING[dims](tuple(stride)))
        if channels_in != channels_out:
            past += normed(channels_in, [1] * dims)
        self.past = nn.Sequential(*past)

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B K *down"]:
        return F.leaky_relu(self.second(self.first(x)) + self.past(x), 0.01)
