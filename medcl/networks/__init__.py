"""Networks by name; each offers `encode`, `decode`, `head`, `channels` and `strides`."""

from collections.abc import Mapping, Sequence
from typing import Any

from medcl.networks.unet import UNet
from medcl.options import check, resolve

NETWORKS: dict[str, type] = {"unet": UNet}


def build(
    options: Mapping[str, Any],
    *,
    channels_in: int,
    strides: Sequence[Sequence[int]],
    channels_out: int,
) -> UNet:
    """Build the network called `options["name"]`; the other options are its keyword arguments."""
    kind = resolve(NETWORKS, str(options["name"]), "network")
    given = {key: value for key, value in options.items() if key != "name"}
    return kind(channels_in, strides, channels_out, **check(kind, given, "network"))
