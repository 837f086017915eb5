"""Encoders of tiles: shapes, and agreement with the network they wrap."""

import pytest
import torch

from medcl.contrast.gather import GatheredNorm
from medcl.networks.tile_encoder import TILE_ENCODERS, NarrowTileEncoder, TileResNet


@pytest.mark.parametrize("name", TILE_ENCODERS)
def test_every_tile_becomes_a_vector_of_the_width_announced(name: str) -> None:
    encoder = TILE_ENCODERS[name]().eval()
    tiles = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        vectors, maps = encoder(tiles), encoder.encode(tiles)
    assert vectors.shape == (3, encoder.features)
    assert [m.shape[1] for m in maps] == encoder.channels
    side = 64
    for found, (stride, _) in zip(maps, encoder.strides, strict=True):
        side //= stride
        assert found.shape[2:] == (side, side)
    torch.testing.assert_close(vectors, maps[-1].mean(dim=(2, 3)))


def test_the_vector_of_a_tile_does_not_depend_on_its_batch() -> None:
    encoder = NarrowTileEncoder().eval()
    tiles = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(encoder(tiles)[1:2], encoder(tiles[1:2]), rtol=1e-4, atol=1e-5)


def test_the_residual_network_is_monais_behind_the_scaling_of_its_input() -> None:
    encoder = TileResNet().eval()
    tiles = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = encoder.body((tiles - 0.5) / 0.25)
        torch.testing.assert_close(encoder(tiles), expected)


def test_norms_of_the_residual_network_are_those_of_all_ranks() -> None:
    encoder = TileResNet()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 20
    assert all(isinstance(norm, GatheredNorm) for norm in norms)
    assert all(c.bias is None for c in encoder.modules() if isinstance(c, torch.nn.Conv2d))
