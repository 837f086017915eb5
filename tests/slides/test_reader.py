"""Reading slides: places, levels, white, scale, and files that are no slides."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from make_formats import dicom
from make_slides import halves, picture, svs, tiff
from PIL import Image

from medcl.slides import reader
from medcl.slides.reader import SlideError, on_white, open_slide, slide_sha256

CENTIMETRE = 10000 / 0.5  # pixels a centimetre at 0.5 micrometres a pixel


def code_of(path: Path, **given: float) -> str:
    with pytest.raises(SlideError) as caught:
        open_slide(path, **given)
    return caught.value.code


def test_an_aperio_slide_tells_its_levels_and_its_scale(tmp_path: Path) -> None:
    slide = open_slide(svs(tmp_path))
    assert slide.vendor == "aperio"
    assert slide.sizes == ((768, 512), (192, 128), (48, 32))
    assert slide.downsamples == (1.0, 4.0, 16.0)
    assert slide.microns_per_pixel == 0.5
    assert slide.microns_at(1) == 2.0
    assert np.abs(slide.read(0, 0, 0, 768, 512).astype(int) - picture()).mean() < 3  # JPEG


def test_pixels_of_a_lossless_slide_are_those_written_on_every_level(tmp_path: Path) -> None:
    levels = halves(picture(), 3)
    slide = open_slide(tiff(tmp_path / "a.tiff", levels, subifds=False))
    for number, level in enumerate(levels):
        read = slide.read(0, 0, number, level.shape[1], level.shape[0])
        np.testing.assert_array_equal(read, level)


@pytest.mark.parametrize("subifds", [False, True])
def test_places_are_in_pixels_of_level_0_and_outside_is_white(
    tmp_path: Path, subifds: bool
) -> None:
    levels = halves(picture(), 2)
    slide = open_slide(tiff(tmp_path / "a.tiff", levels, subifds=subifds))
    np.testing.assert_array_equal(slide.read(256, 128, 1, 9, 7), levels[1][64:71, 128:137])
    corner = slide.read(-8, -6, 0, 20, 10)
    assert (corner[:6] == 255).all()
    assert (corner[:, :8] == 255).all()
    np.testing.assert_array_equal(corner[6:, 8:], levels[0][:4, :12])
    edge = slide.read(764, 510, 0, 8, 8)
    np.testing.assert_array_equal(edge[:2, :4], levels[0][510:, 764:])
    assert (edge[2:] == 255).all()
    assert (edge[:, 4:] == 255).all()
    assert (slide.read(5000, 5000, 0, 3, 3) == 255).all()


def test_levels_in_subifds_that_openslide_does_not_show_are_read(tmp_path: Path) -> None:
    levels = halves(picture(), 3)
    path = tiff(
        tmp_path / "a.tiff",
        levels,
        subifds=True,
        resolution=(CENTIMETRE, CENTIMETRE),
        resolutionunit=3,
    )
    slide = open_slide(path)
    assert slide.sizes == ((768, 512), (384, 256), (192, 128))
    assert slide.microns_per_pixel == pytest.approx(0.5)
    np.testing.assert_array_equal(slide.read(0, 0, 2, 192, 128), levels[2])


def test_an_ome_pyramid_of_jpeg_is_read_with_its_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tiff"
    shared = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg"}
    levels = halves(picture(), 2)
    with tifffile.TiffWriter(path, ome=True) as file:
        meta = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}
        file.write(levels[0], subifds=1, metadata=meta, **shared)
        file.write(levels[1], subfiletype=1, **shared)
    slide = open_slide(path)
    assert slide.microns_per_pixel == pytest.approx(0.25)
    assert len(slide.sizes) == 2
    assert np.abs(slide.read(0, 0, 1, 384, 256).astype(int) - levels[1]).mean() < 3


def test_a_level_the_slide_lacks_is_an_error_and_no_black_tile(tmp_path: Path) -> None:
    slide = open_slide(svs(tmp_path))
    for level in (3, -1):
        with pytest.raises(SlideError, match="0 to 2") as caught:
            slide.read(0, 0, level, 8, 8)
        assert caught.value.code == "no_level"


def test_transparent_pixels_are_white_and_half_transparent_ones_half() -> None:
    image = np.array([[[0, 0, 0, 0], [100, 0, 200, 255], [100, 0, 200, 51]]], np.uint8)
    expected = [[[255, 255, 255], [100, 0, 200], [224, 204, 244]]]  # 0.2 of it, 0.8 of white
    np.testing.assert_array_equal(on_white(image), expected)


def test_a_missing_scale_is_named_and_can_be_given(tmp_path: Path) -> None:
    path = svs(tmp_path, microns=None)
    with pytest.raises(SlideError, match="microns_per_pixel") as caught:
        open_slide(path).microns_at(0)
    assert caught.value.code == "no_mpp"
    assert open_slide(path, 0.4).microns_at(1) == pytest.approx(1.6)
    assert open_slide(svs(tmp_path, name="b.svs"), 0.4).microns_per_pixel == 0.4
    assert code_of(path, microns_per_pixel=400.0) == "implausible_mpp"


def test_the_resolution_of_a_printer_is_no_scale(tmp_path: Path) -> None:
    path = tiff(
        tmp_path / "a.tiff", halves(picture()), subifds=False, resolution=(72, 72), resolutionunit=2
    )
    slide = open_slide(path)
    assert slide.microns_per_pixel is None
    with pytest.raises(SlideError, match=r"352\.8"):
        slide.microns_at(0)


def test_files_that_are_no_slides_end_with_a_code(tmp_path: Path) -> None:
    assert code_of(tmp_path / "none.svs") == "missing_slide"
    (tmp_path / "text.svs").write_text("not a slide")
    assert code_of(tmp_path / "text.svs") == "unreadable"
    Image.fromarray(picture()).save(tmp_path / "flat.png")
    assert code_of(tmp_path / "flat.png") == "unreadable"
    grey = halves(picture())
    with tifffile.TiffWriter(tmp_path / "two.tiff") as file:
        file.write(
            grey[0][..., 0], subifds=1, tile=(128, 128), photometric="minisblack", metadata=None
        )
        file.write(
            grey[1][..., 0], tile=(128, 128), photometric="minisblack", subfiletype=1, metadata=None
        )
    assert code_of(tmp_path / "two.tiff") == "not_rgb"


@pytest.mark.parametrize("share", [0.2, 0.6, 0.8])
def test_a_truncated_slide_is_refused_before_it_is_used(tmp_path: Path, share: float) -> None:
    path = svs(tmp_path)
    os.truncate(path, int(share * path.stat().st_size))
    assert code_of(path) in ("truncated", "unreadable")


def test_a_slide_that_lacks_only_its_last_bytes_is_truncated(tmp_path: Path) -> None:
    path = svs(tmp_path)
    os.truncate(path, path.stat().st_size - 100)
    assert code_of(path) == "truncated"


def test_a_slide_that_ends_where_its_next_page_should_begin_is_truncated(tmp_path: Path) -> None:
    path = svs(tmp_path)
    with tifffile.TiffFile(path) as file:
        last = file.pages[-1].offset
    os.truncate(path, last)
    assert code_of(path) == "truncated"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_slide_cut_within_the_last_bytes_of_its_last_page_is_refused(
    tmp_path: Path, cut: int
) -> None:
    """Pixels, then the only page, whose last four bytes say that no other follows."""
    side = 16
    shorts = {256: side, 257: side, 258: 8, 259: 1, 262: 2, 277: 3, 278: side}
    longs = {273: 8, 279: 3 * side**2}
    entries = sorted(
        [(tag, 3, v) for tag, v in shorts.items()] + [(t, 4, v) for t, v in longs.items()]
    )
    page = b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in entries)
    whole = b"II*\0" + struct.pack("<I", 8 + 3 * side**2) + bytes(3 * side**2)
    whole += struct.pack("<H", len(entries)) + page + struct.pack("<I", 0)
    path = tmp_path / "a.tiff"
    path.write_bytes(whole)
    assert open_slide(path).sizes == ((side, side),)
    path.write_bytes(whole[:-cut])
    assert code_of(path) in ("truncated", "unreadable")


def test_a_file_that_ends_within_its_first_bytes_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(b"II*\0\1")
    assert code_of(tmp_path / "a.tiff") == "unreadable"


def test_a_slide_that_may_not_be_read_is_unreadable_and_no_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(reader, "open_pyramid", denied)
    with pytest.raises(SlideError, match="Permission denied") as caught:
        open_slide(svs(tmp_path))
    assert caught.value.code == "unreadable"


def test_a_reader_cannot_be_sent_to_another_process(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="path instead"):
        pickle.dumps(open_slide(svs(tmp_path)))


def test_the_hash_of_mrxs_covers_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"index")
    alone = slide_sha256(path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"pixels")
    assert slide_sha256(path) != alone


def test_the_hash_of_a_dicom_slide_covers_its_series_whatever_its_files_are_called(
    tmp_path: Path,
) -> None:
    levels = [np.full((side, side, 3), 200, np.uint8) for side in (256, 128)]
    first = dicom(tmp_path, levels, 0.5).rename(tmp_path / "1.2.3.45")
    other = dicom(tmp_path / "other", levels, 0.5)  # another series, moved beside it
    before = slide_sha256(first)
    other.rename(tmp_path / "x.dcm")
    assert slide_sha256(first) == before == slide_sha256(tmp_path / "level1.dcm")
    (tmp_path / "cut.dcm").write_bytes(first.read_bytes()[:140])  # of no series
    assert slide_sha256(first) == before
    damaged = bytearray((tmp_path / "level1.dcm").read_bytes())
    damaged[-9] ^= 1  # a pixel of the other level
    (tmp_path / "level1.dcm").write_bytes(damaged)
    assert slide_sha256(first) != before


def test_the_hash_of_vms_covers_the_files_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "a.vms"
    path.write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\n")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"pixels")
    before = slide_sha256(path)
    (tmp_path / "b.jpg").write_bytes(b"others")
    assert slide_sha256(path) == before
    (tmp_path / "a.jpg").write_bytes(b"others")
    assert slide_sha256(path) != before


def test_real_slides_are_read_and_broken_ones_named(data: Path) -> None:
    slide = open_slide(data / "wsi" / "CMU-1-Small-Region.svs")
    assert slide.sizes == ((2220, 2967),)
    assert slide.microns_per_pixel == 0.499
    assert code_of(data / "wsi" / "broken.svs") == "unreadable"
    assert code_of(data / "wsi" / "small_dicom_wsi.dcm") == "unreadable"
    boxes = open_slide(data / "wsi" / "boxes_pyramid.tiff")
    assert len(boxes.sizes) == 4
    assert boxes.microns_per_pixel is None


def test_both_ways_of_reading_a_real_slide_give_the_same_pixels(data: Path) -> None:
    from medcl.slides.tiff import open_pyramid

    path = data / "wsi" / "CMU-1-Small-Region.svs"
    pyramid = open_pyramid(path)
    assert pyramid is not None
    other = pyramid.read(2000, 2800, 0, 400, 300)
    np.testing.assert_array_equal(open_slide(path).read(2000, 2800, 0, 400, 300), other)
