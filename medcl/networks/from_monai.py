"""Networks of MONAI, taken apart into encoder maps, decoder levels and a head.

The weights are those MONAI initialises and the forward pass is MONAI's, operation by operation; the
parts are only renamed, so that every pretext task can train them. MONAI is imported where a network
is built, because the import takes seconds that other networks need not pay for.

Sources: Hatamizadeh et al., "Swin UNETR", BrainLes 2021, arXiv:2201.01266; Myronenko, "3D MRI brain
tumor segmentation using autoencoder regularization", BrainLes 2018, arXiv:1810.11654 (SegResNet);
Isensee et al., "nnU-Net", Nature Methods 2021, arXiv:1904.08128, and Futrega et al., "Optimized
U-Net for Brain Tumor Segmentation", BrainLes 2021, arXiv:2110.03352 (DynUNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medcl.config import Count
from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.networks.unet import kernel_at, widths

SWIN_HALVINGS = 5
FOUR = 4  # stages of a Swin transformer


class SwinUNETR(Network):
    """Swin transformer encoder, convolutional skips and decoder.

    It halves every axis five times, the first of them by its patches of 2 voxels.

    width: features of the first level, a multiple of 12
    depths: transformer blocks of each of the four stages
    heads: attention heads of each stage
    window: tokens of an attention window along each axis
    """

    bottleneck = ("down.0.", f"down.{FOUR + 1}.")  # the skips lie between

    def __init__(
        self,
        channels_in: int,
        strides: Sequence[Sequence[int]],
        channels_out: int,
        *,
        width: Annotated[int, Field(ge=12, multiple_of=12)] = 24,
        depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2),
        heads: tuple[Count, Count, Count, Count] = (3, 6, 12, 24),
        window: Count = 7,
    ) -> None:
        from monai.networks import nets

        dims = len(strides[0])
        _refuse_uneven("swin_unetr", strides, levels=SWIN_HALVINGS + 1)
        if any(width * 2**stage % count for stage, count in enumerate(heads)):
            features = [width * 2**stage for stage in range(FOUR)]
            raise MedclError(
                f"network.heads: {list(heads)} do not divide the features of the stages, "
                f"{features}; choose others"
            )
        channels = [width, *(width * 2**stage for stage in range(SWIN_HALVINGS))]
        super().__init__(channels_in, strides, channels)
        whole = nets.SwinUNETR(
            channels_in,
            channels_out,
            depths=depths,
            num_heads=heads,
            window_size=window,
            feature_size=width,
            spatial_dims=dims,
        )
        self.down = nn.ModuleList(
            [
                whole.swinViT,
                *(whole.encoder1, whole.encoder2, whole.encoder3, whole.encoder4),
                whole.encoder10,
            ]
        )
        self.up = nn.ModuleList(
            [whole.decoder5, whole.decoder4, whole.decoder3, whole.decoder2, whole.decoder1]
        )
        self.head = whole.out

    def maps(self, x: Float[Tensor, "B C *space"]) -> list[Tensor]:
        """Raises ValueError if all is halved to a single voxel, which has no deviation."""
        if max(x.shape[2:]) <= 2**SWIN_HALVINGS:
            raise ValueError(
                f"a crop of {tuple(x.shape[2:])} voxels is halved to a single one; choose a `crop` "
                f"of {2 ** (SWIN_HALVINGS + 1)} along one axis at least"
            )
        transformer, *skips, bottom = self.down
        hidden = transformer(x)
        # The fourth stage's tokens are a skip as they are.
        inputs = [x, *hidden[: len(skips) - 1]]
        fine = [skip(tokens) for skip, tokens in zip(skips, inputs, strict=True)]
        return [*fine, hidden[FOUR - 1], bottom(hidden[FOUR])]

    def merged(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        return self.up[level](x, skip)


class SegResNet(Network):
    """Residual encoder with group norms, linear interpolation up, skips are added.

    width: channels of the first level, a multiple of 8, doubled at each further one
    blocks: residual blocks of each level; the last number goes on for further levels
    """

    def __init__(
        self,
        channels_in: int,
        strides: Sequence[Sequence[int]],
        channels_out: int,
        *,
        width: Annotated[int, Field(ge=8, multiple_of=8)] = 16,
        blocks: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 2, 4),
    ) -> None:
        from monai.networks import nets

        levels = len(strides)
        _refuse_uneven("segresnet", strides, levels=levels)
        super().__init__(channels_in, strides, [width * 2**level for level in range(levels)])
        whole = nets.SegResNet(
            self.dims,
            width,
            channels_in,
            channels_out,
            blocks_down=(*blocks, *[blocks[-1]] * levels)[:levels],
            blocks_up=(1,) * (levels - 1),
        )
        first, *others = whole.down_layers
        *normed, head = whole.conv_final
        self.down = nn.ModuleList([nn.Sequential(whole.convInit, first), *others])
        self.up = whole.up_samples
        *upper, last = whole.up_layers
        # With the norm before the last layer, the decoder's map is what the head reads.
        self.merge = nn.ModuleList([*upper, nn.Sequential(last, *normed)])
        self.head = head

    def merged(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        return self.merge[level](self.up[level](x) + skip)


class DynUNet(Network):
    """nnU-Net's U-Net as MONAI builds it; per-axis strides, and kernels as in the plain U-Net.

    width: channels of the first level, doubled at each further one
    width_max: most channels of a level
    residual: residual blocks in the encoder
    """

    def __init__(
        self,
        channels_in: int,
        strides: Sequence[Sequence[int]],
        channels_out: int,
        *,
        width: Count = 32,
        width_max: Count = 320,
        residual: bool = False,
    ) -> None:
        from monai.networks import nets

        if len(strides) < 3:
            raise MedclError(
                f"network dynunet: needs three levels, the plan's strides {_shown(strides)} are "
                "two; add a level to `plan.strides`, or use unet"
            )
        super().__init__(channels_in, strides, widths(width, width_max, len(strides)))
        whole = nets.DynUNet(
            self.dims,
            channels_in,
            channels_out,
            kernel_size=[kernel_at(self.strides, level) for level in range(len(strides))],
            strides=self.strides,
            upsample_kernel_size=self.strides[1:],
            filters=self.channels,
            res_block=residual,
        )
        self.down = nn.ModuleList([whole.input_block, *whole.downsamples, whole.bottleneck])
        self.up = whole.upsamples
        self.head = whole.output_block

    def merged(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        return self.up[level](x, skip)


def _refuse_uneven(name: str, strides: Sequence[Sequence[int]], *, levels: int) -> None:
    """Raise MedclError unless every axis is halved at each of `levels` but the first."""
    dims = len(strides[0])
    needed = [[1] * dims, *([2] * dims for _ in range(levels - 1))]
    if [list(stride) for stride in strides] == needed:
        return
    slices = " (1 along the axis across the slices)" if dims == 2 else ""
    side = 2 ** (levels - 1)
    raise MedclError(
        f"network {name}: halves every axis at every level and needs the strides {needed}, the "
        f"plan's are {_shown(strides)}; give them as `plan.strides`{slices}, with a `plan.crop` of "
        f"multiples of {side}, such as {[2 * side] * dims}; or use a network that spares an axis "
        "(unet, residual_unet, dynunet)"
    )


def _shown(strides: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(stride) for stride in strides]
