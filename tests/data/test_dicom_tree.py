from pathlib import Path

import numpy as np
import pytest
from make_dicom import a_slice, frames_of, save, series_of
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medcl.config import Dicom, Source
from medcl.data.dicom_header import read_header
from medcl.data.entries import Entry
from medcl.data.sources import list_entries

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]


def tree(folder: Path, **options) -> dict[str, Entry]:
    source = Source(layout="dicom", path=".")
    return {e.case: e for e in list_entries([source], str(folder), Dicom(**options))}


def codes(entry: Entry) -> list[str]:
    series = list(entry.series.findings) if entry.series else []
    return [finding.code for finding in [*entry.findings, *series]]


def put(folder: Path, slices: list[Dataset], prefix: str = "") -> None:
    """Write slices under names without an ending, in an order that says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, ds in enumerate(slices):
        ds.save_as(folder / f"{prefix}{(index * 7 + 3) % 31:02d}", enforce_file_format=True)


def alike(slices: list[Dataset], **changes) -> list[Dataset]:
    """The slices with other tags, as new objects."""
    for ds in slices:
        ds.SOPInstanceUID = generate_uid()
        for name, value in changes.items():
            setattr(ds, name, value)
    return slices


def test_a_flat_folder_of_many_series_gives_each_of_them(tmp_path):
    put(tmp_path / "export", alike(series_of(4), SeriesInstanceUID="1.1", SeriesNumber=3), "a")
    put(tmp_path / "export", alike(series_of(5), SeriesInstanceUID="1.2", SeriesNumber=4), "b")
    other = alike(series_of(6), SeriesInstanceUID="1.3", StudyInstanceUID="9", SeriesNumber=3)
    put(tmp_path / "export", alike(other, PatientID="p8"), "c")
    report = a_slice([0, 0, 0], np.zeros((2, 3)), Modality="SR", PixelData=None)
    put(tmp_path / "export", [report], "report")
    (tmp_path / "export" / "README").write_text("made by hand")
    entries = tree(tmp_path)
    slices = {name: len(e.series.stack.planes) for name, e in entries.items() if e.series}
    assert sorted(slices.values()) == [4, 5, 6]
    assert slices["export_s4"] == 5
    assert {e.series.subject for e in entries.values() if e.series} == {"p7", "p8"}
    assert (codes(entries["export_other"]), entries["export_other"].skipped) == (
        ["not_an_image"],
        True,
    )
    assert "README" in entries["export_other"].findings[0].message


def test_a_series_scattered_over_folders_is_one_volume(tmp_path):
    for index, ds in enumerate(series_of(6)):
        put(tmp_path / "disc" / f"D{index % 3}", [ds], f"{index}")
    (entry,) = tree(tmp_path).values()
    assert entry.case == "disc"
    assert entry.series.decode().shape == (3, 2, 6)
    assert entry.series.provenance()["slices"][1].startswith("D1/")


def test_copies_of_a_series_in_two_folders_stay_apart(tmp_path):
    slices = series_of(6)
    put(tmp_path / "a", slices)
    put(tmp_path / "b", slices[:4])
    entries = tree(tmp_path)
    assert {name: codes(entry) for name, entry in entries.items()} == {
        "a": [],
        "b": ["part_of_series"],
    }


def test_folders_of_one_series_that_share_a_slice_are_one_volume(tmp_path):
    slices = series_of(6)
    put(tmp_path / "p" / "odd", [slices[k] for k in (1, 3, 5)])
    put(tmp_path / "p" / "even", [slices[k] for k in (0, 2, 3, 4)])
    (entry,) = tree(tmp_path).values()
    assert (entry.case, codes(entry)) == ("p", ["duplicate_slices"])
    assert "1 slices are stored twice" in entry.series.findings[0].message
    assert entry.series.decode().array[0, 0, 0].tolist() == [-1000 + 10 * k for k in range(6)]


@pytest.mark.parametrize("named", [True, False])
def test_a_copy_of_a_scattered_series_is_one_volume_of_its_own(tmp_path, named):
    slices = series_of(6)
    for number, ds in enumerate(slices):
        ds.InstanceNumber = number
        if not named:
            del ds.SOPInstanceUID
    put(tmp_path / "a", slices)
    put(tmp_path / "b" / "odd", slices[1::2])
    put(tmp_path / "b" / "even", slices[::2])
    entries = tree(tmp_path)
    assert {name: codes(entry) for name, entry in entries.items()} == {"a": [], "b": []}
    assert [entry.series.decode().shape[2] for entry in entries.values()] == [6, 6]


@pytest.mark.parametrize(
    ("tag", "values", "names"),
    [
        ("EchoTime", ["4.92", "2.46"], ["p_te2.46", "p_te4.92"]),
        ("EchoNumbers", [1, 2], ["p_echo1", "p_echo2"]),
        ("DiffusionBValue", [0.0, 800.0], ["p_b0", "p_b800"]),
        ("TemporalPositionIdentifier", [1, 2], ["p_t1", "p_t2"]),
        ("AcquisitionNumber", [1, 2], ["p_acq1", "p_acq2"]),
        ("ImageType", [["ORIGINAL", "M"], ["ORIGINAL", "P"]], ["p_M", "p_P"]),
        ("SeriesNumber", [5, 6], ["p_series5", "p_series6"]),
    ],
)
def test_what_tells_volumes_apart_stands_in_their_names(tmp_path, tag, values, names):
    parts = [alike(series_of(4), **{tag: value}) for value in values]
    for ds in parts[1]:
        ds.RescaleIntercept = 0
    put(tmp_path / "p", [ds for pair in zip(*parts, strict=True) for ds in pair])
    entries = tree(tmp_path)
    assert sorted(entries) == names
    of_second = names[values.index(values[1])] if tag != "EchoTime" else names[0]
    assert entries[of_second].series.decode().array.min() == 0
    refused = tree(tmp_path, several_volumes="refuse")
    assert [codes(entry) for entry in refused.values()] == [["several_volumes"]]


def test_a_private_b_value_is_read(tmp_path):
    parts = [series_of(4), alike(series_of(4))]
    for value, part in zip((b"50", b"400 "), parts, strict=True):
        for ds in part:
            ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "OB", value)
    put(tmp_path / "p", [*parts[0], *parts[1]])
    assert sorted(tree(tmp_path)) == ["p_b400", "p_b50"]


def test_a_value_that_gives_whole_volumes_is_preferred(tmp_path):
    """The echo time changes in the middle of each volume, the flip angle between them."""
    slices = [*alike(series_of(8), FlipAngle="5"), *alike(series_of(8), FlipAngle="20")]
    for index, ds in enumerate(slices):
        ds.EchoTime = "2" if index in (0, 1, 2, 3, 4, 5, 12, 13, 14, 15) else "4"
    put(tmp_path / "p", slices)
    assert sorted(tree(tmp_path)) == ["p_flip20", "p_flip5"]


def test_the_thousand_million_that_some_add_to_a_b_value_is_left_out(tmp_path):
    parts = [series_of(4), alike(series_of(4))]
    for value, part in zip((1_000_000_700, 0), parts, strict=True):
        for ds in part:
            block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
            block.add_new(0x39, "IS", [value, 8, 0, 0])
    put(tmp_path / "p", [*parts[0], *parts[1]])
    assert sorted(tree(tmp_path)) == ["p_b0", "p_b700"]


@pytest.mark.parametrize("by_time", [True, False])
def test_time_points_without_a_tag_follow_the_instance_numbers(tmp_path, by_time):
    parts = [series_of(4), alike(series_of(4), RescaleIntercept=0)]
    for time, part in enumerate(parts):
        for place, ds in enumerate(part):
            ds.InstanceNumber = 1 + (time * 4 + place if by_time else place * 2 + time)
    put(tmp_path / "p", [*parts[1], *parts[0]])
    entries = tree(tmp_path)
    assert sorted(entries) == ["p_t1", "p_t2"]
    assert entries["p_t2"].series.decode().array.min() == 0


def lacking(*numbers: int, value: float = 800.0) -> list[Dataset]:
    """A volume of five slices, 3 mm apart from 10 mm on along the normal, but for some of them."""
    whole = alike(series_of(5), DiffusionBValue=value)
    return [ds for number, ds in enumerate(whole) if number not in numbers]


@pytest.mark.parametrize(
    ("gone", "code", "told"),
    [
        ([4], "slices_missing_at_end", "lacks the last 1 of 5 slices (at 22 mm)"),
        ([0, 1], "slices_missing_at_end", "lacks the first 2 of 5 slices (at 10 to 13 mm)"),
        ([0, 4], "slices_missing_at_end", "(at 10 mm) and the last 1 of 5 slices (at 22 mm)"),
        ([2], "missing_slices", "1 of 5 slices are missing in a volume of the series"),
    ],
)
def test_a_volume_that_lacks_slices_of_its_series_is_refused_and_the_other_kept(
    tmp_path, gone, code, told
):
    put(tmp_path / "p", [*lacking(value=0.0), *lacking(*gone)])
    entries = tree(tmp_path)
    assert {name: codes(entry) for name, entry in entries.items()} == {"p_b0": [], "p_b800": [code]}
    (finding,) = entries["p_b800"].findings
    assert finding.severity == "error"
    assert told in finding.message
    assert "dicom.allow_missing_slices" in finding.remedy


def test_a_volume_that_lacks_slices_of_two_others_is_refused_as_well(tmp_path):
    put(tmp_path / "p", [*lacking(value=0.0), *lacking(value=400.0), *lacking(4)])
    entries = tree(tmp_path)
    assert {name: codes(entry) for name, entry in entries.items()} == {
        "p_b0": [],
        "p_b400": [],
        "p_b800": ["slices_missing_at_end"],
    }


STATIONS = {
    "two": [range(6), range(4, 10)],
    "unlike": [range(8), range(6, 11)],
    "three": [range(5), range(4, 9), range(7, 12)],
}


@pytest.mark.parametrize("stations", STATIONS.values(), ids=STATIONS)
@pytest.mark.parametrize("lenient", [False, True])
def test_stations_that_overlap_are_volumes_which_say_so(tmp_path, stations, lenient):
    slices = []
    for number, places in enumerate(stations, 1):
        whole = alike(series_of(12), AcquisitionNumber=number, RescaleIntercept=number)
        slices += [whole[place] for place in places]
    put(tmp_path / "p", slices)
    entries = tree(tmp_path, allow_missing_slices=lenient)
    assert sorted(entries) == [f"p_acq{number}" for number in range(1, len(stations) + 1)]
    for number, places in enumerate(stations, 1):
        entry = entries[f"p_acq{number}"]
        assert codes(entry) == ["stations"]
        assert entry.series.findings[0].severity == "warning"
        found = [number + 10 * place for place in places]
        assert entry.series.decode().array[0, 0, 0].tolist() == found


BROKEN = {
    "another quantity": [(range(8), {"DiffusionBValue": 0.0}), (range(5, 10), {})],
    "another quantity, few shared": [(range(7), {"DiffusionBValue": 0.0}), (range(5, 12), {})],
    "another time": [
        (range(7), {"AcquisitionNumber": 1, "TemporalPositionIdentifier": 1}),
        (range(5, 12), {"AcquisitionNumber": 2, "TemporalPositionIdentifier": 2}),
    ],
    "many shared": [(range(1, 10), {"AcquisitionNumber": 1}), (range(5), {"AcquisitionNumber": 2})],
    "half shared": [(range(6), {"AcquisitionNumber": 1}), (range(4, 8), {"AcquisitionNumber": 2})],
}


@pytest.mark.parametrize("volumes", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("lenient", [False, True])
def test_volumes_that_both_were_broken_off_are_no_stations(tmp_path, volumes, lenient):
    slices = []
    for number, (places, tags) in enumerate(volumes):
        tags = tags or {"DiffusionBValue": 800.0}
        whole = alike(series_of(12), RescaleIntercept=number, **tags)
        slices += [whole[place] for place in places]
    put(tmp_path / "p", slices)
    entries = tree(tmp_path, allow_missing_slices=lenient)
    assert [codes(entry) for entry in entries.values()] == [["slices_missing_at_end"]] * 2
    assert [entry.series is not None for entry in entries.values()] == [lenient] * 2


def test_a_volume_whose_measure_lacks_a_slice_itself_is_refused(tmp_path):
    """Places 1 to 9 of ten, and 0 to 4: neither holds all of the other's."""
    first = alike(series_of(10), DiffusionBValue=0.0)[1:]
    put(tmp_path / "p", [*first, *alike(series_of(10), DiffusionBValue=800.0)[:5]])
    entries = tree(tmp_path)
    for name, told in (("p_b0", "the first 1 of 10 slices"), ("p_b800", "the last 5 of 10")):
        (finding,) = entries[name].findings
        assert (finding.code, finding.severity) == ("slices_missing_at_end", "error")
        assert told in finding.message


