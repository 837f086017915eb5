"""Every slide ends with a status, its findings, and pictures to check it by."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from make_slides import TISSUE, svs
from PIL import Image

from medcl.errors import MedclError
from medcl.files import write_json
from medcl.slides import given
from medcl.slides.examine import examine, read_mask, write_examination
from medcl.slides.geojson import collection, feature, rectangle
from medcl.slides.phantom import write_svs
from medcl.slides.reader import SlideError, SlideReader
from medcl.slides.tissue import TissueSettings, thumbnail

SETTINGS = TissueSettings(microns_per_pixel=4.0)


def test_a_good_slide_is_ok_and_its_files_say_what_was_found(tmp_path: Path) -> None:
    found = examine("a", svs(tmp_path), SETTINGS)
    assert found.status == "ok"
    assert found.findings == []
    write_examination(tmp_path / "out", found)
    report = json.loads((tmp_path / "out" / "qc.json").read_text())
    assert report["status"] == "ok"
    assert report["microns_per_pixel"] == 0.5
    assert report["tissue_mm2"] == pytest.approx(0.128**2, rel=0.05)
    areas = json.loads((tmp_path / "out" / "mask.geojson").read_text())["features"]
    assert len(areas) == 1
    ring = np.array(areas[0]["geometry"]["coordinates"][0])
    x, y, w, h = TISSUE
    np.testing.assert_allclose(ring.min(axis=0), [x, y], atol=8)
    np.testing.assert_allclose(ring.max(axis=0), [x + w, y + h], atol=8)
    mask = read_mask(tmp_path / "out")
    assert found.tissue is not None
    np.testing.assert_array_equal(mask.mask, found.tissue.mask)
    assert mask.scale == (8.0, 8.0)
    with Image.open(tmp_path / "out" / "thumb.png") as image:
        assert image.size == (96, 64)
    with Image.open(tmp_path / "out" / "qc.png") as image:
        assert image.width == 7 * 96  # enlarged, so that it can be looked at


def test_wrong_bytes_in_the_structure_of_a_file_are_a_finding_and_nothing_else(
    tmp_path: Path,
) -> None:
    image = np.full((256, 256, 3), 240, np.uint8)
    image[60:200, 60:200] = [180, 90, 160]
    path, rng = tmp_path / "a.tif", np.random.default_rng(0)
    with tifffile.TiffWriter(path) as file:
        whole = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        file.write(image, subifds=0, **whole)
        file.write(image[::2, ::2], subfiletype=1, **whole)
    with tifffile.TiffFile(path) as file:
        starts = [page.offset for page in file.pages]
    good, structure = path.read_bytes(), [i for start in starts for i in range(start, start + 230)]
    found = set()
    for _ in range(80):
        bad = bytearray(good)
        for place in rng.choice(structure, rng.integers(1, 4)):
            bad[place] = rng.integers(256)
        path.write_bytes(bad)
        found.add(examine("a", path, SETTINGS, microns_per_pixel=1.0).status)
    assert "unreadable" in found


def test_a_slide_said_to_be_as_large_as_a_house_is_not_drawn(tmp_path: Path) -> None:
    class House(SlideReader):
        _region = close = None

    side = 40_000_000
    house = House(tmp_path / "a.svs", "none", [(side, side)], [1.0], 0.25, None)
    with pytest.raises(SlideError, match="would have 625000x625000 pixels; the slide states"):
        thumbnail(house, 16.0)


def test_glass_alone_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "white.svs"
    write_svs(path, np.full((512, 512, 3), 244, np.uint8), 20, 0.5)
    found = examine("white", path, SETTINGS)
    assert found.status == "empty"
    write_examination(tmp_path / "out", found)
    with pytest.raises(MedclError, match="'empty'"):
        read_mask(tmp_path / "out")


def test_a_slide_without_scale_keeps_its_thumbnail_and_gets_a_mask_once_it_is_given(
    tmp_path: Path,
) -> None:
    path = svs(tmp_path, microns=None)
    found = examine("a", path, SETTINGS)
    assert found.status == "no_mpp"
    assert found.thumbnail is not None
    assert "microns_per_pixel" in found.findings[0].remedy
    write_examination(tmp_path / "out", found)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["qc.json", "thumb.png"]
    assert examine("a", path, SETTINGS, microns_per_pixel=0.5).status == "ok"


def test_a_file_that_cannot_be_read_is_a_finding_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_bytes(b"II*\0" + bytes(100))
    found = examine("bad", tmp_path / "bad.svs", SETTINGS)
    assert found.status == "unreadable"
    write_examination(tmp_path / "out", found)
    report = json.loads((tmp_path / "out" / "qc.json").read_text())
    assert report["findings"][0]["code"] == "unreadable"
    assert report["findings"][0]["severity"] == "error"


def test_a_mask_of_the_user_wins_as_picture_and_as_areas(tmp_path: Path) -> None:
    path = svs(tmp_path)
    painted = np.zeros((128, 192), np.uint8)
    painted[:64, :96] = 1
    Image.fromarray(painted).save(tmp_path / "mask.png")
    write_json(
        tmp_path / "mask.geojson", collection([feature(rectangle(0, 0, 384, 256), name="x")])
    )
    for name in ("mask.png", "mask.geojson"):
        found = examine("a", path, SETTINGS, mask=tmp_path / name)
        assert found.status == "ok"
        assert found.tissue is not None
        truth = np.zeros((64, 96), bool)
        truth[:32, :48] = True
        np.testing.assert_array_equal(found.tissue.mask, truth)


def test_a_mask_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = svs(tmp_path)
    Image.fromarray(np.ones((100, 100), np.uint8)).save(tmp_path / "square.png")
    assert examine("a", path, SETTINGS, mask=tmp_path / "square.png").status == "mask_differs"
    (tmp_path / "text.png").write_text("no picture")
    assert examine("a", path, SETTINGS, mask=tmp_path / "text.png").status == "mask_unreadable"
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}
    write_json(tmp_path / "point.geojson", collection([point]))
    found = examine("a", path, SETTINGS, mask=tmp_path / "point.geojson")
    assert found.status == "mask_unreadable"
    assert "'Point'" in found.findings[0].message
    write_json(tmp_path / "none.geojson", collection([]))
    assert examine("a", path, SETTINGS, mask=tmp_path / "none.geojson").status == "empty"


def test_a_mask_larger_than_pillow_takes_from_strangers_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = svs(tmp_path)
    Image.fromarray(np.ones((128, 192), np.uint8)).save(tmp_path / "mask.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert examine("a", path, SETTINGS, mask=tmp_path / "mask.png").status == "ok"
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(given, "MOST_PIXELS", 20_000)
    found = examine("a", path, SETTINGS, mask=tmp_path / "mask.png")
    assert found.status == "mask_unreadable"
    assert "192x128 pixels, at most 20000" in found.findings[0].message


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "MultiPolygon", "coordinates": [[[]]]},
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": None},
        {"type": "Polygon", "coordinates": [[[0], [1], [2]]]},
        {"type": "Polygon", "coordinates": [["a", "b"]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")], [2, 2]]]},
    ],
)
def test_areas_without_usable_coordinates_are_named(tmp_path: Path, geometry: dict) -> None:
    whole = {"type": "Polygon", "coordinates": rectangle(0, 0, 9, 9)}
    (tmp_path / "areas.geojson").write_text(json.dumps([whole, geometry]))
    found = examine("a", svs(tmp_path), SETTINGS, mask=tmp_path / "areas.geojson")
    assert found.status == "mask_unreadable"
    assert f"geometry 2, a {geometry['type']}" in found.findings[0].message


def test_a_disk_that_fails_is_a_finding_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    path = svs(tmp_path)
    monkeypatch.setattr("medcl.slides.examine.slide_sha256", fails)
    found = examine("a", path, SETTINGS)
    assert found.status == "unreadable"
    assert "Input/output error" in found.findings[0].message


def test_marker_ink_is_a_warning(tmp_path: Path) -> None:
    from make_slides import picture

    image = picture()
    image[80:500, 20:240] = (40, 160, 80)
    write_svs(tmp_path / "pen.svs", image, 20, 0.5)
    found = examine("pen", tmp_path / "pen.svs", SETTINGS)
    assert found.status == "ok"
    assert [finding.code for finding in found.findings] == ["pen_marks"]


def test_real_slides_end_with_the_status_they_deserve(data: Path) -> None:
    folder = data / "wsi"
    found = examine("cmu", folder / "CMU-1-Small-Region.svs", TissueSettings())
    assert found.status == "ok"
    assert found.tissue is not None
    assert 0.3 < found.tissue.share < 0.5
    assert not found.tissue.mask[80:, :20].any()  # glass
    assert found.tissue.mask[150:180, 60:70].all()
    assert examine("broken", folder / "broken.svs", TissueSettings()).status == "unreadable"
    assert examine("boxes", folder / "boxes_pyramid.tiff", TissueSettings()).status == "no_mpp"
    assert examine("dicom", folder / "small_dicom_wsi.dcm", TissueSettings()).status == "unreadable"
