"""Two passes: headers alone, then each case's voxels once, kept so that a killed run goes on."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_objects import write_rtstruct, write_series
from test_ingest import AFFINE, codes, image, label, put, records, run, settings
from test_ingest_labels import GTV, TREE

from medcl.data import header_pass, journal
from medcl.data.cases import read_cases
from medcl.data.thumbnails import read_thumbnails
from medcl.errors import MedclError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three good cases, one that its header speaks against, and one that its voxels do."""
    for k in range(3):
        put(tmp_path / "images" / f"c{k}.nii.gz", image(seed=k))
    put(tmp_path / "labels" / "c0.nii", label(1, 2))
    put(tmp_path / "images" / "far.nii.gz", image(seed=8), np.diag([30.0, 1, 1, 1]))
    put(tmp_path / "images" / "flat.nii.gz", np.full((6, 5, 4), 7, np.int16))
    return tmp_path


SOURCES = [{"layout": "folders", "images": "images/{subject}.nii.gz",
            "labels": "labels/{subject}.nii"}]  # fmt: skip


def ingest(root: Path, *more: str, **changes) -> dict[str, dict]:
    changes = {"sources": SOURCES} | changes
    run("--settings", settings(root, **changes), "--out", root / "out", *more)
    return records(root / "out")


def table(root: Path) -> dict[str, dict[str, str]]:
    with open(root / "out" / "checks.csv", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_each_file_is_decoded_once_and_none_that_its_header_speaks_against(dataset, decoded):
    record = ingest(dataset)
    assert decoded == {
        "c0.nii.gz": 1,
        "c1.nii.gz": 1,
        "c2.nii.gz": 1,
        "c0.nii": 1,
        "flat.nii.gz": 1,
    }
    assert codes(record["far"]) == ["implausible_spacing"]
    assert codes(record["flat"]) == ["constant"]


def test_a_series_is_decoded_once_and_not_read_back(tmp_path, decoded):
    write_series(tmp_path / "dicom" / "p1" / "ct")
    write_rtstruct(tmp_path / "dicom" / "p1" / "rs" / "RS.dcm", GTV)
    run("--settings", settings(tmp_path / "dicom", **TREE), "--out", tmp_path / "out")
    assert decoded == {"ct": 1}
    decoded.clear()
    run("--settings", settings(tmp_path / "dicom", **TREE), "--out", tmp_path / "out")
    assert decoded == {}
    (tmp_path / "out" / "volumes" / "p1_ct.label.nii").unlink()
    run("--settings", settings(tmp_path / "dicom", **TREE), "--out", tmp_path / "out")
    assert decoded == {"p1_ct.nii": 1}  # the converted volume stands; only the label is drawn
    assert (tmp_path / "out" / "volumes" / "p1_ct.label.nii").is_file()


def test_a_later_run_reads_only_what_is_new_or_has_changed(dataset, decoded, capsys):
    first = ingest(dataset)
    tables = {p.name: p.read_bytes() for p in (dataset / "out").iterdir() if p.is_file()}
    decoded.clear()
    capsys.readouterr()
    assert ingest(dataset) == first
    assert decoded == {}
    assert "voxels: 4 cases are unchanged" in capsys.readouterr().out
    assert tables == {p.name: p.read_bytes() for p in (dataset / "out").iterdir() if p.is_file()}
    put(dataset / "images" / "new.nii.gz", image(seed=20))
    put(dataset / "images" / "c1.nii.gz", image(seed=21))
    put(dataset / "labels" / "c2.nii", label(1))
    ingest(dataset)
    assert sorted(decoded) == ["c1.nii.gz", "c2.nii", "c2.nii.gz", "new.nii.gz"]


def test_other_rules_and_other_checks_are_new_work(dataset, decoded, monkeypatch):
    ingest(dataset)
    decoded.clear()
    ingest(dataset, modality="CT")
    assert len(decoded) == 5
    decoded.clear()
    monkeypatch.setattr(journal, "VERSION", journal.VERSION + 1)
    ingest(dataset, modality="CT")
    assert len(decoded) == 5


def test_a_result_that_was_cut_off_is_made_again(dataset, decoded):
    ingest(dataset)
    file = dataset / "out" / "state" / "voxels.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:2]) + "\n" + lines[2][:50])
    decoded.clear()
    ingest(dataset)
    assert 1 <= len([name for name in decoded if name.endswith(".gz")]) <= 2
    assert len(file.read_text().splitlines()) == 4


DIES = """
import os, sys
from medcl.cli import main
from medcl.data.journal import Journal
add, done = Journal.add, []
def dying(self, *result):
    add(self, *result)
    done.append(result)
    if len(done) == 2:
        os._exit(9)
Journal.add = dying
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_where_it_was(dataset, decoded, capsys):
    arguments = ["ingest", "--settings", settings(dataset, sources=SOURCES)]
    arguments += ["--out", str(dataset / "out")]
    ended = subprocess.run([sys.executable, "-c", DIES, *arguments], check=False)
    assert ended.returncode == 9
    assert not (dataset / "out" / "cases.csv").exists()
    ingest(dataset)
    printed = capsys.readouterr().out
    assert "voxels: 2 cases are unchanged" in printed
    assert "voxels: 2/2, " in printed
    assert "MB/s" in printed
    assert len(decoded) == 2
    run("--settings", arguments[2], "--out", dataset / "whole")
    for name in ("cases.csv", "ingest.json", "thumbnails.npy"):
        assert (dataset / "out" / name).read_bytes() == (dataset / "whole" / name).read_bytes()


def test_check_only_judges_headers_and_voxels_and_converts_nothing(tmp_path, capsys):
    write_series(tmp_path / "dicom" / "p1" / "ct")
    write_rtstruct(tmp_path / "dicom" / "p1" / "rs" / "RS.dcm", GTV)
    text = settings(tmp_path / "dicom", **TREE)
    run("--settings", text, "--out", tmp_path / "out", "--check-only")
    made = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert made == {"ingest.json", "checks.csv", "voxels.jsonl"}
    row = table(tmp_path)["p1_ct"]
    assert (row["status"], row["modality"], row["shape"]) == ("accepted", "CT", "8x6x4")
    assert row["spacing"] == "2x1x3"
    assert row["label values"] == "0 1"
    assert row["values"] == "-50..49"
    assert json.loads((tmp_path / "out" / "ingest.json").read_text())["checked"] == "all"
    assert "p1_ct" in capsys.readouterr().out
    run("--settings", text, "--out", tmp_path / "out")  # what was checked must still be converted
    (case,) = read_cases(tmp_path / "out" / "cases.csv")
    assert Path(case.image).is_file()
    assert case.label is not None
    assert Path(case.label).is_file()


def test_check_only_of_headers_reads_no_voxel(dataset, decoded):
    put(dataset / "labels" / "c1.nii", label(1)[:-1])
    record = ingest(dataset, "--check-only", "headers")
    assert decoded == {}
    assert {name: r["status"] for name, r in record.items()} == {
        "c0": "accepted", "c1": "quarantined", "c2": "accepted", "far": "quarantined",
        "flat": "accepted",
    }  # fmt: skip
    assert codes(record["c1"]) == ["shape_differs"]
    row = table(dataset)["c0"]
    assert (row["shape"], row["spacing"], row["axes"]) == ("6x5x4", "1x1.5x3", "RAS")
    assert table(dataset)["far"]["codes"] == "implausible_spacing"


def test_headers_of_many_entries_come_back_in_their_order(dataset, monkeypatch):
    one = ingest(dataset, "--check-only", "headers")

    def last_first(work, items, threads):
        return ((item, work(item)) for item in reversed(items))

    monkeypatch.setattr(header_pass, "CHUNK", 2)
    monkeypatch.setattr(header_pass, "in_processes", last_first)
    two = ingest(dataset, "--check-only", "headers")
    assert list(one) == list(two)
    assert one == two


def test_every_accepted_case_has_a_thumbnail(dataset):
    ingest(dataset)
    thumbnails = read_thumbnails(dataset / "out" / "thumbnails.npy")
    assert list(thumbnails) == ["c0", "c1", "c2"]
    assert all(picture.any() for picture in thumbnails.values())


def test_affines_of_a_label_that_disagree_are_told(dataset):
    import nibabel as nib

    file = nib.Nifti1Image(label(1, 2), AFFINE)
    file.header.set_qform(np.diag([1.0, 1.5, 5.0, 1.0]), code=1)
    file.header.set_sform(AFFINE, code=1)
    nib.save(file, dataset / "labels" / "c0.nii")
    record = ingest(dataset)
    assert codes(record["c0"], "warning") == ["sform_qform_differ"]
    assert "labels/c0.nii" in record["c0"]["findings"][0]["message"]


def test_values_that_cannot_be_of_the_modality_are_told(dataset):
    positive = np.random.default_rng(0).uniform(0, 4095, (6, 5, 4)).astype(np.float32)
    put(dataset / "images" / "c0.nii.gz", positive)
    record = ingest(dataset, modality="CT")
    assert "implausible_intensities" in codes(record["c0"], "warning")


def test_nothing_left_after_the_headers_fails(tmp_path):
    put(tmp_path / "images" / "far.nii.gz", image(), np.diag([30.0, 1, 1, 1]))
    sources = [{"layout": "folders", "images": "images/{subject}.nii.gz"}]
    with pytest.raises(MedclError, match=r"implausible_spacing \(1\)"):
        ingest(tmp_path, "--check-only", "headers", sources=sources)
