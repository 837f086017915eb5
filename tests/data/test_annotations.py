from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_objects import FRAME, datasets, square, write_rtstruct, write_series
from pydicom.sr.codedict import codes

from medcl.data.annotations import Drawing, read_annotations
from medcl.data.contours import inside
from medcl.data.dicom import read_series
from medcl.data.segments import own_grid
from medcl.data.structures import Naming
from medcl.data.volume import Volume, VolumeError, read_volume, reorient

BOX = Naming({"tumour": 1}, {"tumour": ["GTV*"]})
TWO = Naming({"organ": 3, "lesion": 5})


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def crosses(x: float, y: float, polygon: np.ndarray) -> bool:
    """Whether a ray to the left of (x, y) crosses the polygon oddly often: the slow loop."""
    odd = False
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x:
            odd = not odd
    return odd


@pytest.fixture
def series(tmp_path: Path):
    return read_series(write_series(tmp_path / "ct"))


def draw(tmp_path: Path, series, structures: dict, naming: Naming = BOX, **keys):
    path = write_rtstruct(tmp_path / "rs.dcm", structures, **keys)
    return read_annotations([str(path)], series.decode(), naming, series)


def told(annotation, *severities: str) -> list[str]:
    return [f.code for f in annotation.findings if f.severity in (severities or ("error",))]


# ------------------------------------------------------------------------------ contours


def test_points_inside_polygons_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(3)
    for corners in (3, 5, 12):
        polygon = rng.uniform(-2, 14, (corners, 2)).round(3)
        slow = [[crosses(x, y, polygon) for y in range(11)] for x in range(13)]
        np.testing.assert_array_equal(inside([polygon], (13, 11)), slow)


def test_a_contour_within_another_is_a_hole_and_a_third_an_island() -> None:
    def ring(low: float, high: float) -> np.ndarray:
        return np.array([[low, low], [high, low], [high, high], [low, high]], float)

    mask = inside([ring(0.5, 8.5), ring(1.5, 7.5), ring(3.5, 5.5)], (10, 10))
    assert mask[1:9, 1:9].sum() == 64 - 36 + 4 == mask.sum()
    assert mask[4, 4]
    assert not mask[2, 2]


def test_a_hole_tied_to_the_border_by_a_line_is_a_hole() -> None:
    keyhole = [(0.5, 0.5), (5.5, 0.5), (5.5, 5.5), (3.5, 5.5), (3.5, 3.5), (2.5, 3.5),
               (2.5, 4.5), (3.5, 4.5), (3.5, 5.5), (0.5, 5.5)]  # fmt: skip
    mask = inside([np.array(keyhole, float)], (7, 7))
    assert mask.sum() == 24
    assert not mask[3, 4]


def test_two_structures_that_share_a_border_through_voxel_centres_share_no_voxel() -> None:
    left, right = (
        np.array([[1, 1], [4, 1], [4, 5], [1, 5.0]]),
        np.array([[4, 1], [7, 1], [7, 5], [4, 5.0]]),
    )
    a, b = inside([left], (9, 9)), inside([right], (9, 9))
    assert a.sum() == b.sum() == 12
    assert not (a & b).any()


def test_contours_become_voxels_whatever_the_order_of_the_planes(tmp_path, series) -> None:
    boxes = [square(0.5, 0.5, 4.5, 3.5, plane) for plane in (2, 0, 1)]
    annotation = draw(tmp_path, series, {"GTV_1": boxes})
    expected = np.zeros((8, 6, 4), np.uint8)
    expected[1:5, 1:4, :3] = 1
    np.testing.assert_array_equal(annotation.label.array[0], expected)
    assert told(annotation, "error", "warning") == []


def test_contours_on_an_oblique_series_find_their_voxels(tmp_path) -> None:
    turned = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
    series = read_series(write_series(tmp_path / "ct", orientation=turned))
    row, column = np.array(turned[:3]), np.array(turned[3:])
    corner = np.array([10, 20, 30]) + np.cross(row, column) * 3.0 * 2
    voxels = np.array([[0.5, 0.5], [4.5, 0.5], [4.5, 3.5], [0.5, 3.5]])
    points = corner + voxels[:, :1] * 2.0 * row + voxels[:, 1:] * 1.0 * column
    array = draw(tmp_path, series, {"GTV": [points]}).label.array[0]
    assert array[1:5, 1:4, 2].all()
    assert array.sum() == 12


