"""From tables to plan.yaml and the store: what may change them, and what must not."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medcl.data.cases import Case, read_cases, write_cases
from medcl.data.plan import read_plan
from medcl.data.splits import Row, Splits, write_splits
from medcl.data.store import Store
from medcl.data.volume import Volume, write_nifti
from medcl.errors import MedclError
from medcl.files import sha256_of_file, write_text
from medcl.stages import plan, preprocess

ROLES = ["pool", "pool", "pool", "validation", "test", "pool"]
SETTINGS = "{name: d, sources: [{layout: files}], modality: MR, classes: {organ: 1}%s}"


def make_case(folder: Path, number: int, *, labelled: bool = True) -> Case:
    """A bright body in air with an organ in it; every case another size and intensity."""
    rng = np.random.default_rng(number)
    shape = (18 + number % 3, 20, 16)
    grid = np.indices(shape) - np.array(shape)[:, None, None, None] / 2
    body = (grid**2).sum(axis=0) < 7**2
    organ = (grid**2).sum(axis=0) < 4**2
    array = (100 * body + 80 * organ) * (1 + number) + rng.random(shape)
    affine = np.diag([2.0, 2.0, 2.0 + number % 2, 1.0])
    image, label = folder / f"image{number}.nii", folder / f"label{number}.nii"
    write_nifti(image, Volume(array.astype(np.float32)[None], affine))
    write_nifti(label, Volume(organ.astype(np.uint8)[None], affine))
    return Case(
        case=f"c{number}",
        subject=f"p{number}",
        visit="",
        image=str(image),
        label=str(label) if labelled else None,
        modality="MR",
        channels=1,
        shape=shape,
        spacing=(2.0, 2.0, 2.0 + number % 2),
        orientation="RAS",
        image_sha256=sha256_of_file(image),
        voxel_sha256=f"v{number}",
        label_sha256=sha256_of_file(label) if labelled else None,
        source="files",
    )


def write_tables(folder: Path, cases: list[Case], roles: list[str]) -> None:
    write_cases(folder / "cases.csv", cases)
    rows = [
        Row(case.case, case.subject, role, (number,) * 32 if role != "test" else ())
        for number, (case, role) in enumerate(zip(cases, roles, strict=True))
    ]
    write_splits(folder / "splits.csv", Splits(tuple(rows)))


@pytest.fixture
def study(tmp_path) -> Path:
    cases = [make_case(tmp_path, number, labelled=number != 5) for number in range(6)]
    write_tables(tmp_path, cases, ROLES)
    return tmp_path


def call(stage, *words: object) -> None:
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)
    stage.run(parser.parse_args([str(word) for word in words]))


def run_plan(study: Path, extra: str = "", *more: object) -> bytes:
    tables = ("--cases", study / "cases.csv", "--splits", study / "splits.csv")
    call(plan, "--settings", SETTINGS % extra, *tables, "--out", study / "plan", *more)
    return (study / "plan/plan.yaml").read_bytes()


def preprocess_words(study: Path, threads: int = 1) -> list[str]:
    words: list[object] = ["--cases", study / "cases.csv", "--splits", study / "splits.csv"]
    words += ["--plan", study / "plan/plan.yaml", "--out", study / "store"]
    words += ["--work", study / "work", "--threads", threads]
    return [str(word) for word in words]


def content(study: Path) -> dict[str, bytes]:
    files = [path for name in ("store", "work") for path in (study / name).rglob("*")]
    return {str(path.relative_to(study)): path.read_bytes() for path in files}


def test_the_plan_of_a_small_study(study, capsys):
    run_plan(study)
    found = read_plan(study / "plan/plan.yaml")
    assert found.spacing == (2.0, 2.0, 2.5)
    assert found.fingerprint["cases"] == found.fingerprint["images_read"] == 4
    assert found.intensity.rule == "percentiles"
    printed = capsys.readouterr().out
    assert "from 4 of 4 pool images" in printed
    assert "given: nothing" in printed


def test_labels_and_test_and_validation_images_change_no_byte_of_the_plan(study):
    before = run_plan(study)
    noise = np.random.default_rng(0).normal(size=(1, 9, 9, 9)).astype(np.float32)
    for number, role in enumerate(ROLES):
        (study / f"label{number}.nii").unlink()
        if role != "pool":
            write_nifti(study / f"image{number}.nii", Volume(noise, np.eye(4)))
    assert run_plan(study) == before


def test_several_processes_make_the_same_plan(study):
    assert run_plan(study) == run_plan(study, "", "--threads", 2)


def test_pool_images_do_change_the_plan(study):
    before = run_plan(study)
    noise = np.random.default_rng(0).normal(size=(1, 9, 9, 9)).astype(np.float32)
    write_nifti(study / "image0.nii", Volume(noise, np.eye(4)))
    assert run_plan(study) != before


def test_an_unreadable_image_is_left_out_of_the_plan_by_name(study, capsys):
    (study / "image1.nii").write_bytes(b"nothing")
    run_plan(study)
    assert read_plan(study / "plan/plan.yaml").fingerprint["images_read"] == 3
    assert "left out c1: " in capsys.readouterr().out


def test_no_readable_image_is_an_error(study):
    for number in range(6):
        (study / f"image{number}.nii").unlink()
    with pytest.raises(MedclError, match="none of 4 pool images"):
        run_plan(study)


def test_many_images_are_sampled_evenly_and_the_plan_says_so(study, monkeypatch):
    monkeypatch.setattr(plan, "MOST_IMAGES", 2)
    run_plan(study)
    fingerprint = read_plan(study / "plan/plan.yaml").fingerprint
    assert (fingerprint["cases"], fingerprint["images_read"]) == (4, 2)


def test_a_given_crop_larger_than_the_bodies_is_kept_with_a_warning_in_numbers(study, capsys):
    run_plan(study, ", plan: {crop: [64, 16, 16]}")
    assert read_plan(study / "plan/plan.yaml").crop == (64, 16, 16)
    assert "warning: the given crop [64, 16, 16] is larger than the" in capsys.readouterr().out


def test_the_store_holds_pool_and_validation_cases_and_no_test_case(study, capsys):
    run_plan(study)
    call(preprocess, *preprocess_words(study))
    store = Store(study / "store/manifest.json")
    assert store.cases == ["c0", "c1", "c2", "c3", "c5"]
    volume = store["c3"]
    assert volume.spacing == (2.0, 2.0, 2.5)
    whole = ((0, 0, 0), volume.shape)
    assert 0 <= volume.read(whole).min() < volume.read(whole).max() <= 1
    organ_mm3 = volume.read_label(whole).sum() * 10.0
    assert organ_mm3 == pytest.approx(257 * 12, rel=0.1)  # 257 voxels of 2 x 2 x 3 mm
    assert not store["c5"].has_label
    assert not list((study / "store").glob("c4*"))
    printed = capsys.readouterr().out
    assert "5 cases to write, at most 0.1 MB" in printed
    assert "5/5" in printed


@pytest.mark.parametrize("threads", [1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, threads):
    cases = [make_case(tmp_path, number) for number in range(30)]
    write_tables(tmp_path, cases, ["pool"] * 30)
    run_plan(tmp_path)
    call(preprocess, *preprocess_words(tmp_path))
    expected = content(tmp_path)
    for name in ("store", "work"):
        shutil.rmtree(tmp_path / name)

    command = [sys.executable, "-m", "medcl", "preprocess", *preprocess_words(tmp_path, threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (done := list(tmp_path.glob("work/c*.json"))):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)  # until the last of its processes has closed the pipe
    survivors = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("work/c*.json")}
    assert 1 <= len(done) <= len(survivors) < 30
    assert not (tmp_path / "store/manifest.json").exists()
    (tmp_path / "store/.part-1-c9.image.npy").write_bytes(b"half")

    call(preprocess, *preprocess_words(tmp_path))
    assert content(tmp_path) == expected
    for name, when in survivors.items():
        assert (tmp_path / "work" / name).stat().st_mtime_ns == when, "was prepared again"


def test_only_what_changed_is_prepared_again(study, capsys):
    run_plan(study)
    call(preprocess, *preprocess_words(study))
    first = content(study)
    cases = read_cases(study / "cases.csv")
    write_cases(study / "cases.csv", [replace(cases[0], image_sha256="other"), *cases[1:]])
    (study / "store/c1.label.npy").unlink()
    capsys.readouterr()
    call(preprocess, *preprocess_words(study))
    printed = capsys.readouterr().out
    assert "3 of 5 cases are done already" in printed
    assert "2 cases to write" in printed
    again = content(study)
    assert {name for name in again if again[name] != first[name]} == {
        "store/manifest.json",
        "work/c0.json",
    }


def test_another_crop_prepares_nothing_again_and_another_spacing_everything(study, capsys):
    run_plan(study)
    call(preprocess, *preprocess_words(study))
    run_plan(study, ", plan: {crop: [16, 16, 8]}")
    capsys.readouterr()
    call(preprocess, *preprocess_words(study))
    assert "5 of 5 cases are done already" in capsys.readouterr().out
    run_plan(study, ", plan: {spacing: [3, 3, 3]}")
    call(preprocess, *preprocess_words(study))
    assert "done already" not in capsys.readouterr().out
    assert Store(study / "store/manifest.json")["c0"].spacing == (3.0, 3.0, 3.0)


def test_files_of_cases_no_longer_wanted_are_removed(study):
    run_plan(study)
    call(preprocess, *preprocess_words(study))
    cases = read_cases(study / "cases.csv")
    write_cases(study / "cases.csv", [replace(cases[0], label=None, label_sha256=None), *cases[2:]])
    call(preprocess, *preprocess_words(study))
    left = {path.name for path in (study / "store").iterdir()}
    assert "c0.image.npy" in left
    assert not left & {"c0.label.npy", "c1.image.npy", "c1.label.npy"}
    assert not (study / "work/c1.json").exists()
    assert Store(study / "store/manifest.json").cases == ["c0", "c2", "c3", "c5"]


def test_a_bad_case_is_left_out_by_name_and_tried_again(study, capsys):
    run_plan(study)
    good = (study / "label1.nii").read_bytes()
    shutil.copy(study / "label0.nii", study / "label1.nii")
    call(preprocess, *preprocess_words(study))
    store = Store(study / "store/manifest.json")
    assert store.cases == ["c0", "c2", "c3", "c5"]
    assert "label's grid" in store.failed["c1"]
    assert "left out c1: the label's grid" in capsys.readouterr().out
    (study / "label1.nii").write_bytes(good)
    call(preprocess, *preprocess_words(study))
    assert Store(study / "store/manifest.json").failed == {}


def test_if_nothing_remains_the_stage_fails(study):
    run_plan(study)
    for number in range(6):
        (study / f"image{number}.nii").unlink()
    with pytest.raises(MedclError, match="none of 5 cases could be prepared"):
        call(preprocess, *preprocess_words(study))
    assert not (study / "store/manifest.json").exists()


def test_labelled_voxels_outside_the_body_are_told(study, capsys):
    grid = np.indices((40, 40, 40)) - 20
    body = ((grid**2).sum(axis=0) < 7**2)[None]
    label = body.astype(np.uint8)
    label[0, 0, 0, :3] = 1
    write_nifti(study / "image0.nii", Volume(body.astype(np.float32), np.diag([2.0, 2, 2, 1])))
    write_nifti(study / "label0.nii", Volume(label, np.diag([2.0, 2, 2, 1])))
    run_plan(study)
    call(preprocess, *preprocess_words(study))
    assert "c0: 3 labelled voxels lie outside the body" in capsys.readouterr().out


def test_a_case_name_that_would_leave_the_store_is_refused(study):
    cases = read_cases(study / "cases.csv")
    write_tables(study, [replace(cases[0], case="../evil"), *cases[1:]], ROLES)
    run_plan(study)
    with pytest.raises(MedclError, match=r"'\.\./evil\.json' is outside"):
        call(preprocess, *preprocess_words(study))


def test_the_manifest_names_no_place_and_no_time(study):
    run_plan(study)
    call(preprocess, *preprocess_words(study))
    text = (study / "store/manifest.json").read_text()
    assert str(study) not in text
    write_text(study / "store/manifest.json", "")
    call(preprocess, *preprocess_words(study))
    assert (study / "store/manifest.json").read_text() == text


def test_the_hippocampus_images_are_planned_and_stored(data, tmp_path):
    images = sorted((data / "msd_hippocampus/images").glob("*.nii.gz"))[:8]
    template = make_case(tmp_path, 0)
    cases = [
        replace(
            template,
            case=path.name.removesuffix(".nii.gz"),
            subject=path.name,
            image=str(path),
            label=str(data / "msd_hippocampus/labels" / path.name),
        )
        for path in images
    ]
    write_tables(tmp_path, cases, ["pool"] * 8)
    run_plan(tmp_path)
    found = read_plan(tmp_path / "plan/plan.yaml")
    assert found.spacing == (1.0, 1.0, 1.0)
    assert found.crop == (32, 48, 32)
    assert len(found.strides) == 4
    call(preprocess, *preprocess_words(tmp_path))
    for volume in Store(tmp_path / "store/manifest.json"):
        whole = ((0, 0, 0), volume.shape)
        # Raw values differ a thousandfold between these images.
        assert 0.2 < volume.read(whole).mean() < 0.7
        assert volume.read_label(whole).max() == 1  # class 2 is none of this dataset's