def test_a_station_that_lacks_a_slice_within_is_refused(tmp_path):
    upper = alike(series_of(6), AcquisitionNumber=1, RescaleIntercept=0)
    lower = alike(series_of(10), AcquisitionNumber=2)
    put(tmp_path / "p", [*upper, *lower[4:7], *lower[8:]])
    assert codes(tree(tmp_path)["p_acq2"]) == ["missing_slices"]


def test_time_points_of_several_stations_are_put_together(tmp_path):
    """Every station of either time has an acquisition number of its own."""
    slices = [*series_of(8), *alike(series_of(8), RescaleIntercept=0)]
    for index, ds in enumerate(slices):
        ds.InstanceNumber, ds.AcquisitionNumber = index, index // 4
    put(tmp_path / "p", slices)
    entries = tree(tmp_path)
    assert {name: codes(entry) for name, entry in entries.items()} == {"p_t1": [], "p_t2": []}


def test_a_volume_that_lacks_its_last_slices_is_kept_and_marked_where_that_is_allowed(tmp_path):
    put(tmp_path / "p", [*lacking(value=0.0), *lacking(1, 4)])
    entries = tree(tmp_path, allow_missing_slices=True)
    assert codes(entries["p_b0"]) == []
    assert codes(entries["p_b800"]) == ["slices_missing_at_end", "slices_interpolated"]
    series = entries["p_b800"].series
    assert [finding.severity for finding in series.findings] == ["warning", "warning"]
    assert series.decode().shape[2] == 4  # the gap is filled, the end is not made up
    assert series.provenance()["mended"] == ["slices_missing_at_end", "slices_interpolated"]