def test_points_and_open_lines_mark_nothing_and_are_told(tmp_path, series) -> None:
    annotation = draw(tmp_path, series, {"GTV": [square(0, 0, 4, 4, 1)]}, kind="OPEN_PLANAR")
    assert not annotation.label.array.any()
    assert "structure_empty" in told(annotation, "warning")


def test_a_contour_across_the_planes_is_refused(tmp_path, series) -> None:
    points = square(0, 0, 4, 4, 1)
    points[0, 2] += 6
    with pytest.raises(VolumeError) as error:
        draw(tmp_path, series, {"GTV": [points]})
    assert error.value.code == "contour_across_planes"


def test_planes_drawn_closer_than_the_slices_do_not_cancel_out(tmp_path, series) -> None:
    sizes = {0.6: 1, 0.9: 3, 1.4: 2, 1.6: 4, 1.8: 5}  # drawn plane: rows of the box
    boxes = [square(0.5, 0.5, 4.5, 0.5 + rows, plane) for plane, rows in sizes.items()]
    array = draw(tmp_path, series, {"GTV": boxes}).label.array[0]
    assert array.sum(axis=(0, 1)).tolist() == [0, 4 * 3, 4 * 5, 0]  # of the nearest each


def test_contours_half_a_slice_off_lose_no_plane(tmp_path, series) -> None:
    boxes = [square(0.5, 0.5, 4.5, 3.5, plane) for plane in (-0.5, 0.49999, 1.5, 2.50001)]
    array = draw(tmp_path, series, {"GTV": boxes}).label.array[0]
    assert array.sum(axis=(0, 1)).tolist() == [12, 12, 12, 12]


def test_a_skipped_plane_is_told(tmp_path, series) -> None:
    boxes = [square(0.5, 0.5, 4.5, 3.5, plane) for plane in (0, 2)]
    assert "contours_with_gaps" in told(draw(tmp_path, series, {"GTV": boxes}), "warning")


def test_what_lies_outside_the_image_is_told_and_all_of_it_refused(tmp_path, series) -> None:
    annotation = draw(tmp_path, series, {"GTV": [square(-3.5, 0.5, 1.5, 2.5, 1)]})
    assert "annotation_outside" in told(annotation, "warning")
    assert annotation.label.array.sum() == 2 * 2
    with pytest.raises(VolumeError) as error:
        draw(tmp_path, series, {"GTV": [square(0.5, 0.5, 4.5, 2.5, 9)]})
    assert error.value.code == "annotation_outside"


@pytest.mark.parametrize("patient", ["STS_002", "STS_003"])
@pytest.mark.parametrize(("scan", "least"), [("CT", 0.999), ("MR_T1", 0.999), ("PET", 0.97)])
def test_real_contours_give_the_masks_another_program_made(data, patient, scan, least) -> None:
    folder = data / "sts_ibsi" / "dicom" / patient / scan
    series = read_series(folder / "image")
    volume = series.decode()
    ours = read_annotations([str(folder / "mask" / "RS.dcm")], volume, BOX, series)
    file = data / "sts_ibsi" / "nifti" / patient / f"{scan}_mask.nii.gz"
    theirs = reorient(read_volume(file, labels=True), volume.orientation)
    assert dice(ours.label.array > 0, theirs.array > 0) >= least
    assert told(ours, "error", "warning") == []


# --------------------------------------------------------------------------- to which image


def test_an_object_of_another_series_is_refused_or_told_by_its_frame(tmp_path, series) -> None:
    box = {"GTV": [square(0.5, 0.5, 4.5, 3.5, 1)]}
    with pytest.raises(VolumeError) as error:
        draw(tmp_path, series, box, drawn_on="1.9", frame="1.8")
    assert error.value.code == "annotation_of_another_series"
    annotation = draw(tmp_path, series, box, drawn_on="1.9", frame=FRAME)
    assert told(annotation, "warning") == ["annotation_of_another_series"]


def test_a_file_that_marks_nothing_or_is_damaged_is_refused_by_name(tmp_path, series) -> None:
    image = next(series.folder.iterdir())
    with pytest.raises(VolumeError) as error:
        read_annotations([str(image)], series.decode(), BOX, series)
    assert error.value.code == "not_an_annotation"
    path = write_rtstruct(tmp_path / "rs.dcm", {"GTV": [square(0, 0, 4, 4, 1)]})
    ds = pydicom.dcmread(path)
    del ds.ROIContourSequence[0].ReferencedROINumber
    ds.save_as(path)
    with pytest.raises(VolumeError) as error:
        read_annotations([str(path)], series.decode(), BOX, series)
    assert error.value.code == "unreadable"


