"""The stage writes audit.json first and splits.csv only when the audit lets it."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest

from medcl.data.cases import Case, write_cases
from medcl.data.splits import read_splits
from medcl.data.thumbnails import write_thumbnails
from medcl.errors import MedclError
from medcl.stages import split


@pytest.fixture
def cases() -> list[Case]:
    return [
        Case(
            case=f"c{i}",
            subject=f"p{i}",
            visit="",
            image=f"c{i}.nii",
            label=f"c{i}_label.nii" if i < 8 else None,
            modality="MR",
            channels=1,
            shape=(4, 4, 4),
            spacing=(1.0, 1.0, 1.0),
            orientation="RAS",
            image_sha256=f"i{i}",
            voxel_sha256=f"v{i}",
            label_sha256=f"l{i}" if i < 8 else None,
            source="files",
        )
        for i in range(10)
    ]


def run(folder, cases, *more: str) -> None:
    write_cases(folder / "cases.csv", cases)
    parser = argparse.ArgumentParser()
    split.add_arguments(parser)
    fixed = ["--cases", str(folder / "cases.csv"), "--out", str(folder / "split")]
    split.run(parser.parse_args([*fixed, *more]))


def test_the_stage_writes_the_table_and_a_clean_audit(tmp_path, cases, capsys):
    run(tmp_path, cases, "--settings", "{test: [p0, p1], validation: 2, seed: 4}")
    splits = read_splits(tmp_path / "split" / "splits.csv")
    audited = json.loads((tmp_path / "split" / "audit.json").read_text())
    assert splits.cases("test") == ["c0", "c1"]
    assert not audited["stopped"]
    assert not audited["unknown_subjects"]
    printed = capsys.readouterr().out
    assert "pool: 6 subjects, 4 of them labelled, 6 cases" in printed
    assert "splits.csv (32 orders)" in printed


def test_two_runs_write_the_same_bytes_whatever_the_order_of_the_cases(tmp_path, cases):
    settings = ("--settings", '{"test": 2, "validation": 2}')
    run(tmp_path, cases, *settings)
    first = [(tmp_path / "split" / f).read_bytes() for f in ("splits.csv", "audit.json")]
    run(tmp_path, cases[::-1], *settings)
    assert first == [(tmp_path / "split" / f).read_bytes() for f in ("splits.csv", "audit.json")]


def test_a_duplicate_across_roles_leaves_the_audit_and_no_table(tmp_path, cases):
    cases[5] = replace(cases[5], voxel_sha256="v0")
    with pytest.raises(MedclError, match="cases c0, c5 hold the same voxels"):
        run(tmp_path, cases, "--settings", "{test: [p0, p1], validation: [p2]}")
    audited = json.loads((tmp_path / "split" / "audit.json").read_text())
    assert audited["stopped"]
    assert not (tmp_path / "split" / "splits.csv").exists()


def test_a_subject_named_twice_is_audited_and_stopped(tmp_path, cases):
    with pytest.raises(MedclError, match=r"'p1'.*is in validation and test; name it for one role"):
        run(tmp_path, cases, "--settings", "{test: [p0, p1], validation: [p1, p2]}")
    audited = json.loads((tmp_path / "split" / "audit.json").read_text())
    assert audited["overlaps"][0]["cases"] == ["c1"]


def test_unknown_subjects_reach_the_audit(tmp_path, cases, capsys):
    settings = ("--settings", "{test: 2, validation: 2}")
    run(tmp_path, cases, *settings, "--subjects", "unknown")
    assert json.loads((tmp_path / "split" / "audit.json").read_text())["unknown_subjects"]
    assert "leakage cannot be excluded" in capsys.readouterr().out


def test_thumbnails_are_compared_and_must_be_of_these_cases(tmp_path, cases, capsys):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(-127, 127, (16, 16, 16)).astype(np.int8) for _ in cases]
    pictures[7] = pictures[0]
    names = [case.case for case in cases]
    file = tmp_path / "thumbnails.npy"
    write_thumbnails(file, zip(names, pictures, strict=True))
    more = ("--thumbnails", str(file), "--settings")
    with pytest.raises(MedclError, match="cases c0, c7 of subjects p0, p7 are nearly the same"):
        run(tmp_path, cases, *more, "{test: [p0], validation: [p1]}")
    waived = "{test: [p0], validation: [p1], waive: [near_duplicates]}"
    run(tmp_path, cases, *more, waived)
    assert "nearly the same image (pool and test, waived): c0, c7" in capsys.readouterr().out
    write_thumbnails(file, zip(names[1:], pictures[1:], strict=True))
    with pytest.raises(MedclError, match="holds no case 'c0'; run `medcl ingest` again"):
        run(tmp_path, cases, *more, waived)


def test_a_stop_removes_the_table_of_an_earlier_run(tmp_path, cases):
    settings = ("--settings", "{test: [p0], validation: [p1]}")
    run(tmp_path, cases, *settings)
    with pytest.raises(MedclError):
        run(tmp_path, [replace(c, voxel_sha256="same") for c in cases], *settings)
    assert not (tmp_path / "split" / "splits.csv").exists()
