"""The mask of tissue: what is in it, and what is left out and why."""

from pathlib import Path

import numpy as np
import pytest
from make_slides import PINK, TISSUE, halves, picture, svs, tiff

from medcl.slides.geojson import collection, feature, outlines, read_areas
from medcl.slides.reader import open_slide
from medcl.slides.tissue import TissueSettings, block_mean, find_tissue, thumbnail

PLAIN = TissueSettings(closing_um=0, hole_mm2=0, piece_mm2=0, sharpness=0)


def structured(colour: tuple[int, ...], height: int, width: int) -> np.ndarray:
    change = np.random.default_rng(1).integers(-25, 25, (height, width, 1))
    return np.clip(np.array(colour) + change, 0, 255).astype(np.uint8)


def glass(height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), 245, np.uint8)


def test_the_thumbnail_averages_the_nearest_level_and_knows_its_scale(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tiff", halves(picture(), 3), subifds=False)
    small = thumbnail(open_slide(path, 0.5), 8.0)
    assert small.image.shape == (32, 48, 3)
    assert small.scale == (16.0, 16.0)
    np.testing.assert_allclose(small.image, block_mean(picture(), 16), atol=1.01)


def test_a_thumbnail_of_a_slide_without_levels_is_read_in_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiff(tmp_path / "a.tiff", [picture(770, 509)], subifds=False)
    whole = thumbnail(open_slide(path, 0.5), 8.0)
    monkeypatch.setattr("medcl.slides.tissue.STRIP_PIXELS", 20_000)
    strips = thumbnail(open_slide(path, 0.5), 8.0)
    assert whole.image.shape == (32, 49, 3)
    np.testing.assert_array_equal(whole.image, strips.image)


def test_without_a_scale_the_thumbnail_has_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcl.slides.tissue.WITHOUT_MICRONS", 48)
    small = thumbnail(open_slide(svs(tmp_path, microns=None)), 8.0)
    assert max(small.image.shape) == 48


def test_tissue_is_found_where_it_lies(tmp_path: Path) -> None:
    small = thumbnail(open_slide(svs(tmp_path)), 2.0)
    found = find_tissue(small.image, 2.0, TissueSettings())
    x, y, w, h = (v // 4 for v in TISSUE)
    truth = np.zeros(found.mask.shape, bool)
    truth[y : y + h, x : x + w] = True
    both = (found.mask & truth).sum() / (found.mask | truth).sum()
    assert both > 0.95


@pytest.mark.parametrize("noise", [0, 6])
def test_glass_holds_no_tissue(noise: int) -> None:
    rng = np.random.default_rng(0)
    image = (245 - rng.integers(0, noise + 1, (60, 80, 3))).astype(np.uint8)
    assert not find_tissue(image, 8.0, TissueSettings()).mask.any()


def test_a_slide_full_of_tissue_is_not_parted_into_pale_and_dark() -> None:
    image = structured((235, 205, 225), 60, 80)  # saturation about 0.13
    image[:, 40:] = structured((160, 60, 140), 60, 40)
    assert find_tissue(image, 8.0, TissueSettings()).share > 0.95


def test_a_fixed_threshold_is_used_as_given() -> None:
    image = glass()
    image[:, 40:] = structured((240, 222, 235), 60, 40)  # saturation 0.075
    wide = TissueSettings(method="fixed", saturation=0.05, piece_mm2=0)
    narrow = TissueSettings(method="fixed", saturation=0.2, piece_mm2=0)
    assert find_tissue(image, 8.0, wide).share == pytest.approx(0.5, abs=0.06)
    assert find_tissue(image, 8.0, narrow).share == 0


@pytest.mark.parametrize(
    ("reason", "colour"),
    [
        ("black", (20, 5, 10)),
        ("pen", (40, 160, 80)),
        ("pen", (30, 60, 200)),
        ("pen", (220, 20, 30)),
    ],
)
def test_ink_and_black_are_left_out(reason: str, colour: tuple[int, int, int]) -> None:
    image = glass()
    image[10:50, 10:40] = structured(PINK, 40, 30)
    image[10:50, 45:70] = colour
    found = find_tissue(image, 8.0, PLAIN)
    assert found.mask[12:48, 12:38].all()
    assert not found.mask[:, 45:].any()
    assert found.excluded[reason][12:48, 47:68].all()


def test_a_speck_of_pigment_is_no_ink() -> None:
    image = glass()
    image[10:50, 10:70] = structured(PINK, 40, 60)
    image[28:32, 28:32] = (20, 5, 10)
    image[28:32, 40:44] = (40, 160, 80)
    found = find_tissue(image, 8.0, TissueSettings(closing_um=0, sharpness=0))
    assert found.mask[12:48, 12:68].all()
    assert not found.excluded["pen"].any()
    assert not found.excluded["black"].any()


def test_stains_are_not_taken_for_ink() -> None:
    for colour in [(200, 120, 180), (120, 80, 160), (235, 150, 190), (150, 100, 60), (200, 60, 90)]:
        image = glass()
        image[10:50, 10:70] = structured(colour, 40, 60)
        found = find_tissue(image, 8.0, PLAIN)
        assert not found.excluded["pen"].any(), colour
        assert found.mask[12:48, 12:68].all()


def test_a_smear_without_structure_is_left_out_unless_kept() -> None:
    image = glass()
    image[10:50, 10:70] = PINK
    found = find_tissue(image, 8.0, TissueSettings(piece_mm2=0, closing_um=0))
    assert not found.mask[20:40, 20:60].any()
    assert found.excluded["smooth"][20:40, 20:60].all()
    assert find_tissue(image, 8.0, PLAIN).mask[20:40, 20:60].all()


def test_pieces_and_holes_are_judged_by_their_area_in_square_millimetres() -> None:
    image = glass()
    image[5:45, 5:45] = structured(PINK, 40, 40)
    image[20:24, 20:24] = 245  # a hole of 16 pixels
    image[5:9, 60:64] = structured(PINK, 4, 4)
    pixel_mm2 = 0.008**2
    settings = TissueSettings(closing_um=0, sharpness=0, hole_mm2=0, piece_mm2=0)
    bare = find_tissue(image, 8.0, settings).mask
    assert bare[5:9, 60:64].any()
    assert not bare[21:23, 21:23].any()
    grown = TissueSettings(
        closing_um=0, sharpness=0, hole_mm2=30 * pixel_mm2, piece_mm2=30 * pixel_mm2
    )
    mask = find_tissue(image, 8.0, grown).mask
    assert mask[20:24, 20:24].all()
    assert not mask[:, 60:].any()
    finer = find_tissue(image, 4.0, grown).mask  # the same pixels are a quarter of the area
    assert not finer[:, 60:].any()
    coarser = find_tissue(image, 16.0, grown).mask  # four times the area
    assert coarser[6:8, 61:63].all()
    assert not coarser[21:23, 21:23].any()


def test_gaps_up_to_the_closing_width_are_closed() -> None:
    image = glass()
    image[5:55, 5:75] = structured(PINK, 50, 70)
    image[:, 30:33] = 245
    image[:, 50:60] = 245
    settings = TissueSettings(closing_um=48, sharpness=0, hole_mm2=0, piece_mm2=0)
    mask = find_tissue(image, 8.0, settings).mask
    assert mask[15:45, 30:33].all()
    assert not mask[15:45, 53:57].any()
    assert not mask[:, :4].any()


def test_a_mask_written_as_polygons_is_read_back(tmp_path: Path) -> None:
    from medcl.files import write_json

    mask = np.zeros((40, 50), bool)
    mask[5:30, 10:40] = True
    mask[12:20, 18:30] = False  # a hole, with an island
    mask[15:17, 22:26] = True
    mask[33:38, 2:9] = True
    rings = list(outlines(mask, (16.0, 8.0)))
    assert sorted(len(polygon) for polygon in rings) == [1, 1, 2]
    write_json(tmp_path / "m.geojson", collection([feature(polygon) for polygon in rings]))
    np.testing.assert_array_equal(read_areas(tmp_path / "m.geojson", (40, 50), (16.0, 8.0)), mask)