def test_two_objects_share_a_label_map_but_no_class(tmp_path, series) -> None:
    a = write_rtstruct(tmp_path / "a.dcm", {"organ": [square(0.5, 0.5, 4.5, 3.5, 1)]})
    b = write_rtstruct(tmp_path / "b.dcm", {"lesion": [square(0.5, 0.5, 2.5, 2.5, 1)]})
    both = read_annotations([str(a), str(b)], series.decode(), TWO, series)
    assert np.bincount(both.label.array.ravel()).tolist() == [192 - 12, 0, 0, 8, 0, 4]
    assert "structures_overlap" in told(both, "info")
    again = write_rtstruct(tmp_path / "c.dcm", {"organ": [square(0.5, 0.5, 4.5, 3.5, 2)]})
    with pytest.raises(VolumeError) as error:
        read_annotations([str(a), str(b), str(again)], series.decode(), TWO, series)
    assert error.value.code == "several_annotations"


# ------------------------------------------------------------------------------ DICOM-SEG


def describe(number: int, label: str) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        number,
        label,
        codes.SCT.Tissue,
        codes.SCT.Tissue,
        hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def segmentation(folder: Path, pixels: np.ndarray, kind: str, *names: str) -> Path:
    """Written by highdicom: (planes, rows, columns[, segments])."""
    ds = hd.seg.Segmentation(
        datasets(folder),
        pixels,
        kind,
        [describe(number, name) for number, name in enumerate(names, 1)],
        hd.UID(), 5, hd.UID(), 1, "a", "b", "1", "1",
    )  # fmt: skip
    path = folder.parent / "seg.dcm"
    ds.save_as(path)
    return path


def a_map() -> np.ndarray:
    """Planes, rows, columns: an organ with a lesion within, one plane empty."""
    pixels = np.zeros((4, 6, 8), np.uint8)
    pixels[1:, 1:4, 1:5] = 1
    pixels[2, 2, 2:4] = 2
    return pixels


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_written_by_another_library_come_back_exactly(tmp_path, series, kind) -> None:
    path = segmentation(series.folder, a_map(), kind, "organ", "lesion")
    label = read_annotations([str(path)], series.decode(), TWO, series).label.array[0]
    np.testing.assert_array_equal(label, np.array([0, 3, 5])[a_map()].transpose(2, 1, 0))


def test_where_segments_overlap_the_later_class_wins_whatever_their_order(tmp_path, series) -> None:
    pixels = np.stack([a_map() == 2, a_map() > 0], axis=-1).astype(np.uint8)
    path = segmentation(series.folder, pixels, "BINARY", "lesion", "organ")
    annotation = read_annotations([str(path)], series.decode(), TWO, series)
    assert np.bincount(annotation.label.array.ravel())[[3, 5]].tolist() == [34, 2]
    assert told(annotation, "info") == ["structures_overlap"]
    turned = Naming({"lesion": 5, "organ": 3})
    array = read_annotations([str(path)], series.decode(), turned, series).label.array
    assert np.count_nonzero(array == 5) == 0


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 4), (0.25, 7), (0.9, 2)])
def test_a_fractional_segment_counts_from_the_stated_fraction_on(
    tmp_path, series, fraction, count
) -> None:
    pixels = np.zeros((4, 6, 8, 1))
    pixels[1, 2, :, 0] = [1.0, 0.95, 0.6, 0.5, 0.4, 0.3, 0.26, 0.1]
    path = segmentation(series.folder, pixels, "FRACTIONAL", "organ")
    naming, image = Naming({"organ": 1}), series.decode()
    drawn = read_annotations([str(path)], image, naming, series, Drawing(fraction))
    assert drawn.label.array.sum() == count


def test_frames_that_are_turned_against_the_image_find_their_voxels(tmp_path, series) -> None:
    path = segmentation(series.folder, a_map(), "BINARY", "organ", "lesion")
    image = series.decode()
    straight = read_annotations([str(path)], image, TWO).label
    for axes in ("RAS", "SPL", "AIR"):
        turned = read_annotations([str(path)], reorient(image, axes), TWO).label
        back = reorient(turned, straight.orientation)
        np.testing.assert_array_equal(back.array, straight.array)


