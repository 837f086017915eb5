"""Networks by name; each is a `medcl.networks.base.Network`. Or `file.py:Class`."""

from collections.abc import Mapping, Sequence
from typing import Any

from medcl.errors import MedclError
from medcl.networks.base import Network
from medcl.networks.chaitanya_unet import ChaitanyaUNet
from medcl.networks.from_monai import DynUNet, SegResNet, SwinUNETR
from medcl.networks.residual_unet import ResidualUNet
from medcl.networks.unet import UNet
from medcl.options import check, resolve

NETWORKS: dict[str, type[Network]] = {
    "chaitanya_unet": ChaitanyaUNet,
    "dynunet": DynUNet,
    "residual_unet": ResidualUNet,
    "segresnet": SegResNet,
    "swin_unetr": SwinUNETR,
    "unet": UNet,
}


def build(
    options: Mapping[str, Any],
    *,
    channels_in: int,
    strides: Sequence[Sequence[int]],
    channels_out: int,
    across: int | None = None,
) -> Network:
    """Build the network called `options["name"]`; the other options are its keyword arguments.

    `strides` and `across` are the plan's: with an axis `across`, the network is a 2-D one of the
    slices along it. Raises MedclError for an unknown name or option, and for strides that this
    network cannot follow.
    """
    name = str(options["name"])
    kind: Any = resolve(NETWORKS, name, "network")
    if not issubclass(kind, Network):
        raise MedclError(f"network {name}: {kind.__name__} is no medcl.networks.base.Network")
    given = {key: value for key, value in options.items() if key != "name"}
    if across is not None:
        strides = [[*stride[:across], *stride[across + 1 :]] for stride in strides]
    network: Network = kind(channels_in, strides, channels_out, **check(kind, given, "network"))
    if across is not None:
        network.across = across
    return network
