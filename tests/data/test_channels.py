"""Channels on the grid of one of them, and which files are the channels of one case."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_objects import write_series

from medcl.config import ConfigError, Dataset, Source, load_section
from medcl.data.cases import Case, read_cases, write_cases
from medcl.data.channel_lists import Channels
from medcl.data.channels import filled, read_channel, read_image, share_shown, stack
from medcl.data.entries import Entry
from medcl.data.guess import guess_sources
from medcl.data.sources import list_entries
from medcl.data.volume import Volume, VolumeError, blank, turned_grid
from medcl.errors import MedclError

BOTH = Channels(("T2", "ADC"))


def turned(degrees: float, spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    """Affine turned about the third axis."""
    a = np.radians(degrees)
    affine = np.eye(4)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = origin
    return affine


def by_simpleitk(moving: Path, fixed: Path, outside: float) -> np.ndarray:
    """Linear interpolation by another program."""
    still, image = (sitk.ReadImage(str(file), sitk.sitkFloat32) for file in (fixed, moving))
    found = sitk.Resample(image, still, sitk.Transform(), sitk.sitkLinear, outside)
    return sitk.GetArrayFromImage(found).transpose(2, 1, 0)


@pytest.mark.parametrize(
    "affine",
    [
        turned(0, (1.3, 0.7, 2.0), (1.0, 2.0, -1.0)),
        turned(17, (0.9, 1.6, 3.1), (0.0, -3.0, 1.0)),
        turned(180, (1.2, 1.2, 2.5), (7.0, 6.2, -2.0)),  # axes the other way round
    ],
)
def test_channels_are_brought_to_the_reference_as_simpleitk_does(tmp_path, affine):
    rng = np.random.default_rng(0)
    still = Volume(rng.normal(size=(1, 9, 8, 6)).astype(np.float32), np.diag([1.0, 1.1, 2.2, 1.0]))
    moving = Volume(rng.normal(size=(1, 10, 12, 7)).astype(np.float32), affine)
    for name, volume in (("a.nii", still), ("b.nii", moving)):
        nib.save(nib.Nifti1Image(volume.array[0], volume.affine), tmp_path / name)
    together, shares = stack([still, moving], 0)
    np.testing.assert_array_equal(together.array[0], still.array[0])
    expected = by_simpleitk(tmp_path / "b.nii", tmp_path / "a.nii", -99)
    seen = expected != -99
    assert 0.3 < seen.mean() < 1
    np.testing.assert_array_equal(np.isnan(together.array[1]), ~seen)
    np.testing.assert_allclose(together.array[1][seen], expected[seen], atol=1e-5)
    assert shares == [None, pytest.approx(seen.mean())]


def test_axes_stored_the_other_way_are_turned_without_interpolation():
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 1
    together, shares = stack([Volume(array, np.eye(4)), Volume(array[:, ::-1], flipped)], 0)
    assert shares == [None, None]
    np.testing.assert_array_equal(together.array[1], array[0])


def test_what_a_channel_does_not_show_gets_its_least_value():
    array = np.array([[1, np.nan, 3], [np.nan, np.nan, np.nan], [4, 5, 6]], np.float32)
    found = filled(Volume(array[:, :, None, None], np.eye(4))).array[:, :, 0, 0]
    np.testing.assert_array_equal(found, [[1, 1, 3], [0, 0, 0], [4, 5, 6]])


@pytest.mark.parametrize("degrees", [0, 90, 27, 180])
@pytest.mark.parametrize("offset", [(0, 0, 0), (4.1, -2.3, 5.2), (-3, 30, 0), (0.5, 0.5, 0.5)])
def test_the_share_that_a_channel_shows_is_that_of_the_voxels_in_it(degrees, offset):
    grid = blank((1, 9, 8, 7), turned(10, (1.0, 1.5, 2.0), (5, 5, 5)))
    place = tuple(5 + mm for mm in offset)
    tilt = np.eye(4)[[0, 2, 1, 3]] @ turned(degrees / 2, (1, 1, 1), (0, 0, 0))
    other = blank((1, 6, 9, 5), turned(10 + degrees, (1.5, 1.0, 2.5), place) @ tilt)
    shown = share_shown(other, grid)
    inside = 0
    for voxel in np.ndindex(grid.shape):
        mm = grid.affine @ [*voxel, 1]
        where = (np.linalg.inv(other.affine) @ mm)[:3]
        inside += all(-0.5001 <= at <= n - 0.4999 for at, n in zip(where, other.shape, strict=True))
    assert shown == pytest.approx(inside / (9 * 8 * 7), abs=1e-9)


def test_a_channel_on_the_grid_of_the_reference_is_not_measured():
    grid = blank((1, 9, 8, 7), turned(10, (1.0, 1.5, 2.0), (5, 5, 5)))
    for axes in ("LPS", "SRA", grid.orientation):
        assert share_shown(turned_grid(grid, axes), grid) is None


def test_a_volume_of_a_file_is_named_by_its_number(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    found = read_channel(f"{tmp_path}/a.nii.gz[1]")
    np.testing.assert_array_equal(found.array[0], values[..., 1])
    with pytest.raises(VolumeError, match="has 2 channels, number 2"):
        read_channel(f"{tmp_path}/a.nii.gz[2]")


def test_a_case_of_several_files_comes_back_from_its_table(tmp_path):
    files = []
    for number, spacing in enumerate((1.0, 2.0)):
        file = tmp_path / f"{number}.nii"
        array = np.full((4, 4, 4), 1.0 + number, np.float32)
        nib.save(nib.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1])), file)
        files.append(str(file))
    case = Case(
        case="c", subject="s", visit="", image=files[1], label=None, modality="MR", channels=2,
        shape=(4, 4, 4), spacing=(2.0, 2.0, 2.0), orientation="RAS", image_sha256="i",
        voxel_sha256="v", label_sha256=None, source="x", channel_names=("A", "B"),
        channel_images=tuple(files),
    )  # fmt: skip
    write_cases(tmp_path / "cases.csv", [case])
    (back,) = read_cases(tmp_path / "cases.csv")
    assert back == case
    array = read_image(back).array
    assert (array[1] == 2).all()  # the second is the reference
    assert np.isnan(array[0]).sum() == 4**3 - 2**3  # 4 mm of the 8 mm
    with pytest.raises(MedclError, match=r"c: 'A\|B' holds \|"):
        write_cases(tmp_path / "x.csv", [case.__class__(**{**vars(case), "image": files[0],
                                         "channel_names": ("A|B", "C")})])  # fmt: skip


# ------------------------------------------------------------------------ files of a case


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def listed(root: Path, channels: Channels = BOTH, **keys: object) -> dict[str, Entry]:
    found = list_entries([Source.model_validate(keys)], str(root), channels=channels)
    return {entry.case: entry for entry in found if not entry.skipped}


def files(entry: Entry, root: Path) -> dict[str, str]:
    return {file.name: Path(file.path).relative_to(root).as_posix() for file in entry.files}


def codes(entry: Entry) -> list[str]:
    return [finding.code for finding in entry.findings]


def nnunet(root: Path, **names: str) -> Path:
    (root / "dataset.json").write_text(json.dumps({"channel_names": names, "file_ending": ".nii"}))
    for case in ("p_01", "p_02"):
        touch(root, *(f"imagesTr/{case}_{int(number):04d}.nii" for number in names))
    return touch(root, "labelsTr/p_01.nii")


def test_all_channels_of_nnunet_are_used_or_those_asked_for_in_the_order_asked(tmp_path):
    nnunet(tmp_path, **{"0": "ADC", "1": "T2", "2": "DWI"})
    every = listed(tmp_path, Channels(), layout="nnunet")["p_01"]
    assert every.names == ("ADC", "T2", "DWI")
    some = listed(tmp_path, layout="nnunet")
    assert sorted(some) == ["p_01", "p_02"]
    assert files(some["p_01"], tmp_path) == {
        "T2": "imagesTr/p_01_0001.nii",
        "ADC": "imagesTr/p_01_0000.nii",
    }
    assert some["p_01"].names == ("T2", "ADC")
    assert some["p_01"].image == f"{tmp_path}/imagesTr/p_01_0001.nii"
    assert (some["p_01"].label, some["p_02"].label) == (f"{tmp_path}/labelsTr/p_01.nii", None)
    other = listed(tmp_path, Channels(BOTH.names, "ADC"), layout="nnunet")["p_01"]
    assert (other.image, other.reference) == (f"{tmp_path}/imagesTr/p_01_0000.nii", 1)
    with pytest.raises(MedclError, match=r"channels: no channel 'T1' among 0 ADC, 1 T2, 2 DWI"):
        listed(tmp_path, Channels(("T1", "ADC")), layout="nnunet")


def test_a_missing_channel_is_told_with_its_case(tmp_path):
    nnunet(tmp_path, **{"0": "T2", "1": "ADC"})
    (tmp_path / "imagesTr/p_02_0001.nii").unlink()
    found = listed(tmp_path, layout="nnunet")
    assert codes(found["p_01"]) == []
    assert codes(found["p_02"]) == ["missing_channel"]
    assert "p_02: no ADC beside" in found["p_02"].findings[0].message


def test_volumes_along_the_fourth_axis_of_the_decathlon_are_chosen_by_name(tmp_path):
    content = {"modality": {"0": "T2", "1": "ADC"}, "training": [{"image": "i/a.nii.gz",
               "label": "l/a.nii.gz"}]}  # fmt: skip
    (touch(tmp_path, "i/a.nii.gz", "l/a.nii.gz") / "dataset.json").write_text(json.dumps(content))
    whole = listed(tmp_path, layout="msd")["a"]
    assert (whole.files, whole.channels, whole.names) == ((), 2, ("T2", "ADC"))
    assert codes(whole) == []
    one = listed(tmp_path, Channels(("ADC",)), layout="msd")["a"]
    assert files(one, tmp_path) == {"ADC": "i/a.nii.gz[1]"}
    assert one.image == f"{tmp_path}/i/a.nii.gz"
    assert codes(one) == ["channel_chosen"]
    assert one.findings[0].message == f"{one.image}: channel 1 ADC of 2; T2 left out"
    swapped = listed(tmp_path, Channels(("ADC", "T2")), layout="msd")["a"]
    assert files(swapped, tmp_path) == {"ADC": "i/a.nii.gz[1]", "T2": "i/a.nii.gz[0]"}
    assert codes(swapped) == []
    by_number = listed(tmp_path, Channels(), layout="msd", channel=1)["a"]
    assert files(by_number, tmp_path) == {"ADC": "i/a.nii.gz[1]"}
    assert by_number.names == ()


@pytest.mark.parametrize(
    "images",
    [
        "{subject}/{visit}/{channel}.nii",
        {"ADC": "{subject}/{visit}/ADC.nii", "T2": "{subject}/{visit}/T2.nii"},
    ],
)
def test_files_join_by_subject_and_visit_and_nothing_else(tmp_path, images):
    touch(tmp_path, "a/1/T2.nii", "a/1/ADC.nii", "a/2/T2.nii", "b/1/ADC.nii", "b/1/other.nii")
    touch(tmp_path, "seg/a_1.nii", "seg/b_1.nii")
    keys = {"layout": "folders", "images": images, "labels": "seg/{subject}_{visit}.nii"}
    found = listed(tmp_path, **keys)
    assert sorted(found) == ["a_1", "a_2", "b_1"]
    assert files(found["a_1"], tmp_path) == {"T2": "a/1/T2.nii", "ADC": "a/1/ADC.nii"}
    assert found["a_1"].label == f"{tmp_path}/seg/a_1.nii"
    assert [codes(found[name]) for name in ("a_1", "a_2", "b_1")] == [
        [], ["missing_channel"], ["missing_channel"],
    ]  # fmt: skip
    everything = list_entries([Source.model_validate(keys)], str(tmp_path), channels=BOTH)
    assert [(e.case, codes(e)) for e in everything if e.skipped] == [("other", ["not_used"])]


def test_two_files_for_one_channel_are_refused(tmp_path):
    touch(tmp_path, "a/T2_1.nii", "a/T2_2.nii", "a/ADC_1.nii")
    found = listed(tmp_path, layout="folders", images="{subject}/{channel}_*.nii")["a"]
    assert codes(found) == ["several_channels"]
    assert "2 images fit channel T2 of a" in found.findings[0].message


def test_one_file_never_fills_two_channels(tmp_path):
    touch(tmp_path, "a/x_t1.nii", "a/x_t1c.nii", "b/x_t1c.nii")
    images = {"T2": "{subject}/*_t1*.nii", "ADC": "{subject}/*_t1c*.nii"}
    found = listed(tmp_path, layout="folders", images=images)
    assert codes(found["b"]) == ["channel_used_twice"]
    assert codes(found["a"]) == ["several_channels"]


def test_a_table_has_a_column_for_each_channel(tmp_path):
    (tmp_path / "t.csv").write_text("subject,t2,ADC,label,site\na,x/t.nii,x/a.nii,x/l.nii,Bern\n"
                                    "b,y/t.nii,,,Basel\n")  # fmt: skip
    keys = {"layout": "csv", "path": "t.csv", "columns": {"T2": "t2"}}
    found = listed(tmp_path, **keys)
    assert files(found["a"], tmp_path) == {"T2": "x/t.nii", "ADC": "x/a.nii"}
    assert found["a"].extra == {"site": "Bern"}
    assert codes(found["b"]) == ["missing_channel"]
    with pytest.raises(MedclError, match=r"columns.DWI: .*has no column 'DWI'"):
        listed(tmp_path, Channels(("T2", "DWI")), **keys)


def test_bids_suffixes_join_by_subject_and_session(tmp_path):
    for stem in ("sub-1/ses-a/anat/sub-1_ses-a", "sub-1/ses-b/anat/sub-1_ses-b"):
        touch(tmp_path, f"{stem}_T1w.nii", f"{stem}_FLAIR.nii")
    touch(tmp_path, "derivatives/m/sub-1/ses-b/anat/sub-1_ses-b_dseg.nii")
    channels = Channels(("T1", "FLAIR"), "FLAIR")
    images = {"T1": "T1w", "FLAIR": "FLAIR"}
    found = listed(tmp_path, channels, layout="bids", images=images, labels="m/dseg")
    assert sorted(found) == ["sub-1_ses-a", "sub-1_ses-b"]
    second = found["sub-1_ses-b"]
    assert [Path(file.path).name for file in second.files] == [
        "sub-1_ses-b_T1w.nii", "sub-1_ses-b_FLAIR.nii",
    ]  # fmt: skip
    assert second.label is not None
    assert str(second.image).endswith("FLAIR.nii")


def test_images_of_nnssl_join_by_session(tmp_path):
    images = [{"name": f"{m}.nii", "modality": m, "image_path": f"{m}.nii"} for m in ("t1", "t2")]
    people = {"p": {"sessions": {"s1": {"images": images}, "s2": {"images": images[:1]}}}}
    table = {"datasets": {"d": {"name": "D", "subjects": people}}}
    (touch(tmp_path, "t1.nii", "t2.nii") / "pretrain_data.json").write_text(json.dumps(table))
    channels = Channels(("t1", "t2"))
    found = listed(tmp_path, channels, layout="nnssl", images="{channel}")
    assert files(found["D_p_s1"], tmp_path) == {"t1": "t1.nii", "t2": "t2.nii"}
    assert codes(found["D_p_s2"]) == ["missing_channel"]


def test_series_of_one_study_join_by_folder_or_description(tmp_path):
    for number, (patient, study) in enumerate((("p1", "1.1"), ("p1", "1.2"), ("p2", "1.3"))):
        tags = {"PatientID": patient, "StudyInstanceUID": study, "Modality": "MR"}
        folder = tmp_path / f"{patient}_{number}"
        series = {"t2_tse": "x", "ep2d_ADC": "y", "localizer": "z"}
        for at, (description, name) in enumerate(series.items()):
            if (number, name) != (1, "y"):
                write_series(folder / name, uid=f"1.9.{number}.{at}", seed=number * 9 + at,
                             SeriesDescription=description, **tags)  # fmt: skip
    images = {"T2": "T2*", "ADC": "*/y"}
    found = listed(tmp_path, layout="dicom", images=images)
    assert [(name, codes(entry)) for name, entry in sorted(found.items())] == [
        ("p1_0_x", []), ("p1_1_x", ["missing_channel"]), ("p2_2_x", []),
    ]  # fmt: skip
    assert files(found["p2_2_x"], tmp_path) == {"T2": "p2_2/x", "ADC": "p2_2/y"}
    with pytest.raises(MedclError, match="say for each of the channels T2, ADC which"):
        listed(tmp_path, layout="dicom")


@pytest.mark.parametrize("marks", [("0000", "0001"), ("T2", "ADC")])
def test_scans_of_a_folder_are_joined_by_the_mark_of_the_channel(tmp_path, marks):
    touch(tmp_path, *(f"{case}_{mark}.nii" for case in ("a_1", "b") for mark in marks))
    (guessed,) = guess_sources(tmp_path, channels=BOTH)
    found = list_entries([guessed], channels=BOTH)
    assert [(entry.case, [Path(f.path).name for f in entry.files]) for entry in found] == [
        ("a_1", [f"a_1_{mark}.nii" for mark in marks]), ("b", [f"b_{mark}.nii" for mark in marks]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"reference": "ACD"}, "reference: no such channel; did you mean 'ADC'"),
        ({"channels": {"T2": "CT", "ADC": "MR"}}, "channels.T2: is CT, but the dataset is MR"),
        ({"channels": ["T2", "T2"]}, "a name stands twice"),
        ({"plan": {"channel_intensity": {"AD": {"rule": "zscore"}}}}, "did you mean 'ADC'"),
        ({"sources": [{"layout": "nnunet", "channel": 1}]}, "chooses already"),
        ({"sources": [{"layout": "bids", "images": {"T1": "T1w"}}]}, "names T1, `channels` T2, A"),
    ],
)
def test_keys_that_contradict_one_another_are_refused(keys, message):
    content = {
        "name": "d", "modality": "MR", "classes": {"a": 1}, "channels": ["T2", "ADC"],
        "sources": [{"layout": "files"}],
    }  # fmt: skip
    assert load_section(Dataset, json.dumps(content)).channel_names == ("T2", "ADC")
    with pytest.raises(ConfigError, match=message):
        load_section(Dataset, json.dumps(content | keys))