def test_segments_on_another_grid_are_refused_unless_they_may_be_resampled(
    tmp_path, series
) -> None:
    path = segmentation(series.folder, a_map(), "BINARY", "organ", "lesion")
    image = series.decode()
    fine = image.affine @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] -= image.affine[:3, :3] @ [0.25, 0.25, 0.25]
    image = Volume(np.zeros((1, 16, 12, 8), np.float32), fine)
    with pytest.raises(VolumeError) as error:
        read_annotations([str(path)], image, TWO)
    assert error.value.code == "affine_differs"
    drawn = read_annotations([str(path)], image, TWO, None, Drawing(resample=True))
    # Each voxel became eight; linear interpolation rounds the corners of the box off.
    doubled = np.array([0, 3, 5])[a_map()].transpose(2, 1, 0)
    doubled = doubled.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert dice(drawn.label.array[0] > 0, doubled > 0) > 0.98
    assert told(drawn, "warning") == ["label_resampled"]


@pytest.mark.parametrize("name", ["dcmqi_23x38x3/seg/label.seg", "seg_23x38x3/mask/mask.dcm"])
def test_bits_that_do_not_end_at_bytes_give_the_voxels_of_the_reference(data, name) -> None:
    folder = data / "dicom_acceptance"
    series = read_series((folder / name).parent.parent / "image")
    volume = series.decode()
    ours = read_annotations([str(folder / name)], volume, Naming({"Liver": 1}), series)
    theirs = read_volume(folder / "dcmqi_23x38x3" / "nrrd" / "label.nrrd", labels=True)
    theirs = reorient(theirs, volume.orientation)
    np.testing.assert_array_equal(ours.label.array, theirs.array)


@pytest.mark.parametrize(
    "name", ["ct_binary", "ct_binary_overlap", "ct_binary_fractional", "ct_true_fractional"]
)
def test_segments_of_the_library_equal_its_own_reading(data, name) -> None:
    path = data / "dicom_acceptance" / "highdicom" / f"seg_image_{name}.dcm"
    theirs = hd.seg.segread(path)
    volume = theirs.get_volume(allow_missing_positions=True, rescale_fractional=True)
    grid = own_grid(pydicom.dcmread(path), name)
    ours = read_annotations([str(path)], grid, Naming()).label.array[0]
    expected = np.zeros(volume.array.shape[:3], np.uint8)
    for segment in range(volume.array.shape[3]):
        expected[volume.array[..., segment] >= 0.5] = segment + 1
    assert ours.shape == expected.shape[::-1]
    flips = np.sign(volume.affine[2, 0])  # they may stack the planes the other way
    expected = expected if flips > 0 else expected[::-1]
    np.testing.assert_array_equal(ours, expected.transpose(2, 1, 0))


@pytest.mark.parametrize("name", ["sm_control", "sm_control_labelmap", "cr_binary"])
def test_segments_of_slides_and_pictures_are_refused(data, name, series) -> None:
    path = data / "dicom_acceptance" / "highdicom" / f"seg_image_{name}.dcm"
    with pytest.raises(VolumeError) as error:
        read_annotations([str(path)], series.decode(), Naming())
    assert error.value.code == "no_geometry"


@pytest.mark.parametrize("name", ["rs", "seg"])
def test_a_damaged_object_ends_in_a_finding_never_in_a_traceback(tmp_path, series, name) -> None:
    box = [square(0.5, 0.5, 4.5, 3.5, 1)]
    path = write_rtstruct(tmp_path / "rs.dcm", {"organ": box, "lesion": box})
    if name == "seg":
        path = segmentation(series.folder, a_map(), "BINARY", "organ", "lesion")
    whole, image, rng = path.read_bytes(), series.decode(), np.random.default_rng(4)
    ends = set()
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.choice([1, 4, 20])):
            damaged[place] = rng.integers(256)
        path.write_bytes(
            damaged[: rng.choice([len(whole), rng.integers(len(whole))], p=[0.8, 0.2])]
        )
        try:
            read_annotations([str(path)], image, TWO, series)
            ends.add("read")
        except VolumeError as error:
            ends.add(error.code)
    assert "unreadable" in ends
