from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_objects import write_series

from medcl.config import Source
from medcl.data.annotations import Reference, read_annotations
from medcl.data.dicom import Series, read_series
from medcl.data.segmentation_object import write_segmentation
from medcl.data.sources import list_entries
from medcl.data.structures import Naming
from medcl.data.volume import Volume, VolumeError, read_volume, reorient

CLASSES = {"organ": 4, "lesion": 2}


@pytest.fixture
def series(tmp_path: Path) -> Series:
    turned = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
    return read_series(write_series(tmp_path / "ct", orientation=turned))


def prediction(series: Series) -> Volume:
    array = np.zeros((1, 8, 6, 4), np.uint8)
    array[0, 1:5, 2:5, 1:3] = 4
    array[0, 2, 3, 2] = 2
    return Volume(array, series.stack.affine)


def test_a_prediction_comes_back_as_it_was_and_names_its_series(tmp_path, series) -> None:
    label = prediction(series)
    write_segmentation(tmp_path / "p.dcm", label, series, CLASSES)
    back = read_annotations([str(tmp_path / "p.dcm")], label, Naming(CLASSES), series)
    np.testing.assert_array_equal(back.label.array, label.array)
    assert [finding.code for finding in back.findings] == ["annotation_automatic"]
    ds = pydicom.dcmread(tmp_path / "p.dcm")
    source = series.stack.planes[1].header
    assert Reference.of(ds).series == (source.text("SeriesInstanceUID"),)
    assert ds.StudyInstanceUID == source.text("StudyInstanceUID")
    assert ds.PatientID == source.text("PatientID")
    place = {p.header.text("SOPInstanceUID"): p.position for p in series.stack.planes}
    assert len(ds.PerFrameFunctionalGroupsSequence) == 3  # organ on two planes, lesion on one
    for frame in ds.PerFrameFunctionalGroupsSequence:
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(position, place[image.ReferencedSOPInstanceUID], atol=1e-4)


def test_another_library_reads_the_same_voxels(tmp_path, series) -> None:
    label = prediction(series)
    write_segmentation(tmp_path / "p.dcm", label, series, CLASSES)
    theirs = hd.seg.segread(tmp_path / "p.dcm")
    assert theirs.get_segment_description(2).segment_label == "lesion"
    uids = [plane.header.text("SOPInstanceUID") for plane in series.stack.planes]
    planes = theirs.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(np.array([0, 4, 2])[planes], label.array[0].transpose(2, 1, 0))


def test_the_same_prediction_gets_the_same_identifiers(tmp_path, series) -> None:
    label = prediction(series)
    for name in ("a", "b"):
        write_segmentation(tmp_path / name, label, series, CLASSES)
    label.array[0, 0, 0, 0] = 4
    write_segmentation(tmp_path / "c", label, series, CLASSES)
    a, b, c = (pydicom.dcmread(tmp_path / name).SOPInstanceUID for name in "abc")
    assert a == b != c


def test_the_volumes_of_one_series_get_objects_of_their_own(tmp_path) -> None:
    for echo in (1, 2):
        write_series(tmp_path / f"{echo}", EchoNumbers=echo)
    entries = list_entries([Source(layout="dicom")], str(tmp_path))
    volumes = [entry.series for entry in entries if entry.series]
    assert len(volumes) == 2
    assert len({v.stack.planes[0].header.text("SeriesInstanceUID") for v in volumes}) == 1
    made = []
    for volume in volumes:
        write_segmentation(tmp_path / "p.dcm", prediction(volume), volume, CLASSES)
        ds = pydicom.dcmread(tmp_path / "p.dcm")
        made.append(ds.SOPInstanceUID)
        own = {plane.header.text("SOPInstanceUID") for plane in volume.stack.planes}
        for frame in ds.PerFrameFunctionalGroupsSequence:
            (image,) = frame.DerivationImageSequence[0].SourceImageSequence
            assert image.ReferencedSOPInstanceUID in own
    assert made[0] != made[1]


def test_an_empty_prediction_writes_nothing_and_says_so(tmp_path, series) -> None:
    empty = Volume(np.zeros((1, 8, 6, 4), np.uint8), series.stack.affine)
    with pytest.raises(VolumeError) as error:
        write_segmentation(tmp_path / "p.dcm", empty, series, CLASSES)
    assert error.value.code == "empty_label"
    assert not (tmp_path / "p.dcm").exists()


def test_a_series_without_a_study_is_refused_by_name(tmp_path, series) -> None:
    for plane in series.stack.planes:
        header = pydicom.dcmread(plane.header.path)
        del header.StudyInstanceUID
        header.save_as(plane.header.path)
    with pytest.raises(VolumeError) as error:
        write_segmentation(tmp_path / "p.dcm", prediction(series), series, CLASSES)
    assert error.value.code == "no_segmentation_object"
    assert "StudyInstanceUID" in str(error.value)


def test_31_classes_of_a_real_scan_come_back_exactly(tmp_path, data) -> None:
    """The header was stripped of names and of its class, as archives do."""
    folder = data / "dicom_acceptance" / "ct_j2k_totalseg"
    series = read_series(folder / "dicom")
    volume = series.decode()
    label = read_volume(folder / "label_ref.nii.gz", labels=True)
    label = Volume(reorient(label, volume.orientation).array.astype(np.uint8), volume.affine)
    classes = {f"class {value}": int(value) for value in np.unique(label.array) if value}
    assert len(classes) == 31
    write_segmentation(tmp_path / "p.dcm", label, series, classes)
    back = read_annotations([str(tmp_path / "p.dcm")], volume, Naming(classes), series)
    np.testing.assert_array_equal(back.label.array, label.array)
    assert [finding.code for finding in back.findings] == ["annotation_automatic"]
