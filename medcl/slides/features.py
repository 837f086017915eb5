"""Feature vectors of the tiles of a slide, in half precision.

A file of features is tied to the weights of its encoder and to its tiles (and by these to the
slide, its mask and the settings) by hash: others are computed again, never mixed. It appears under
its name only when it is complete, so that a killed run leaves nothing that a later one would take
for finished.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Float16, Float32, Int32, UInt8
from torch import Tensor, nn

from medcl.errors import MedclError
from medcl.files import replacing, sha256_of
from medcl.slides.reader import SlideReader
from medcl.slides.tiles import Tiles, read_tile

FORMAT = 1
BATCH = 256


@dataclass(frozen=True)
class Features:
    """One vector a tile. `coords` are level-0 places, `side` level-0 pixels along a tile.

    `made_from` ties them to the encoder and to the tiles.
    """

    features: Float16[np.ndarray, "N D"]
    coords: Int32[np.ndarray, "N 2"]
    side: int
    made_from: str


def weights_sha256(network: nn.Module) -> str:
    """Hash of the names and values of all tensors of a network, buffers included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_input(tiles: UInt8[np.ndarray, "B h w 3"]) -> Float32[Tensor, "B 3 h w"]:
    """Tiles as every tile encoder takes them: channels first, values from 0 to 1."""
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div_(255)


def is_current(path: str | Path, made_from: str) -> bool:
    """Whether `path` holds complete features made from these inputs."""
    try:
        with h5py.File(path, "r") as file:
            attrs = file.attrs
            return bool(attrs.get("format") == FORMAT and attrs.get("made_from") == made_from)
    except OSError:
        return False


def key_of(tiles: Tiles, encoder_sha256: str) -> str:
    """Hash of all that decides the features of these tiles."""
    return sha256_of([FORMAT, tiles.made_from, encoder_sha256])


def embed(
    path: str | Path,
    reader: SlideReader,
    tiles: Tiles,
    encoder: nn.Module,
    encoder_sha256: str,
    *,
    batch: int = BATCH,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Write the features of all tiles; return False if `path` holds them already.

    `encoder` maps (B, 3, h, w) to (B, D), on its own device, and is used in evaluation mode; its
    hash comes from `weights_sha256`, once for all slides. Raises MedclError if there is no tile,
    and if a feature is not finite in half precision.
    """
    path, made_from = Path(path), key_of(tiles, encoder_sha256)
    for left in path.parent.glob(f".part-*-{path.name}"):
        left.unlink()  # of a killed run
    if is_current(path, made_from):
        return False
    if not len(tiles):
        raise MedclError(f"{reader.path}: has no tiles; leave the slide out, or mend its mask")
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        rows = None
        for start in range(0, len(tiles), batch):
            coords = tiles.coords[start : start + batch]
            pixels = np.stack([read_tile(reader, tiles.grid, int(x), int(y)) for x, y in coords])
            part = _encode(encoder, pixels, str(reader.path))
            if rows is None:
                shape = (len(tiles), part.shape[1])
                chunks = (min(batch, len(tiles)), part.shape[1])
                rows = file.create_dataset("features", shape, "f2", chunks=chunks)
            rows[start : start + len(part)] = part
            say(f"{path}: {start + len(part)} of {len(tiles)} tiles")
        file["coords"] = tiles.coords
        file.attrs["side"] = tiles.grid.side
        file.attrs["encoder_sha256"] = encoder_sha256
        file.attrs["made_from"] = made_from
        file.attrs["format"] = FORMAT
    return True


def read_features(path: str | Path, made_from: str | None = None) -> Features:
    """Read features; MedclError if they are none, or were not made from `made_from` where given."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise OSError(f"its format is {file.attrs.get('format')}, not {FORMAT}")
            found = Features(
                file["features"][:],
                file["coords"][:],
                int(file.attrs["side"]),
                str(file.attrs["made_from"]),
            )
    except (OSError, KeyError) as error:
        raise MedclError(f"{path}: no features: {error}; run `medcl embed` again") from None
    if made_from is not None and found.made_from != made_from:
        raise MedclError(
            f"{path}: made from other tiles or by another encoder; run `medcl embed` again"
        )
    return found


@torch.inference_mode()
def _encode(
    encoder: nn.Module, pixels: UInt8[np.ndarray, "B h w 3"], name: str
) -> Float16[np.ndarray, "B D"]:
    device = next(encoder.parameters(), torch.empty(0)).device
    was_training = encoder.training
    encoder.eval()
    try:
        found = encoder(to_input(pixels).to(device))
    finally:
        encoder.train(was_training)
    if found.shape[:-1] != (len(pixels),):
        raise MedclError(
            f"the encoder gives {tuple(found.shape)} for {len(pixels)} tiles; it has to give one "
            "vector a tile"
        )
    half = found.half().cpu().numpy()
    if not np.isfinite(half).all():
        raise MedclError(
            f"{name}: features are not finite in half precision (up to "
            f"{float(found.abs().max()):.3g}); scale the encoder's output, or end it with a norm"
        )
    return half
