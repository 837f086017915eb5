import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_objects import write_series

from medcl.data import header_pass, voxel_pass
from medcl.data.cases import Case, read_cases
from medcl.data.volume import Volume, read_volume, reorient, write_nifti
from medcl.errors import MedclError
from medcl.stages import ingest

AFFINE = np.diag([1.0, 1.5, 3.0, 1.0])
SHAPE = (6, 5, 4)


def image(scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=SHAPE) * scale).astype(np.float32)


def label(*values: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array.flat[: len(values)] = values
    return array


def put(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def run(*arguments: str | Path) -> None:
    parser = argparse.ArgumentParser()
    ingest.add_arguments(parser)
    ingest.run(parser.parse_args([str(a) for a in arguments]))


def settings(root: Path, **changes) -> str:
    folders = {
        "layout": "folders",
        "images": "images/{subject}.nii",
        "labels": "labels/{subject}.nii",
    }
    keys = {
        "name": "test",
        "root": str(root),
        "modality": "MR",
        "classes": {"organ": 1, "lesion": 2},
        "sources": [folders],
    }
    return json.dumps(keys | changes)


def ingest_folders(root: Path, **changes) -> tuple[dict[str, Case], dict[str, dict]]:
    """Run with the folders of `root`: accepted cases by name, and records by name."""
    run("--settings", settings(root, **changes), "--out", root / "out")
    cases = {case.case: case for case in read_cases(root / "out" / "cases.csv")}
    return cases, records(root / "out")


def records(out: Path) -> dict[str, dict]:
    return {r["case"]: r for r in json.loads((out / "ingest.json").read_text())["cases"]}


def codes(record: dict, *severities: str) -> list[str]:
    return [f["code"] for f in record["findings"] if f["severity"] in (severities or ("error",))]


@pytest.fixture
def good(tmp_path) -> Path:
    """A dataset with one good labelled case, so that a run with a bad one goes on."""
    put(tmp_path / "images" / "good.nii", image(seed=99))
    put(tmp_path / "labels" / "good.nii", label(1, 2))
    return tmp_path


def test_a_good_case_is_referenced_in_place_with_its_facts(good):
    cases, record = ingest_folders(good)
    case = cases["good"]
    assert (case.image, case.label) == (f"{good}/images/good.nii", f"{good}/labels/good.nii")
    assert (case.shape, case.spacing, case.orientation) == (SHAPE, (1.0, 1.5, 3.0), "RAS")
    assert (case.subject, case.visit, case.modality, case.channels) == ("good", "", "MR", 1)
    content = (good / "images" / "good.nii").read_bytes()
    assert case.image_sha256 == hashlib.sha256(content).hexdigest()
    assert case.label_sha256 is not None
    assert record["good"]["status"] == "accepted"
    assert record["good"]["findings"] == []
    assert not (good / "out" / "volumes").exists()
    report = json.loads((good / "out" / "ingest.json").read_text())
    assert report["format"] == 1
    assert report["counts"] == {
        "accepted": 1, "labelled": 1, "quarantined": 0, "skipped": 0, "unlabelled": 0,
    }  # fmt: skip


def test_two_runs_give_the_same_bytes_whatever_the_processes(good):
    for k in range(3):
        put(good / "images" / f"c{k}.nii", image(seed=k))
    run("--settings", settings(good), "--out", good / "one")
    run("--settings", settings(good), "--out", good / "two", "--threads", "2")
    for name in ("cases.csv", "ingest.json"):
        assert (good / "one" / name).read_bytes() == (good / "two" / name).read_bytes()


def test_the_same_voxels_stored_twice_have_one_voxel_hash(good):
    put(good / "images" / "copy.nii", image(seed=99).astype(np.float64))
    cases, _ = ingest_folders(good)
    assert cases["copy"].voxel_sha256 == cases["good"].voxel_sha256
    assert cases["copy"].image_sha256 != cases["good"].image_sha256


def with_nan(array: np.ndarray) -> np.ndarray:
    array[2, 3, 1] = np.nan
    return array


def bad_affine(**entries: float) -> np.ndarray:
    affine = AFFINE.copy()
    for name, value in entries.items():
        affine[int(name[1]), int(name[2])] = value
    return affine


@pytest.mark.parametrize(
    ("array", "affine", "code", "told"),
    [
        (with_nan(image()), AFFINE, "not_finite", "1 of 120 voxels are NaN or inf"),
        (image() * np.inf, AFFINE, "not_finite", "120 of 120 voxels"),
        (np.full(SHAPE, 7, np.int16), AFFINE, "constant", "every voxel is 7"),
        (image()[:, :, 0], AFFINE, "not_3d", "6x5"),
        (image()[:, :, :1], AFFINE, "not_3d", "6x5x1"),
        (np.stack([image()] * 2, -1), AFFINE, "not_3d", "2 values per voxel"),
        (image().astype(np.complex64), AFFINE, "complex", "complex numbers"),
        (image(), bad_affine(a22=0.001), "implausible_spacing", "1 x 1.5 x 0.001 mm"),
        (image(), bad_affine(a00=25), "implausible_spacing", "25 x 1.5 x 3 mm"),
        (image(), bad_affine(a01=0.3), "affine_sheared", "not at right angles"),
        (image(), bad_affine(a11=0), "affine_singular", "no inverse"),
        (image(), bad_affine(a03=np.nan), "affine_not_finite", "NaN or inf"),
    ],
)
def test_an_image_that_cannot_be_used_is_quarantined_by_name(good, array, affine, code, told):
    file = nib.Nifti1Image(array, None)
    file.header.set_sform(affine, code=1)
    nib.save(file, good / "images" / "bad.nii")
    cases, record = ingest_folders(good)
    assert list(cases) == ["good"]
    assert record["bad"]["status"] == "quarantined"
    assert codes(record["bad"]) == [code]
    (finding,) = (f for f in record["bad"]["findings"] if f["severity"] == "error")
    assert told in finding["message"]
    assert "bad.nii" in finding["message"]
    assert finding["remedy"]


def test_a_trailing_axis_of_one_is_no_fourth_dimension(good):
    put(good / "images" / "good.nii", image()[..., None])
    cases, _ = ingest_folders(good)
    assert cases["good"].shape == SHAPE


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_intensities_of_any_scale_are_accepted(good, scale):
    put(good / "images" / "other.nii", image(scale))
    assert codes(ingest_folders(good)[1]["other"]) == []


def test_truncated_files_are_unreadable_and_the_others_go_on(good):
    content = put(good / "images" / "cut.nii", image()).read_bytes()
    (good / "images" / "cut.nii").write_bytes(content[:-50])
    packed = gzip.compress(content)
    (good / "images" / "cut_gz.nii.gz").write_bytes(packed[:-50])
    sources = [{"layout": "folders", "images": "images/{subject}.nii*"}]
    cases, record = ingest_folders(good, sources=sources)
    assert list(cases) == ["good"]
    assert {name: codes(r) for name, r in record.items()} == {
        "good": [],
        "cut": ["unreadable"],
        "cut_gz": ["unreadable"],
    }


@pytest.mark.parametrize(
    ("array", "affine", "code", "told"),
    [
        (label(1)[:-1], AFFINE, "shape_differs", "5x5x4 voxels, but the image"),
        (label(1), bad_affine(a03=0.2), "affine_differs", "up to 0.2 voxels away"),
        (label(1), bad_affine(a00=1.1), "affine_differs", "0.5 voxels away"),
        (label(1, 3, 7), AFFINE, "undeclared_label_values", "value 3, 7 is not declared"),
        (label(1) * 0.5, AFFINE, "non_integer_label", "the first is 0.5"),
        (image() * np.nan, AFFINE, "non_integer_label", "the first is nan"),
        (label(1)[:, :, 0], AFFINE, "not_3d", "6x5"),
        (np.stack([label(1)] * 2, -1), AFFINE, "not_3d", "2 values per voxel in a label map"),
        (label(1), bad_affine(a11=0), "affine_singular", "no inverse"),
    ],
)
def test_a_label_that_does_not_fit_is_quarantined_by_name(good, array, affine, code, told):
    put(good / "images" / "bad.nii", image())
    (good / "labels").mkdir(exist_ok=True)
    file = nib.Nifti1Image(array, None)
    file.header.set_sform(affine, code=1)
    nib.save(file, good / "labels" / "bad.nii")
    cases, record = ingest_folders(good)
    assert list(cases) == ["good"]
    assert codes(record["bad"]) == [code]
    (finding,) = (f for f in record["bad"]["findings"] if f["severity"] == "error")
    assert told in finding["message"]
    assert "labels/bad.nii" in finding["message"]


def test_undeclared_values_are_listed_beside_the_declared_ones(good):
    put(good / "images" / "bad.nii", image())
    put(good / "labels" / "bad.nii", label(1, 3))
    message = ingest_folders(good)[1]["bad"]["findings"][0]["message"]
    assert message.endswith("value 3 is not declared; declared are 0 background, 1 organ, 2 lesion")


def test_affines_that_differ_by_rounding_are_one_grid(good):
    put(good / "labels" / "good.nii", label(1), bad_affine(a03=0.01, a11=1.50001))
    assert codes(ingest_folders(good)[1]["good"], "error", "warning", "info") == []


def test_an_empty_label_is_accepted_with_a_warning(good):
    put(good / "labels" / "good.nii", label())
    cases, record = ingest_folders(good)
    assert cases["good"].label is not None
    assert codes(record["good"], "warning") == ["empty_label"]


def test_a_label_on_turned_axes_is_copied_onto_those_of_its_image(good):
    values = label(1, 2, 1)
    turned = reorient(Volume(values[None], AFFINE), "PIR")
    write_nifti(good / "labels" / "good.nii", turned)
    cases, record = ingest_folders(good)
    assert codes(record["good"], "info") == ["label_reoriented"]
    used = read_volume(cases["good"].label, labels=True)
    assert cases["good"].label == f"{good}/out/volumes/good.label.nii"
    np.testing.assert_array_equal(used.array[0], values)
    np.testing.assert_allclose(used.affine, AFFINE)


def test_an_image_without_a_label_joins_the_unlabelled_pool_unless_labels_are_required(good):
    put(good / "images" / "plain.nii", image())
    cases, record = ingest_folders(good)
    assert cases["plain"].label is None
    assert codes(record["plain"], "info") == ["unlabelled"]
    cases, record = ingest_folders(good, labels="required")
    assert list(cases) == ["good"]
    assert codes(record["plain"], "error") == ["unlabelled"]


def test_files_a_table_names_in_vain_are_findings(good):
    (good / "t.csv").write_text(
        "subject,image,label,site\n"
        "a,images/good.nii,labels/good.nii,Bern\nb,images/b.nii,,\nc,images/good.nii,labels/c.nii,\n"
    )
    cases, record = ingest_folders(good, sources=[{"layout": "csv", "path": "t.csv"}])
    assert [(c.case, c.extra) for c in cases.values()] == [("a", {"site": "Bern"})]
    assert codes(record["b"]) == ["missing_image_file"]
    assert codes(record["c"]) == ["missing_label_file"]


def test_affines_that_disagree_within_a_file_are_a_warning(good):
    file = nib.Nifti1Image(image(), AFFINE)
    file.header.set_qform(bad_affine(a03=2.0), code=1)
    file.header.set_sform(AFFINE, code=1)
    nib.save(file, good / "images" / "good.nii")
    odd = bytearray(nib.Nifti1Image(image(), AFFINE).to_bytes())
    odd[252:254] = np.array(1, "<i2").tobytes()  # qform_code
    odd[256:264] = np.array([0.9, 0.9], "<f4").tobytes()  # a quaternion longer than 1
    (good / "images" / "odd.nii").write_bytes(odd)
    unset = nib.Nifti1Image(image(), None)
    nib.save(unset, good / "images" / "unset.nii")
    cases, record = ingest_folders(good)
    assert set(cases) == {"good", "odd", "unset"}
    assert codes(record["good"], "warning") == ["sform_qform_differ"]
    assert "by up to 2 voxels" in record["good"]["findings"][0]["message"]
    assert codes(record["odd"], "warning") == ["sform_qform_differ"]
    assert "the qform is no rotation" in record["odd"]["findings"][0]["message"]
    assert codes(record["unset"], "warning") == ["no_orientation"]


def test_a_run_in_which_nothing_remains_fails_and_says_why(good, capsys):
    run("--settings", settings(good), "--out", good / "out")
    put(good / "images" / "good.nii", np.zeros(SHAPE, np.float32))
    with pytest.raises(MedclError, match=r"none of 1 inputs can be used: constant \(1\)"):
        run("--settings", settings(good), "--out", good / "out")
    assert "error: good: constant:" in capsys.readouterr().out
    assert codes(records(good / "out")["good"]) == ["constant"]
    assert not (good / "out" / "cases.csv").exists()


def test_what_is_said_of_many_cases_is_printed_once(good, capsys):
    for name in ("a", "b", "c", "d", "e"):
        put(good / "imagesTr" / f"{name}_0000.nii.gz", image(seed=ord(name)))
        put(good / "labelsTr" / f"{name}.nii.gz", label(1, 2))
    labels = {"background": 0, "liver": 1, "lesion": 2}
    content = {"channel_names": {"0": "T2"}, "file_ending": ".nii.gz", "labels": labels}
    (good / "dataset.json").write_text(json.dumps(content))
    ingest_folders(good, sources=[{"layout": "nnunet"}])
    said = capsys.readouterr().out
    assert said.count("class_differs") == 1
    assert "warning: a, b, c, d and 1 more: class_differs:" in said


def test_a_dataset_without_any_label_is_told_so(good, capsys):
    folders = {"layout": "folders", "images": "images/{subject}.nii"}
    ingest_folders(good, sources=[folders])
    assert "warning: no accepted case has a label" in capsys.readouterr().out
    ingest_folders(good)
    assert "no accepted case" not in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["folders", "files"])
def test_a_name_that_is_no_utf8_is_told_and_the_others_go_on(good, layout):
    odd = good / "images" / os.fsdecode(b"latin\xe9.nii")
    odd.write_bytes((good / "images" / "good.nii").read_bytes())
    changes = {"sources": [{"layout": "files", "path": "images"}]} if layout == "files" else {}
    cases, record = ingest_folders(good, **changes)
    assert list(cases) == ["good"]
    (told,) = [item for item in record.values() if item["status"] == "quarantined"]
    assert codes(told) == ["unusable_name"]
    assert r"latin\xe9.nii: no UTF-8" in told["findings"][0]["message"].replace("udce9", "xe9")


@pytest.mark.parametrize("layout", ["files", "dicom"])
def test_a_folder_that_may_not_be_looked_into_is_told(good, monkeypatch, layout):
    write_series(good / "images" / "open")
    (good / "images" / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    sources = [{"layout": layout, "path": "images"}]
    _, record = ingest_folders(good, modality="CT", sources=sources)
    assert codes(record["closed"]) == ["unreadable"]
    assert "images/closed: cannot be listed, Permission denied" in str(record["closed"])


def test_a_series_that_may_not_be_read_is_told(good, monkeypatch):
    write_series(good / "images" / "closed.nii")

    def closed(*_):
        raise PermissionError(13, "Permission denied", str(good / "images" / "closed.nii"))

    monkeypatch.setattr(header_pass, "read_series", closed)
    _, record = ingest_folders(good)
    assert codes(record["closed"]) == ["unreadable"]
    assert "closed.nii: cannot be read, Permission denied" in str(record["closed"])


def test_names_that_the_terminal_cannot_show_end_no_run(good):
    put(good / "images" / "ü.nii", np.zeros(SHAPE, np.float32))  # refused, and so printed
    words = ["ingest", "--settings", settings(good), "--out", str(good / "out")]
    ended = subprocess.run(
        [sys.executable, "-m", "medcl", *words],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert r"\xfc.nii: every voxel is 0" in ended.stdout


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(MedclError, match="absent: no such file or folder"):
        run("--source", tmp_path / "absent", "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedclError, match=r"no images in .*empty"):
        run("--source", tmp_path / "empty", "--out", tmp_path / "out")
    with pytest.raises(MedclError, match=r"sources\[0\]\.path: .*absent does not exist"):
        run("--settings", settings(tmp_path / "absent"), "--out", tmp_path / "out")


def test_labels_of_bids_that_a_guess_leaves_out_are_told(tmp_path, capsys):
    put(tmp_path / "sub-1/anat/sub-1_T1w.nii", image())
    (tmp_path / "dataset_description.json").write_text("{}")
    for name in ("dseg", "desc-aseg_dseg"):
        put(tmp_path / f"derivatives/fmriprep/sub-1/anat/sub-1_{name}.nii", label(1))
    run("--source", tmp_path, "--out", tmp_path / "out", "--modality", "MR")
    printed = capsys.readouterr().out
    assert "labels not used: fmriprep/dseg (*_T1w: one label for 0 images, several for" in printed
    assert "read as layout bids: images T1w\n" in printed


def test_a_folder_nobody_described_is_read_and_shown(good, capsys):
    put(good / "labels" / "good.nii", label(3, 200))
    run("--source", good, "--out", good / "out", "--modality", "CT")
    printed = capsys.readouterr().out
    assert "read as layout folders" in printed
    row = next(line for line in printed.splitlines() if line.startswith("good"))
    values = f"{image(seed=99).min():g}..{image(seed=99).max():g}"
    assert row.split() == ["good", "good", "CT", "6x5x4", "1x1.5x3", "RAS", values, "0", "3", "200"]
    assert codes(records(good / "out")["good"], "info") == ["label_values"]
    with pytest.raises(MedclError, match="--modality: goes with --source"):
        run("--settings", settings(good), "--out", good / "out", "--modality", "CT")


def test_nrrd_and_metaimage_are_referenced_in_place(tmp_path):
    for seed, name in enumerate(("a.nrrd", "b.mha")):
        sitk.WriteImage(sitk.GetImageFromArray(image(seed=seed)), tmp_path / name)
    run("--source", tmp_path, "--out", tmp_path / "out")
    cases = read_cases(tmp_path / "out" / "cases.csv")
    assert [(c.image, c.modality, c.orientation) for c in cases] == [
        (f"{tmp_path}/a.nrrd", "other", "LPS"),
        (f"{tmp_path}/b.mha", "other", "LPS"),
    ]


def test_an_oversight_in_one_case_stops_no_other(good, monkeypatch):
    put(good / "images" / "odd.nii", image())

    def fail_for_odd(read: Callable) -> Callable:
        def attempt(path: str, **more: object) -> object:
            if "odd" in path:
                raise ZeroDivisionError("unforeseen")
            return read(path, **more)

        return attempt

    for module, name in ((header_pass, "read_header"), (voxel_pass, "read_volume")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fail_for_odd(getattr(module, name)))
            cases, record = ingest_folders(good)
        assert list(cases) == ["good"]
        assert codes(record["odd"]) == ["failed"]


HIPPOCAMPUS = {
    "modality": "MR",
    "classes": {"anterior": 1, "posterior": 2},
    "sources": [
        {
            "layout": "folders",
            "path": path,
            "images": "images/{subject}.nii.gz",
            "labels": "labels/{subject}.nii.gz",
        }
        for path in ("msd_hippocampus", "msd_hippocampus_broken")
    ],
}


def test_the_hippocampus_cases_are_judged_one_by_one(tmp_path, data):
    run("--settings", settings(data, **HIPPOCAMPUS), "--out", tmp_path)
    report = json.loads((tmp_path / "ingest.json").read_text())
    assert report["counts"] == {
        "accepted": 151, "labelled": 150, "quarantined": 2, "skipped": 0, "unlabelled": 1,
    }  # fmt: skip
    record = records(tmp_path)
    assert codes(record["hippocampus_010"]) == ["label_without_image"]
    assert codes(record["hippocampus_281"]) == ["label_without_image"]
    assert record["hippocampus_118"]["status"] == "accepted"
    assert codes(record["hippocampus_118"], "error", "info") == ["unlabelled"]


def test_a_series_is_converted_once_and_the_same_each_time(tmp_path, data):
    arguments = ("--source", data / "sts_ibsi" / "dicom" / "STS_002" / "PET", "--out", tmp_path)
    run(*arguments)
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    converted = tmp_path / "volumes" / "image.nii"
    stamp = converted.stat().st_mtime_ns
    run(*arguments)
    again = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert again == written
    assert converted.stat().st_mtime_ns == stamp
    (case,) = read_cases(tmp_path / "cases.csv")
    assert (case.image, case.modality, case.subject) == (str(converted), "PET", "STS_002")
    assert "mask" not in records(tmp_path)  # its contours are the label of the series
    assert case.label == str(tmp_path / "volumes" / "image.label.nii")
    provenance = json.loads((tmp_path / "volumes" / "image.json").read_text())
    assert len(provenance["slices"]) == 48
    assert "STS_002" not in json.dumps(provenance)
    reference = read_volume(data / "sts_ibsi" / "nifti" / "STS_002" / "PET_image.nii.gz")
    mine = reorient(read_volume(case.image))
    np.testing.assert_allclose(mine.array, reorient(reference).array, rtol=1e-5)


def test_a_series_that_changed_is_converted_again(tmp_path, data):
    folder = shutil.copytree(data / "dicom_acceptance" / "seg_23x38x3" / "image", tmp_path / "s")
    run("--source", folder, "--out", tmp_path / "out")
    first = read_volume(tmp_path / "out" / "volumes" / "s.nii").array
    slices = sorted(folder.iterdir())
    pixels = bytearray(slices[1].read_bytes())
    pixels[-2:] = b"\x01\x02"
    slices[1].write_bytes(pixels)
    run("--source", folder, "--out", tmp_path / "out")
    second = read_volume(tmp_path / "out" / "volumes" / "s.nii").array
    assert (first != second).sum() == 1


def test_a_series_and_a_mask_of_another_program_make_a_labelled_case(tmp_path, data):
    source = {
        "layout": "folders",
        "path": "sts_ibsi",
        "images": "dicom/{subject}/CT/image",
        "labels": "nifti/{subject}/CT_mask.nii.gz",
    }
    text = settings(data, sources=[source], modality="CT")
    run("--settings", text, "--out", tmp_path)
    for case in read_cases(tmp_path / "cases.csv"):
        assert case.label is not None
        mask = read_volume(case.label, labels=True)
        assert mask.shape == case.shape
        reference = data / "sts_ibsi" / "nifti" / case.subject / "CT_mask.nii.gz"
        assert mask.array.sum() == read_volume(reference, labels=True).array.sum()


def test_a_series_of_another_modality_is_quarantined_unless_the_source_says_so(tmp_path, data):
    source = {"layout": "dicom", "path": "sts_ibsi/dicom/STS_002/PET"}
    with pytest.raises(MedclError, match=r"modality_differs \(1\)"):
        run("--settings", settings(data, sources=[source]), "--out", tmp_path)
    source["modality"] = "MR"
    run("--settings", settings(data, sources=[source]), "--out", tmp_path)
    assert [case.modality for case in read_cases(tmp_path / "cases.csv")] == ["MR"]


def test_a_tree_with_a_missing_slice_quarantines_that_series_only(tmp_path, data):
    for patient in ("STS_002", "STS_003"):
        source = data / "sts_ibsi" / "dicom" / patient / "PET" / "image"
        shutil.copytree(source, tmp_path / "raw" / patient)
    next(iter((tmp_path / "raw" / "STS_003").glob("*20.dcm"))).unlink()
    run("--source", tmp_path / "raw", "--out", tmp_path / "out")
    record = records(tmp_path / "out")
    assert codes(record["STS_003"]) == ["missing_slices"]
    assert record["STS_002"]["status"] == "accepted"


def test_hard_files_are_accepted_or_named(tmp_path, data):
    run("--source", data / "nifti_hard", "--out", tmp_path)
    record = records(tmp_path)
    assert codes(record["complex"]) == ["complex"]
    assert codes(record["shear"]) == ["affine_sheared"]
    assert codes(record["FLAIR"]) == ["duplicate_name"]  # stored as .nii.gz and as .nrrd
    assert sum(name.startswith("space24_") for name in record) == 24
    assert all(r["status"] == "accepted" for n, r in record.items() if n.startswith("space24_"))
