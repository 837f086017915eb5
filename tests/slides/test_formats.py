"""Vendors' formats by the smallest files OpenSlide takes: pixels, scale, levels, damage."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_formats import bif, dicom, mrxs, ndpi, scn
from make_slides import halves, picture

from medcl.slides.examine import examine
from medcl.slides.reader import SlideError, open_slide
from medcl.slides.tissue import TissueSettings

LEVELS = halves(picture(), 3)
MICRONS = 0.4
JPEG_ERROR = 1.0  # mean difference of grey values that quality 95 may make
FORMATS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "dicom": ("dicom", lambda folder: dicom(folder, LEVELS, MICRONS)),
    "ndpi": ("hamamatsu", lambda folder: ndpi(folder / "a.ndpi", LEVELS, MICRONS)),
    "mrxs": ("mirax", lambda folder: mrxs(folder / "a.mrxs", LEVELS, MICRONS)),
    "bif": ("ventana", lambda folder: bif(folder / "a.bif", LEVELS, MICRONS)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_levels_scale_and_pixels_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    vendor, write = FORMATS[name]
    with open_slide(write(tmp_path)) as slide:
        assert slide.vendor == vendor
        assert slide.sizes[:3] == ((768, 512), (384, 256), (192, 128))
        assert slide.downsamples[:3] == (1.0, 2.0, 4.0)
        assert slide.microns_per_pixel == pytest.approx(MICRONS, rel=1e-3)
        for number, level in enumerate(LEVELS):
            read = slide.read(0, 0, number, level.shape[1], level.shape[0])
            assert np.abs(read.astype(int) - level).mean() < JPEG_ERROR
        part = slide.read(256, 128, 1, 64, 32)
        assert np.abs(part.astype(int) - LEVELS[1][64:96, 128:192]).mean() < 3 * JPEG_ERROR
        assert (slide.read(760, 0, 0, 16, 4)[:, 8:] == 255).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_slide_of_a_vendor_is_examined_like_any_other(name: str, tmp_path: Path) -> None:
    found = examine("a", FORMATS[name][1](tmp_path), TissueSettings(microns_per_pixel=3.2))
    assert found.status == "ok"
    assert found.tissue is not None
    drawn = 256 * 256 / (768 * 512)
    assert found.tissue.share == pytest.approx(drawn, rel=0.1)


def test_a_leica_slide_is_its_main_picture_and_not_the_overview_with_more_levels(
    tmp_path: Path,
) -> None:
    overview = halves(np.full((512, 768, 3), 60, np.uint8), 5)
    with open_slide(scn(tmp_path / "a.scn", LEVELS, MICRONS, tuple(overview))) as slide:
        assert slide.vendor == "leica"
        assert slide.sizes == ((1536, 1024), (768, 512), (384, 256))  # of the whole glass
        assert slide.microns_per_pixel == pytest.approx(MICRONS, rel=1e-3)
        for number, level in enumerate(LEVELS):
            height, width = level.shape[:2]
            read = slide.read(384, 256, number, width, height)
            assert np.abs(read.astype(int) - level).mean() < JPEG_ERROR
        assert (slide.read(0, 0, 0, 384, 256) == 255).all()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dicom", "level0.dcm"),
        ("ndpi", "a.ndpi"),
        ("mrxs", "a/Data0000.dat"),
        ("bif", "a.bif"),
    ],
)
def test_a_copy_that_broke_off_is_found_when_it_is_examined(
    name: str, file: str, tmp_path: Path
) -> None:
    path = FORMATS[name][1](tmp_path)
    os.truncate(tmp_path / file, int(0.5 * (tmp_path / file).stat().st_size))
    assert examine("a", path, TissueSettings()).status in ("truncated", "unreadable")


def test_tiles_that_were_never_written_are_found_when_it_is_examined(tmp_path: Path) -> None:
    """A copy of full length with a hole of zeros in the data of its finest level."""
    path = mrxs(tmp_path / "a.mrxs", LEVELS, MICRONS)
    data = tmp_path / "a" / "Data0000.dat"
    whole = data.read_bytes()
    data.write_bytes(bytes(len(whole) // 2) + whole[len(whole) // 2 :])
    found = examine("a", path, TissueSettings())
    assert found.status == "unreadable"
    assert found.thumbnail is not None  # from a coarser level


def test_a_slide_without_its_pixels_is_named(tmp_path: Path) -> None:
    path = mrxs(tmp_path / "a.mrxs", LEVELS, MICRONS)
    (tmp_path / "a" / "Data0000.dat").unlink()
    assert examine("a", path, TissueSettings()).status == "unreadable"
    with pytest.raises(SlideError, match=r"\.mrxs beside the folder") as caught:
        open_slide(tmp_path / "a")
    assert caught.value.code == "unreadable"


def test_a_dicom_slide_is_the_same_from_each_of_its_files_and_no_other(tmp_path: Path) -> None:
    first = dicom(tmp_path / "a", LEVELS, MICRONS)
    second = dicom(tmp_path / "b", LEVELS, MICRONS)
    hashes = [open_slide(path).quickhash for path in (first, first.with_name("level2.dcm"), second)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert open_slide(first.with_name("level2.dcm")).sizes == open_slide(first).sizes
