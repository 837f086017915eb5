"""Features of tiles: half precision, tied to their inputs, complete or not there at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from make_slides import svs
from torch import Tensor, nn

from medcl.errors import MedclError
from medcl.slides.examine import TissueMask
from medcl.slides.features import (
    embed,
    is_current,
    key_of,
    read_features,
    to_input,
    weights_sha256,
)
from medcl.slides.reader import SlideReader, open_slide
from medcl.slides.tiles import Tiles, TileSettings, lay_tiles, read_tile


class Mean(nn.Module):
    """Mean colour, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 4.0]))
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.sizes.append(len(x))
        return x.mean(dim=(2, 3)) * self.weight


@pytest.fixture
def reader(tmp_path: Path) -> SlideReader:
    return open_slide(svs(tmp_path))


@pytest.fixture
def tiles(reader: SlideReader) -> Tiles:
    mask = TissueMask(np.ones((2, 3), bool), (256.0, 256.0))
    return lay_tiles(reader, mask, TileSettings(0.5, tile=128), "sha")


def test_each_tile_has_its_vector_in_the_order_of_the_places(
    tmp_path: Path, reader: SlideReader, tiles: Tiles
) -> None:
    encoder, out = Mean().train(), tmp_path / "features.h5"
    assert embed(out, reader, tiles, encoder, "enc", batch=10)
    assert encoder.sizes == [10, 10, 4]
    assert encoder.training
    found = read_features(out, key_of(tiles, "enc"))
    assert found.features.dtype == np.float16
    np.testing.assert_array_equal(found.coords, tiles.coords)
    assert found.side == 128
    for (x, y), row in zip(tiles.coords, found.features, strict=True):
        mean = read_tile(reader, tiles.grid, int(x), int(y)).mean(axis=(0, 1)) / 255
        np.testing.assert_allclose(row, mean * [1, 2, 4], rtol=1e-3)


def test_finished_features_are_kept_and_others_made_again(
    tmp_path: Path, reader: SlideReader, tiles: Tiles
) -> None:
    out = tmp_path / "features.h5"
    assert embed(out, reader, tiles, Mean(), "enc")
    assert not embed(out, reader, tiles, Mean(), "enc")
    assert embed(out, reader, tiles, Mean(), "other")
    assert not is_current(out, key_of(tiles, "enc"))
    with pytest.raises(MedclError, match="another encoder"):
        read_features(out, key_of(tiles, "enc"))
    few = Tiles(tiles.coords[:3], tiles.tissue[:3], tiles.grid, "another mask")
    assert embed(out, reader, few, Mean(), "other")
    assert len(read_features(out).features) == 3


def test_the_hash_of_an_encoder_changes_with_every_weight() -> None:
    one, other = Mean(), Mean()
    assert weights_sha256(one) == weights_sha256(other)
    with torch.no_grad():
        other.weight[2] += 1e-6
    assert weights_sha256(one) != weights_sha256(other)


def test_tiles_reach_the_encoder_with_values_from_0_to_1() -> None:
    image = np.zeros((1, 2, 3, 3), np.uint8)
    image[0, 1, 2] = (255, 51, 0)
    x = to_input(image)
    assert x.shape == (1, 3, 2, 3)
    assert x[0, :, 1, 2].tolist() == pytest.approx([1, 0.2, 0])
    assert float(x.sum()) == pytest.approx(1.2)


def test_features_that_do_not_fit_half_precision_are_refused(
    tmp_path: Path, reader: SlideReader, tiles: Tiles
) -> None:
    encoder, out = Mean(), tmp_path / "features.h5"
    with torch.no_grad():
        encoder.weight[0] = 1e6
    with pytest.raises(MedclError, match="half precision"):
        embed(out, reader, tiles, encoder, "enc")
    assert not out.exists()
    with pytest.raises(MedclError, match="one vector a tile"):
        embed(out, reader, tiles, nn.Conv2d(3, 2, 1), "enc")


def test_a_slide_without_tiles_is_refused(
    tmp_path: Path, reader: SlideReader, tiles: Tiles
) -> None:
    none = Tiles(tiles.coords[:0], tiles.tissue[:0], tiles.grid, "none")
    with pytest.raises(MedclError, match="no tiles"):
        embed(tmp_path / "features.h5", reader, none, Mean(), "enc")


KILLED = """
import sys, time
import numpy as np, torch
from torch import nn
from medcl.slides.features import embed
from medcl.slides.reader import open_slide
from medcl.slides.tiles import read_tiles

class Slow(nn.Module):
    def forward(self, x):
        print("batch", flush=True)
        time.sleep(float(sys.argv[4]))
        return x.mean(dim=(2, 3))

slide, tiles, out = sys.argv[1:4]
print(embed(out, open_slide(slide), read_tiles(tiles), Slow(), "enc", batch=8))
"""


def test_a_killed_embedding_leaves_no_file_under_the_name_and_a_rerun_completes(
    tmp_path: Path, reader: SlideReader, tiles: Tiles
) -> None:
    from medcl.slides.tiles import write_tiles

    write_tiles(tmp_path / "tiles.h5", tiles)
    out = tmp_path / "out" / "features.h5"
    names = [str(reader.path), str(tmp_path / "tiles.h5"), str(out)]
    command = [sys.executable, "-c", KILLED, *names, "30"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "batch\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    assert [file.name[:6] for file in out.parent.iterdir()] == [".part-"]
    assert embed(out, reader, tiles, Mean(), "enc", batch=8)
    assert [file.name for file in out.parent.iterdir()] == ["features.h5"]
    assert len(read_features(out).features) == len(tiles)


def test_half_written_features_are_never_taken_for_finished(tmp_path: Path) -> None:
    out = tmp_path / "features.h5"
    assert not is_current(out, "key")
    with h5py.File(out, "w") as file:
        file["features"] = np.zeros((2, 3), np.float16)
    assert not is_current(out, "key")
    out.write_bytes(out.read_bytes()[:100])
    assert not is_current(out, "key")
    with pytest.raises(MedclError, match="medcl embed"):
        read_features(out)