def in_planes(*orientations: list[float], count: int, **changes) -> list[Dataset]:
    slices = []
    for cosines in orientations:
        normal = np.cross(cosines[:3], cosines[3:])
        slices += [
            a_slice(
                (normal * 5.0 * k).tolist(), np.full((2, 3), k), ImageOrientationPatient=cosines
            )
            for k in range(count)
        ]
    return alike(slices, **changes)


def test_a_series_of_two_orientations_gives_two_volumes(tmp_path):
    put(tmp_path / "p", in_planes(AXIAL, SAGITTAL, count=4))
    entries = tree(tmp_path)
    assert sorted(entries) == ["p_axial", "p_sagittal"]
    assert all(entry.series for entry in entries.values())


@pytest.mark.parametrize(
    "slices",
    [
        in_planes(AXIAL, CORONAL, SAGITTAL, count=3),
        in_planes(AXIAL, CORONAL, count=2, SeriesDescription="3-plane localizer"),
        in_planes(AXIAL, CORONAL, count=4, SeriesDescription="t2_loc_multi"),
        in_planes(AXIAL, count=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    ],
)
def test_a_localiser_is_skipped_by_name(tmp_path, slices):
    put(tmp_path / "scout", slices)
    put(tmp_path / "p", alike(series_of(4), SeriesInstanceUID="1.9"))
    entries = tree(tmp_path)
    assert (codes(entries["scout"]), entries["scout"].skipped) == (["localiser"], True)
    assert entries["p"].series


def test_a_localiser_is_kept_where_the_configuration_says_so(tmp_path):
    put(tmp_path / "scout", in_planes(AXIAL, CORONAL, SAGITTAL, count=3))
    kept = tree(tmp_path, localisers="keep")
    assert sorted(kept) == ["scout_axial", "scout_coronal", "scout_sagittal"]


def test_dark_high_values_are_told(tmp_path):
    put(tmp_path / "p", alike(series_of(4), PhotometricInterpretation="MONOCHROME1"))
    assert [codes(entry) for entry in tree(tmp_path).values()] == [["inverted"]]


def test_a_damaged_file_stops_the_only_series_of_its_folder(tmp_path):
    put(tmp_path / "p", series_of(5))
    (tmp_path / "p" / "99").write_bytes(b"\0" * 4000)
    (entry,) = tree(tmp_path).values()
    assert (entry.case, codes(entry)) == ("p", ["unreadable"])


def test_a_damaged_file_beside_several_series_is_told_with_each(tmp_path):
    put(tmp_path / "p", alike(series_of(5), SeriesInstanceUID="1.1", SeriesNumber=1), "a")
    put(tmp_path / "p", alike(series_of(5), SeriesInstanceUID="1.2", SeriesNumber=2), "b")
    (tmp_path / "p" / "99").write_bytes(b"\0" * 4000)
    entries = tree(tmp_path)
    assert {name: codes(entry) for name, entry in entries.items()} == {
        "p_s1": ["damaged_beside"],
        "p_s2": ["damaged_beside"],
        "p_unreadable": ["unreadable"],
    }


def test_a_dicomdir_is_no_slice(tmp_path):
    put(tmp_path / "IMAGES", series_of(4))
    index = a_slice([0, 0, 0], np.zeros((2, 3)), PixelData=None, Modality=None, Rows=None)
    index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    index.SOPClassUID = "1.2.840.10008.1.3.10"
    index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    entries = tree(tmp_path)
    assert [e.series is not None for e in entries.values()].count(True) == 1
    assert [codes(e) for e in entries.values() if not e.series] == [["not_an_image"]]


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_a_preamble_are_read(tmp_path, implicit):
    folder = tmp_path / "p"
    folder.mkdir()
    for index, ds in enumerate(series_of(4)):
        del ds.file_meta
        ds.save_as(folder / f"{index}", implicit_vr=implicit, little_endian=True)
        assert (folder / f"{index}").read_bytes()[:2] == b"\x08\0"
    (entry,) = tree(tmp_path).values()
    assert entry.series.decode().array.max() == -1000 + 35


def test_frames_of_an_enhanced_object_are_split_by_their_own_values(tmp_path):
    slices = [*series_of(4), *series_of(4)]
    multi = frames_of(slices)
    for index, group in enumerate(multi.PerFrameFunctionalGroupsSequence):
        diffusion = Dataset()
        diffusion.DiffusionBValue = 0.0 if index < 4 else 1000.0
        group.MRDiffusionSequence = [diffusion]
    multi.PixelData = multi.PixelData[:48] + bytes(48)
    folder = tmp_path / "p"
    folder.mkdir()
    multi.save_as(folder / "multi", enforce_file_format=True)
    entries = tree(tmp_path)
    assert sorted(entries) == ["p_b0", "p_b1000"]
    assert entries["p_b0"].series.decode().array.max() == -1000 + 35
    assert entries["p_b1000"].series.decode().array.max() == -1000


def test_identifiers_are_recorded_only_when_asked_for(tmp_path):
    put(tmp_path / "p", alike(series_of(4), SeriesDescription="thorax of Somebody", KVP="120"))
    (entry,) = tree(tmp_path).values()
    tags = entry.series.provenance()["tags"]
    assert tags["KVP"] == "120"
    assert "Somebody" not in str(tags)
    assert "p7" not in str(tags)
    (kept,) = tree(tmp_path, keep_identifiers=True).values()
    assert kept.series.provenance()["tags"]["PatientName"] == "Somebody"


def test_a_long_private_header_and_nested_sequences_are_passed_over(tmp_path):
    slices = series_of(4)
    for ds in slices:
        inner, outer = Dataset(), Dataset()
        inner.CodeValue, inner.Rows = "1", 77
        outer.PurposeOfReferenceCodeSequence = [inner]
        outer.is_undefined_length_sequence_item = True
        ds.ReferencedImageSequence = [outer]
        ds["ReferencedImageSequence"].is_undefined_length = True
        ds.private_block(0x0029, "OURS", create=True).add_new(0x10, "OB", b"\1" * 100_000)
    put(tmp_path / "p", slices)
    (entry,) = tree(tmp_path).values()
    assert entry.series.decode().shape == (3, 2, 4)
    assert all(plane.header.offset for plane in entry.series.stack.planes)  # no slow reader


def test_a_value_at_the_end_of_what_is_read_first_is_read_whole(tmp_path):
    path = tmp_path / "1"
    for length in range(64_600, 65_500, 6):
        (ds,) = series_of(1)
        ds.private_block(0x0019, "OURS", create=True).add_new(0x10, "OB", b"\1" * length)
        ds.save_as(path, enforce_file_format=True)
        header = read_header(path)
        assert header.values["ImagePositionPatient"] == (10, 20, 30)
        assert header.values["ImageOrientationPatient"] == (0.8, 0.6, 0, 0, 0, -1)
        assert header.text("SeriesInstanceUID") == "1.2.3"
        assert header.values["PixelSpacing"] == (2.0, 0.5)


def test_overlays_in_unused_bits_are_not_values(tmp_path):
    slices = alike(series_of(4), BitsStored=12, HighBit=11, PixelRepresentation=0)
    expected = [np.frombuffer(ds.PixelData, "<u2").copy() for ds in slices]
    for ds, pixels in zip(slices, expected, strict=True):
        ds.PixelData = (pixels | 0x8000).tobytes()
    put(tmp_path / "p", slices)
    (entry,) = tree(tmp_path).values()
    array = entry.series.decode().array
    assert (array.min(), array.max()) == (-1000, -1000 + 35)


def test_a_series_alone_in_its_folder_is_called_after_it(tmp_path):
    save(tmp_path / "one", series_of(4))
    save(tmp_path / "two", alike(series_of(4), SeriesInstanceUID="8", PatientID="q"))
    assert sorted(tree(tmp_path)) == ["one", "two"]


def test_volumes_of_a_study_without_a_patient_are_of_one_person(tmp_path):
    for number, study in enumerate(("5.1", "5.1", "5.2")):
        tags = {"SeriesInstanceUID": f"6.{number}", "StudyInstanceUID": study, "PatientID": ""}
        put(tmp_path / f"s{number}", alike(series_of(4), **tags))
    people = [entry.series.person for _, entry in sorted(tree(tmp_path).items())]
    assert people[0] == people[1] != people[2]
    assert all(name.startswith("study-") for name in people)
