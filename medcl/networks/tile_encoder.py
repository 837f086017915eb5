"""From a tile of a slide to a vector; feature maps too, as every encoder here.

Tiles come with values from 0 to 1 and are brought to about -2 to 2 here, so that pretraining and
embedding cannot differ. The vector is the mean of the last feature map over the tile.

Source of the residual network: He, Zhang, Ren, Sun, "Deep residual learning for image recognition",
CVPR 2016, arXiv:1512.03385, in MONAI's implementation, without weights from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from medcl.config import Count
from medcl.contrast.gather import GatheredNorm
from medcl.networks.base import Network
from medcl.networks.unet import strided_encoder, widths
from medcl.options import check, resolve

CENTRE, SCALE = 0.5, 0.25
COLOURS = 3
MOST_CHANNELS = 256


class NarrowTileEncoder(Network):
    """A small convolutional encoder for tiles of about 64 pixels, quick enough for a CPU.

    Two convolutions a level. The norm is over the batch: a norm over each tile would leave little
    but zero for the mean of its feature maps.

    width: channels of the first level, doubled at each further one
    levels: resolutions; the last map is 2 to the power of `levels` - 1 times smaller
    """

    def __init__(self, *, width: Count = 16, levels: Count = 4) -> None:
        strides = [(1, 1), *[(2, 2)] * (levels - 1)]
        super().__init__(COLOURS, strides, widths(width, MOST_CHANNELS, levels), "batch")
        self.down = strided_encoder(COLOURS, self.channels, self.strides, self.norm)

    @property
    def features(self) -> int:
        """Length of the vector."""
        return self.channels[-1]

    def encode(self, x: Float[Tensor, "B 3 h w"]) -> list[Tensor]:
        """Feature maps, the finest first."""
        return super().encode((x - CENTRE) / SCALE)

    def forward(self, x: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        return self.encode(x)[-1].mean(dim=(2, 3))


class TileResNet(nn.Module):
    """A 2-D ResNet without its classifier, for tiles of 224 or 256 pixels.

    depth: layers; vectors have 512 numbers (18, 34) or 2048 (50)
    """

    dims = 2

    def __init__(self, *, depth: Literal[18, 34, 50] = 18) -> None:
        from monai.networks.nets import resnet  # 4 s: only where this network is used

        super().__init__()
        build = {18: resnet.resnet18, 34: resnet.resnet34, 50: resnet.resnet50}[depth]
        self.body = build(
            spatial_dims=self.dims,
            n_input_channels=COLOURS,
            conv1_t_size=7,
            conv1_t_stride=2,
            feed_forward=False,
            shortcut_type="B",
            bias_downsample=False,
        )
        _gather_norms(self.body)
        wider = 4 if depth == 50 else 1
        self.channels_in = COLOURS
        self.channels = [64, *(wider * width for width in (64, 128, 256, 512))]
        self.strides: Sequence[Sequence[int]] = [(2, 2)] * 5

    @property
    def features(self) -> int:
        """Length of the vector."""
        return self.channels[-1]

    def encode(self, x: Float[Tensor, "B 3 h w"]) -> list[Tensor]:
        """Feature maps, the finest first."""
        body = self.body
        x = body.act(body.bn1(body.conv1((x - CENTRE) / SCALE)))
        maps = [x]
        x = body.maxpool(x)
        for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def forward(self, x: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        return self.encode(x)[-1].mean(dim=(2, 3))


TILE_ENCODERS: dict[str, type] = {"narrow": NarrowTileEncoder, "resnet": TileResNet}


def build_tile_encoder(options: Mapping[str, Any]) -> Any:
    """Build the encoder called `options["name"]`; the others are its keyword arguments.

    It maps (B, 3, h, w) to (B, D) and has D as `features`. Raises MedclError.
    """
    name = str(options["name"])
    kind = resolve(TILE_ENCODERS, name, "encoder of tiles")
    given = {key: value for key, value in options.items() if key != "name"}
    return kind(**check(kind, given, f"encoder {name}"))


def _gather_norms(module: nn.Module) -> None:
    """Replace batch norms by those of all ranks; names and number of the weights stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, GatheredNorm(child.num_features, affine=True))
        else:
            _gather_norms(child)
