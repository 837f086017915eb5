"""New scans become volumes as those a model was trained on did."""

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from make_dicom import save, series_of
from test_dicom import pet_of

from medcl.config import Dicom
from medcl.data.new_scans import Scan, list_scans, read_scan
from medcl.data.plan import Plan
from medcl.errors import MedclError

CONTENT = {
    "format": 1,
    "modality": "PET",
    "classes": {"lesion": 1},
    "channels": 1,
    "spacing": [0.5, 2.0, 3.0],
    "crop": [4, 4, 4],
    "strides": [[1, 1, 1]],
    "intensity": {"rule": "window", "low": 0.0, "high": 10.0},
    "body": {"threshold": None},
    "threads": 1,
    "given": [],
    "fingerprint": {},
}


def plan(modality: str = "PET", **dicom: object) -> Plan:
    return Plan.from_dict(CONTENT | {"modality": modality, "dicom": dicom})


def read(path: Path, trained: Plan) -> list[Scan]:
    entries = list_scans(path, trained)
    return [read_scan(entry, trained, modality=None, force=True) for entry in entries]


def test_a_model_of_uptake_is_given_uptake(tmp_path):
    (stored,) = read(save(tmp_path / "s", pet_of()), plan())
    (uptake,) = read(tmp_path / "s", plan(suv=True))
    assert stored.volume.array.max() == 25_000
    assert uptake.volume.array.max() == pytest.approx(25_000 * 60_000 / 1.5e8)


def test_a_series_a_table_names_is_read_as_those_of_a_tree(tmp_path):
    save(tmp_path / "s", pet_of())
    (tmp_path / "scans.csv").write_text("case,image\na,s\n")
    (uptake,) = read(tmp_path / "scans.csv", plan(suv=True))
    assert uptake.volume.array.max() == pytest.approx(25_000 * 60_000 / 1.5e8)


def test_a_series_whose_folder_may_not_be_listed_is_refused_by_name(tmp_path, monkeypatch):
    closed = save(tmp_path / "s", series_of(4))
    (tmp_path / "scans.csv").write_text("case,image\na,s\n")
    listing = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(MedclError, match=r"s: cannot be read, Permission denied; allow reading it"):
        read(tmp_path / "scans.csv", plan("CT"))


def test_a_series_without_what_uptake_needs_is_refused_by_name(tmp_path):
    save(tmp_path / "s", pet_of(PatientWeight=0))
    message = r"s/.*dcm: no SUV: PatientWeight is '0.0'.*trained on SUV; supply the series with its"
    with pytest.raises(MedclError, match=message):
        read(tmp_path / "s", plan(suv=True))
    assert len(read(tmp_path / "s", plan())) == 1


def test_a_file_that_does_not_say_its_unit_is_told(tmp_path):
    array = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    nib.save(nib.Nifti1Image(array, np.diag([0.5, 2.0, 3.0, 1])), tmp_path / "a.nii")
    (scan,) = read(tmp_path / "a.nii", plan(suv=True))
    assert [finding.code for finding in scan.told] == ["unit_unknown"]
    for other in (plan(), plan("MR", suv=True)):
        (scan,) = read(tmp_path / "a.nii", other)
        assert scan.told == []


def test_missing_slices_are_filled_where_those_of_the_training_were(tmp_path):
    slices = series_of(5)
    del slices[2]
    save(tmp_path / "s", slices)
    with pytest.raises(MedclError, match="slices are missing"):
        read(tmp_path / "s", plan("CT"))
    (scan,) = read(tmp_path / "s", plan("CT", allow_missing_slices=True))
    assert scan.volume.shape == (3, 2, 5)
    assert [finding.code for finding in scan.told] == ["slices_interpolated"]


def settings(root: Path, **dicom: object) -> Path:
    keys = {"name": "d", "root": str(root), "modality": "PET", "classes": {"lesion": 1}}
    keys |= {"sources": [{"layout": "dicom"}], "dicom": dicom}
    file = root / "scans.yaml"
    file.write_text(json.dumps(keys))
    return file


def test_a_yaml_adds_to_the_rules_of_the_model_and_cannot_change_the_unit(tmp_path):
    save(tmp_path / "s", pet_of())
    slices = pet_of(SeriesInstanceUID="1.2.4")[:2]
    save(tmp_path / "short", slices)
    uptake = plan(suv=True)
    whole, short = read(settings(tmp_path, fewest_slices=2), uptake)
    assert (whole.volume.shape[2], short.volume.shape[2]) == (3, 2)
    assert whole.volume.array.max() == pytest.approx(25_000 * 60_000 / 1.5e8)
    with pytest.raises(MedclError, match="2 slices"):
        read(settings(tmp_path), uptake)
    with pytest.raises(MedclError, match=r"dicom\.suv: false, the model was trained with true"):
        list_scans(settings(tmp_path, suv=False), uptake)


def test_what_is_kept_of_the_rules_comes_back_and_older_plans_have_the_defaults():
    kept = plan(suv=True, gantry_tilt="shear")
    assert Plan.from_dict(kept.to_dict()).dicom == Dicom(suv=True, gantry_tilt="shear")
    assert "keep_identifiers" not in kept.to_dict()["dicom"]
    assert Plan.from_dict(CONTENT).dicom == Dicom()


def test_files_of_a_yaml_have_its_modality(tmp_path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(4, 4, 4)), np.eye(4)),
             tmp_path / "a.nii")  # fmt: skip
    keys = {"name": "d", "root": str(tmp_path), "modality": "MR", "classes": {"lesion": 1}}
    file = tmp_path / "scans.yaml"
    file.write_text(json.dumps(keys | {"sources": [{"layout": "files"}]}))
    (entry,) = list_scans(file, plan("CT"))
    with pytest.raises(MedclError, match="MR"):
        read_scan(entry, plan("CT"), modality=None, force=False)
    (same,) = list_scans(file, plan("MR"))
    assert read_scan(same, plan("MR"), modality=None, force=True).modality == "MR"
