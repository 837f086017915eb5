"""Pictures and areas made of scores and places."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from make_slides import svs
from matplotlib import colormaps
from PIL import Image

from medcl.slides.heatmap import OPACITY, areas, overlay, percentiles, top_tiles, write_heatmap
from medcl.slides.reader import open_slide
from medcl.slides.tiles import TileSettings, grid_of, read_tile
from medcl.slides.tissue import Thumbnail

COORDS = np.array([[0, 0], [128, 0], [256, 128]], np.int32)
SCORES = np.array([0.001, 0.9, 0.002])


def test_percentiles_ignore_the_scale_of_scores_and_share_ties() -> None:
    np.testing.assert_allclose(percentiles(SCORES), [1 / 6, 5 / 6, 3 / 6])
    np.testing.assert_allclose(percentiles(np.log(SCORES)), percentiles(SCORES))
    np.testing.assert_allclose(percentiles(np.array([2.0, 2.0])), [0.5, 0.5])
    with pytest.raises(ValueError, match="1 of 2"):
        percentiles(np.array([1.0, np.nan]))


def test_each_tile_has_the_colour_of_its_percentile_and_the_rest_is_unchanged() -> None:
    thumbnail = Thumbnail(np.full((32, 48, 3), 200, np.uint8), (16.0, 16.0))
    shown = overlay(thumbnail, COORDS, 128, SCORES)
    for (x, y), share in zip(COORDS // 16, percentiles(SCORES), strict=True):
        expected = (1 - OPACITY) * 200 + OPACITY * 255 * np.array(colormaps["magma"](share)[:3])
        area = shown[y : y + 8, x : x + 8].astype(float)
        assert np.abs(area - expected).max() <= 0.5 + 1e-3
    assert (shown[16:] == 200).all()
    assert (shown[:8, 16:] == 200).all()


def test_overlapping_tiles_show_their_mean() -> None:
    thumbnail = Thumbnail(np.zeros((4, 8, 3), np.uint8), (32.0, 32.0))
    coords = np.array([[0, 0], [64, 0]], np.int32)
    shown = overlay(thumbnail, coords, 128, np.array([1.0, 2.0]))
    middle = OPACITY * 255 * np.array(colormaps["magma"](0.5)[:3])
    np.testing.assert_allclose(shown[0, 2], middle, atol=0.51)


def test_areas_are_closed_squares_in_level_0_pixels_with_measurements() -> None:
    found = areas(COORDS, 128, SCORES, "attention")
    assert found["type"] == "FeatureCollection"
    first = found["features"][0]
    ring = first["geometry"]["coordinates"][0]
    assert ring == [[128, 0], [256, 0], [256, 128], [128, 128], [128, 0]]
    # QuPath makes a tile of `objectType` tile and reads `measurements` as name: number.
    assert first["properties"]["objectType"] == "tile"
    measured = first["properties"]["measurements"]
    assert measured == {"attention": 0.9, "attention percentile": pytest.approx(500 / 6)}
    assert json.loads(json.dumps(found)) == found


def test_the_sheet_shows_the_highest_tiles_first(tmp_path: Path) -> None:
    reader = open_slide(svs(tmp_path))
    grid = grid_of(reader, TileSettings(0.5, tile=128))
    sheet = top_tiles(reader, grid, COORDS, SCORES, most=2)
    assert sheet.shape[1] == 2 * 128 + 4
    np.testing.assert_array_equal(sheet[:128, :128], read_tile(reader, grid, 128, 0))
    np.testing.assert_array_equal(sheet[:128, 132:260], read_tile(reader, grid, 256, 128))


def test_a_folder_of_a_heat_map_holds_picture_sheet_areas_and_table(tmp_path: Path) -> None:
    reader = open_slide(svs(tmp_path))
    thumbnail = Thumbnail(reader.read(0, 0, 2, 48, 32), (16.0, 16.0))
    grid = grid_of(reader, TileSettings(0.5, tile=128))
    write_heatmap(tmp_path / "out", thumbnail, reader, grid, COORDS, SCORES)
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["heatmap.png", "scores.csv", "scores.geojson", "tiles.png"]
    with Image.open(tmp_path / "out" / "heatmap.png") as image:
        assert image.size == (48, 32)
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["attention"]) for row in rows] == SCORES.tolist()
    assert (int(rows[2]["x"]), int(rows[2]["y"])) == (256, 128)
