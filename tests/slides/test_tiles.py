"""Tiles by physical size: level, grid, pixels and share of tissue."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from make_slides import halves, picture, svs, tiff

from medcl.errors import MedclError
from medcl.slides.examine import TissueMask
from medcl.slides.reader import SlideError, SlideReader, open_slide
from medcl.slides.tiles import (
    TileSettings,
    area_resize,
    grid_of,
    lay_tiles,
    read_tile,
    read_tiles,
    tissue_shares,
    write_tiles,
)
from medcl.slides.tissue import block_mean


def all_tissue(reader: SlideReader) -> TissueMask:
    width, height = reader.sizes[0]
    return TissueMask(np.ones((10, 10), bool), (width / 10, height / 10))


def lay(reader: SlideReader, settings: TileSettings) -> np.ndarray:
    return lay_tiles(reader, all_tissue(reader), settings, "sha").coords


@pytest.mark.parametrize(
    ("wanted", "level", "downsample", "read"),
    [(0.5, 0, 1, 64), (0.505, 0, 1, 64), (1.0, 0, 1, 128), (2.0, 1, 4, 64), (3.0, 1, 4, 96)],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(
    tmp_path: Path, wanted: float, level: int, downsample: int, read: int
) -> None:
    grid = grid_of(open_slide(svs(tmp_path)), TileSettings(wanted, tile=64))
    assert (grid.level, grid.downsample, grid.read) == (level, downsample, read)
    assert grid.microns_per_pixel == pytest.approx(wanted, rel=0.011)


def test_a_level_of_an_odd_pyramid_is_not_read_because_it_does_not_divide(tmp_path: Path) -> None:
    reader = open_slide(tiff(tmp_path / "a.tiff", halves(picture(771, 513), 2), subifds=False), 0.5)
    assert reader.downsamples[1] != 2
    grid = grid_of(reader, TileSettings(1.0, tile=64))
    assert (grid.level, grid.read) == (0, 128)
    expected = block_mean(picture(771, 513)[128:256, 256:384], 2)
    np.testing.assert_array_equal(read_tile(reader, grid, 256, 128), expected)


def test_a_slide_that_is_too_coarse_is_refused_unless_allowed(tmp_path: Path) -> None:
    reader = open_slide(svs(tmp_path))
    with pytest.raises(SlideError, match=r"2\.00 times finer") as caught:
        grid_of(reader, TileSettings(0.25, tile=64))
    assert caught.value.code == "too_coarse"
    grid = grid_of(reader, TileSettings(0.25, tile=64, allow_upsampling=True))
    assert grid.read == 32
    assert read_tile(reader, grid, 256, 128).shape == (64, 64, 3)
    assert grid_of(reader, TileSettings(0.46, tile=64)).read == 59  # 1.09 times finer


def test_a_slide_without_scale_has_no_tiles(tmp_path: Path) -> None:
    with pytest.raises(SlideError) as caught:
        grid_of(open_slide(svs(tmp_path, microns=None)), TileSettings())
    assert caught.value.code == "no_mpp"


def test_the_grid_starts_at_0_and_holds_whole_tiles_row_by_row(tmp_path: Path) -> None:
    coords = lay(open_slide(svs(tmp_path)), TileSettings(0.5, tile=200))
    assert coords.dtype == np.int32
    expected = [[x, y] for y in (0, 200) for x in (0, 200, 400)]
    np.testing.assert_array_equal(coords, expected)
    half = lay(open_slide(svs(tmp_path)), TileSettings(0.5, tile=256, overlap=0.5))
    np.testing.assert_array_equal(np.unique(half[:, 0]), [0, 128, 256, 384, 512])
    assert len(lay(open_slide(svs(tmp_path)), TileSettings(0.5, tile=513))) == 0


def test_tiles_of_a_fractional_size_do_not_drift_and_lie_on_pixels_of_their_level(
    tmp_path: Path,
) -> None:
    reader = open_slide(svs(tmp_path))
    settings = TileSettings(2.13, tile=10)  # 42.6 level-0 pixels, from level 1
    x = np.unique(lay(reader, settings)[:, 0])
    assert (x % 4 == 0).all()
    assert np.abs(x - np.arange(len(x)) * 42.6).max() <= 2
    assert len(x) == 18


def test_a_20x_and_a_40x_scan_of_one_section_give_equal_tiles(tmp_path: Path) -> None:
    fine = picture(1536, 1024)
    coarse = block_mean(fine, 2)
    a = open_slide(tiff(tmp_path / "20x.tiff", [coarse], subifds=False), 0.5)
    b = open_slide(tiff(tmp_path / "40x.tiff", halves(fine, 2), subifds=False), 0.25)
    settings = TileSettings(0.5, tile=128)
    tiles_a = lay_tiles(a, all_tissue(a), settings, "a")
    tiles_b = lay_tiles(b, all_tissue(b), settings, "b")
    np.testing.assert_array_equal(tiles_b.coords, tiles_a.coords * 2)
    for (x, y), (u, v) in zip(tiles_a.coords, tiles_b.coords, strict=True):
        one = read_tile(a, tiles_a.grid, int(x), int(y))
        np.testing.assert_array_equal(one, read_tile(b, tiles_b.grid, int(u), int(v)))


def test_the_share_of_tissue_counts_parts_of_pixels() -> None:
    mask = TissueMask(np.array([[0, 1, 1], [0, 0, 1]], bool), (10.0, 20.0))
    corners = np.array([[0, 0], [5, 0], [10, 0], [10, 10], [20, 10]], np.int32)

    def slowly(x: int, y: int, side: int) -> float:
        full = mask.mask.repeat(20, 0).repeat(10, 1)
        return float(full[y : y + side, x : x + side].mean())

    expected = [slowly(x, y, 10) for x, y in corners]
    np.testing.assert_allclose(tissue_shares(mask, corners, 10), expected)


def test_only_tiles_with_enough_tissue_are_kept(tmp_path: Path) -> None:
    reader = open_slide(svs(tmp_path))
    mask = TissueMask(np.zeros((8, 12), bool), (64.0, 64.0))
    mask.mask[2:5, 4:8] = True
    tiles = lay_tiles(reader, mask, TileSettings(0.5, tile=128, least_tissue=0.5), "sha")
    np.testing.assert_array_equal(tiles.coords, [[256, 128], [384, 128], [256, 256], [384, 256]])
    np.testing.assert_array_equal(tiles.tissue, np.array([1, 1, 0.5, 0.5], np.float16))
    none = lay_tiles(reader, mask, TileSettings(0.5, tile=512), "sha")
    assert none.status == "empty"


def test_an_area_resize_is_the_mean_of_what_each_pixel_covers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3)).astype(np.uint8)
    fine = image.repeat(4, 0).repeat(4, 1)
    expected = fine.reshape(4, 10, 4, 10, 3).mean(axis=(1, 3))
    assert np.abs(area_resize(image, 4) - expected).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(area_resize(image, 10), image)
    assert (
        np.abs(area_resize(image, 5) - fine.reshape(5, 8, 5, 8, 3).mean(axis=(1, 3))).max() <= 0.5
    )


def test_written_tiles_are_read_back_as_the_types_promised(tmp_path: Path) -> None:
    reader = open_slide(svs(tmp_path))
    tiles = lay_tiles(reader, all_tissue(reader), TileSettings(0.5, tile=128), "sha")
    write_tiles(tmp_path / "tiles.h5", tiles)
    with h5py.File(tmp_path / "tiles.h5") as file:
        assert file["coords"].dtype == np.int32
        assert file["tissue"].dtype == np.float16
        assert file.attrs["status"] == "ok"
    back = read_tiles(tmp_path / "tiles.h5")
    np.testing.assert_array_equal(back.coords, tiles.coords)
    assert back.grid == tiles.grid
    assert back.made_from == tiles.made_from
    (tmp_path / "bad.h5").write_text("nothing")
    with pytest.raises(MedclError, match="medcl tile"):
        read_tiles(tmp_path / "bad.h5")


def test_what_tiles_are_made_from_changes_with_slide_mask_and_settings(tmp_path: Path) -> None:
    reader = open_slide(svs(tmp_path))
    mask, settings = all_tissue(reader), TileSettings(0.5, tile=128)
    other = TissueMask(mask.mask.copy(), mask.scale)
    other.mask[0, 0] = False
    made = [
        lay_tiles(reader, mask, settings, "sha"),
        lay_tiles(reader, mask, settings, "another"),
        lay_tiles(reader, other, settings, "sha"),
        lay_tiles(reader, mask, TileSettings(0.5, tile=128, least_tissue=0.4), "sha"),
    ]
    assert len({tiles.made_from for tiles in made}) == 4
    assert other.sha256 != mask.sha256
    assert replace(mask, scale=(1.0, 1.0)).sha256 != mask.sha256
    assert lay_tiles(reader, mask, settings, "sha").made_from == made[0].made_from


def test_a_corrected_size_of_the_pixels_makes_other_tiles(tmp_path: Path) -> None:
    """0.5, 0.485 and 0.515 micrometres a pixel have one mask, and tiles of other pixels."""
    path, mask = svs(tmp_path), TissueMask(np.ones((10, 10), bool), (76.8, 51.2))
    laid = [
        lay_tiles(open_slide(path, microns), mask, TileSettings(0.5, tile=128), "sha")
        for microns in (0.5, 0.485, 0.515)
    ]
    assert [tiles.grid.read for tiles in laid] == [128, 132, 124]
    assert len({tiles.made_from for tiles in laid}) == 3


def test_the_areas_of_a_large_mask_are_summed_in_four_bytes_a_pixel() -> None:
    mask = TissueMask(np.ones((1000, 1000), bool), (1.0, 1.0))
    corners = np.array([[0, 0], [990, 980]], np.int32)
    tracemalloc.start()
    shares = tissue_shares(mask, corners, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(shares, [1.0, 1.0])
    assert peak < 5 * mask.mask.size


@pytest.mark.parametrize(("tile", "many"), [(256, 88), (512, 20)])
@pytest.mark.parametrize("wanted", [None, 0.5])
def test_a_real_slide_has_the_tiles_its_size_gives(
    data: Path, tile: int, many: int, wanted: float | None
) -> None:
    reader = open_slide(data / "wsi" / "CMU-1-Small-Region.svs")
    tiles = lay_tiles(reader, all_tissue(reader), TileSettings(wanted, tile=tile), "sha")
    assert len(tiles) == many
    assert (tiles.grid.level, tiles.grid.read) == (0, tile)
