"""Class probabilities of a whole volume, from overlapping windows of the training crop's size.

Windows are weighted by a Gaussian around their centre, because a network knows least at the edge
of what it sees. Logits are averaged, then one softmax is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

Voxels = tuple[int, int, int]


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module,
    image: Float32[np.ndarray, "C X Y Z"],
    crop: Voxels,
    *,
    fill: Sequence[float],
    overlap: float = 0.5,
    batch: int = 4,
) -> Float32[np.ndarray, "K X Y Z"]:
    """Slide `network` over `image` (as the preprocessing leaves it) on the network's own device.

    A volume smaller than `crop` is centred in one filled with `fill` (one value per channel).
    Channel 0 is the background, channel i the i-th class of the plan. `overlap` is the share of a
    window it has in common with its neighbour, `batch` the windows computed together. On CUDA the
    windows are computed in bfloat16. The network is evaluated and left in the mode it was in.
    """
    device = next(network.parameters(), torch.empty(0)).device
    padded, inside = _pad(image, crop, fill)

    def logits(windows: Float[Tensor, "B C x y z"]) -> Float32[Tensor, "B K x y z"]:
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            return network(windows).float()

    was_training = network.training
    network.eval()
    try:
        blended = sliding_window_inference(
            torch.from_numpy(padded)[None],
            crop,
            batch,
            logits,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device=torch.device("cpu"),  # a whole volume of K classes need not fit on the GPU
        )
    finally:
        network.train(was_training)
    assert isinstance(blended, Tensor)
    x, y, z = inside
    return blended[0, :, x, y, z].softmax(0).numpy()


def mean_probabilities(
    networks: Sequence[nn.Module],
    image: Float32[np.ndarray, "C X Y Z"],
    crop: Voxels,
    *,
    fill: Sequence[float],
    overlap: float = 0.5,
    batch: int = 4,
) -> Float32[np.ndarray, "K X Y Z"]:
    """The mean of what `predict_probabilities` says of each network; of one, that itself.

    Probabilities are averaged, not logits: a network that is sure of one class would else outvote
    all that are merely confident of another.
    """
    first, *others = networks
    more: Any = {"fill": fill, "overlap": overlap, "batch": batch}
    mean = predict_probabilities(first, image, crop, **more)
    for network in others:
        mean += predict_probabilities(network, image, crop, **more)
    mean /= len(networks)
    return mean


def _pad(
    image: Float32[np.ndarray, "C X Y Z"], crop: Voxels, fill: Sequence[float]
) -> tuple[Float32[np.ndarray, "C x y z"], tuple[slice, ...]]:
    """The image in a volume of at least `crop` voxels, and where it lies there."""
    shape = image.shape[1:]
    size = tuple(max(n, c) for n, c in zip(shape, crop, strict=True))
    inside = tuple(slice((s - n) // 2, (s - n) // 2 + n) for s, n in zip(size, shape, strict=True))
    padded = np.empty((len(image), *size), np.float32)
    padded[:] = np.array(fill, np.float32)[:, None, None, None]
    padded[(slice(None), *inside)] = image
    return padded, inside
