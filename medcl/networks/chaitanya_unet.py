"""The U-Net of the global and local contrast paper: narrow, six levels, for slices.

Each level has two 3x3 convolutions, each with a batch norm and a ReLU; max pooling goes down. Going
up, a map is repeated to the size above (nearest neighbour), convolved with a kernel of the size of
the stride (2x2), and joined with the skip for two more 3x3 convolutions. Channels are 16, 32, 64,
128, 128, 128, the last at 1/32 of the resolution.

The number of levels is that of the plan's strides: for the paper's six, give `plan.strides` of
[1, 1, 1] and five times [2, 2, 1]. In 3-D, or with strides that spare an axis, kernels are those of
the plain U-Net.

Source: Chaitanya, Erdil, Karani, Konukoglu, "Contrastive learning of global and local features for
medical image segmentation with limited annotations", NeurIPS 2020, arXiv:2006.10511.

Differs from the authors' code: running statistics take a tenth of each step instead of a hundredth,
because trainings with few labels are short; epsilon is 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count
from medcl.networks.base import Network, Norm
from medcl.networks.unet import CONVOLUTION, NORMS, block, kernel_at, merging, widths

POOLING: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class ChaitanyaUNet(Network):
    """Encoder by max pooling, decoder by repetition, and a 1x1 head.

    width: channels of the first level, doubled at each further one
    width_max: most channels of a level
    norm: batch (of all devices) as in the paper, or instance
    """

    def __init__(
        self,
        channels_in: int,
        strides: Sequence[Sequence[int]],
        channels_out: int,
        *,
        width: Count = 16,
        width_max: Count = 128,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(channels_in, strides, widths(width, width_max, len(strides)), norm)
        self.down, self.up, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        previous = channels_in
        for level, (channels, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            kernel = kernel_at(self.strides, level)
            self.down.append(
                nn.Sequential(
                    POOLING[self.dims](stride) if level else nn.Identity(),
                    block(previous, channels, kernel, norm, rectifier=nn.ReLU(inplace=True)),
                    block(channels, channels, kernel, norm, rectifier=nn.ReLU(inplace=True)),
                )
            )
            previous = channels
        for level in reversed(range(len(self.channels) - 1)):
            coarse, fine = self.channels[level + 1], self.channels[level]
            self.up.append(Repeated(coarse, fine, self.strides[level + 1], norm))
            kernel = kernel_at(self.strides, level)
            rectifier = nn.ReLU(inplace=True)
            self.merge.append(merging(fine, kernel, norm, blocks=2, rectifier=rectifier))
        self.head = CONVOLUTION[self.dims](self.channels[0], channels_out, 1)


class Repeated(nn.Module):
    """Repeat each voxel `stride` times along each axis, then convolve with a kernel as large."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: Sequence[int], norm: Norm
    ) -> None:
        super().__init__()
        dims = len(stride)
        self.stride = [float(step) for step in stride]
        # An even kernel needs one voxel more at the end alone, which no symmetric padding gives.
        self.missing = [side for step in reversed(stride) for side in (0, step - 1)]
        kernel = tuple(stride)
        self.convolve = nn.Sequential(
            CONVOLUTION[dims](channels_in, channels_out, kernel, bias=False),
            NORMS[norm][dims](channels_out, affine=True),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B K *larger"]:
        repeated = F.interpolate(x, scale_factor=self.stride, mode="nearest")
        return self.convolve(F.pad(repeated, self.missing))
