import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from torch import nn

from medcl import networks
from medcl.cli import main
from medcl.data.annotations import read_annotations
from medcl.data.cases import Case, write_cases
from medcl.data.dicom import read_series
from medcl.data.phantom_series import write_series
from medcl.data.splits import ORDERS, Row, Splits, write_splits
from medcl.data.structures import Naming
from medcl.data.volume import Volume, read_volume, write_nifti
from medcl.files import read_json
from medcl.segmentation import inference
from medcl.training import checkpoint

PLAN = {
    "format": 1,
    "dims": 3,
    "modality": "CT",
    "classes": {"dark": 3, "bright": 7},
    "orientation": "RAS",
    "channels": 1,
    "spacing": [1.2, 1.2, 2.0],
    "crop": [16, 16, 8],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "intensity": {"rule": "window", "low": -500.0, "high": 500.0},
    "body": {"rule": "threshold", "threshold": -500.0},
    "threads": 1,
    "given": [],
    "fingerprint": {"spacing_range": [[1.0, 1.0, 1.0], [1.5, 1.5, 8.0]]},
}


class Threshold(nn.Module):
    """Channel 1 where the input is below 0.275, channel 2 where it is above `high`, else 0."""

    def __init__(self, high=0.725):
        super().__init__()
        self.high = nn.Parameter(torch.tensor(high))

    def forward(self, x):
        background = torch.zeros_like(x)
        return torch.cat([background, 20 * (0.275 - x), 20 * (x - self.high)], dim=1)


@pytest.fixture(autouse=True)
def known_network(monkeypatch):
    monkeypatch.setattr(networks, "build", lambda options, **sizes: Threshold())


def write_model(path, *, last=0.725, selected=0.725, plan=PLAN, **changes):
    weights = {
        name: Threshold(high).state_dict()
        for name, high in {"last": last, "selected": selected}.items()
    }
    content = {
        "kind": "segmentation",
        "status": "ok",
        "reason": None,
        "plan": plan,
        "classes": plan["classes"],
        "network": {"name": "unet"},
        "weights": weights,
    }
    checkpoint.save(path, content | changes)
    return path


def oblique_affine():
    """LPI, 1 x 1.4 x 3 mm, turned by 20 and 10 degrees."""
    a, b = np.radians(20), np.radians(10)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag([-1.0, -1.4, -3.0])
    affine[:3, 3] = (31.0, -7.0, 112.0)
    return affine


def scan(affine=None):
    """An image and its true label map: a bright and a dark cube on grey, away from the middle."""
    labels = np.zeros((44, 36, 18), np.uint8)
    labels[4:20, 5:18, 3:9] = 7
    labels[26:40, 15:30, 8:14] = 3
    values = np.zeros(labels.shape, np.float32)
    values[labels == 7], values[labels == 3] = 450, -450
    affine = oblique_affine() if affine is None else affine
    return Volume(values[None], affine), labels


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def assert_in_place(path, image, labels):
    predicted = nib.load(path)
    assert predicted.get_data_dtype() == np.uint8
    np.testing.assert_allclose(predicted.affine, image.affine, atol=1e-5)
    found = np.asarray(predicted.dataobj)
    assert found.shape == labels.shape
    assert set(np.unique(found)) == {0, 3, 7}
    for value in (3, 7):
        assert dice(found == value, labels == value) > 0.95


def case(name, image):
    return Case(
        case=name,
        subject=name[:2],
        visit=name[2:],
        image=str(image),
        label=None,
        modality="CT",
        channels=1,
        shape=(44, 36, 18),
        spacing=(1.0, 1.4, 3.0),
        orientation="LPI",
        image_sha256="",
        voxel_sha256="",
        label_sha256=None,
        source="",
    )


@pytest.fixture
def study(tmp_path):
    """Two visits of a test subject and a pool subject; returns what predicts with a model."""
    image, _ = scan()
    roles = {"p1a": "test", "p1b": "test", "p2a": "pool"}
    for name in roles:
        write_nifti(tmp_path / f"{name}.nii.gz", image)
    write_cases(tmp_path / "cases.csv", [case(n, tmp_path / f"{n}.nii.gz") for n in roles])
    rows = [
        Row(n, n[:2], role, (0,) * ORDERS if role == "pool" else ()) for n, role in roles.items()
    ]
    write_splits(tmp_path / "splits.csv", Splits(tuple(rows)))

    def run(model):
        arguments = ["predict", "--model", str(model), "--cases", str(tmp_path / "cases.csv")]
        arguments += ["--splits", str(tmp_path / "splits.csv"), "--settings", "{overlap: 0.25}"]
        return main([*arguments, "--out", str(tmp_path / "predictions")])

    run.folder = tmp_path
    return run


def test_structures_of_an_oblique_lpi_scan_come_back_where_they_were(study):
    assert study(write_model(study.folder / "model.pt")) == 0
    image, labels = scan()
    for weights in ("last", "selected"):
        assert_in_place(study.folder / f"predictions/{weights}/p1a.nii.gz", image, labels)


def test_all_visits_of_the_test_subjects_and_nobody_else_are_predicted(study):
    assert study(write_model(study.folder / "model.pt")) == 0
    manifest = read_json(study.folder / "predictions/predictions.json")
    assert manifest["status"] == "ok"
    assert manifest["reason"] is None
    assert manifest["weights"] == ["last", "selected"]
    assert [(entry["case"], entry["subject"]) for entry in manifest["cases"]] == [
        ("p1a", "p1"),
        ("p1b", "p1"),
    ]
    for entry in manifest["cases"]:
        assert entry["seconds"] > 0
        for weights in ("last", "selected"):
            path = study.folder / "predictions" / weights / f"{entry['case']}.nii.gz"
            assert entry[weights] == str(path)
            assert path.is_file()
    assert not list((study.folder / "predictions").glob("*/p2a*"))


def test_each_kind_of_weights_predicts_for_itself(study):
    study(write_model(study.folder / "model.pt", selected=2.0))  # sees nothing bright
    for weights, values in (("last", {0, 3, 7}), ("selected", {0, 3})):
        volume = read_volume(study.folder / f"predictions/{weights}/p1a.nii.gz", labels=True)
        assert set(np.unique(volume.array)) == values


def test_equal_weights_are_run_once(study, monkeypatch):
    calls, slide = [], inference.predict_probabilities
    monkeypatch.setattr(
        inference, "predict_probabilities", lambda *a, **k: calls.append(k) or slide(*a, **k)
    )
    study(write_model(study.folder / "model.pt"))
    assert len(calls) == 2  # cases
    assert all(call["overlap"] == 0.25 for call in calls)
    study(write_model(study.folder / "model.pt", selected=0.8))
    assert len(calls) == 2 + 4


def test_a_failed_model_gives_a_manifest_that_says_so(study):
    reason = "loss is nan at step 3"
    model = write_model(study.folder / "model.pt", status="failed", reason=reason, weights={})
    assert study(model) == 0
    assert read_json(study.folder / "predictions/predictions.json") == {
        "status": "failed",
        "reason": "loss is nan at step 3",
        "weights": ["last", "selected"],
        "cases": [],
        "failed": {},
    }


def test_a_case_that_cannot_be_read_is_named_and_the_others_go_on(study, capsys):
    (study.folder / "p1a.nii.gz").write_bytes(b"nonsense")
    assert study(write_model(study.folder / "model.pt")) == 0
    manifest = read_json(study.folder / "predictions/predictions.json")
    assert [entry["case"] for entry in manifest["cases"]] == ["p1b"]
    assert "p1a.nii.gz" in manifest["failed"]["p1a"]
    assert "p1a.nii.gz" in capsys.readouterr().out


def test_no_predicted_case_at_all_is_an_error(study, capsys):
    model = write_model(study.folder / "model.pt")
    assert study(model) == 0
    for name in ("p1a", "p1b"):
        (study.folder / f"{name}.nii.gz").unlink()
    assert study(model) == 1
    assert "none of 2" in capsys.readouterr().err
    assert not (study.folder / "predictions/predictions.json").exists()


@pytest.fixture
def converted(tmp_path):
    """A test subject who came as a DICOM series; returns what predicts it, with settings."""
    image, _ = scan(np.diag([1.0, 1.4, 3.0, 1.0]))
    shifted = Volume(image.array + 500, image.affine)  # the series writer wants values above 0
    write_series(tmp_path / "raw" / "p1", shifted, "p1", np.random.default_rng(0))
    ingested = tmp_path / "ingest"
    assert main(["ingest", "--source", str(tmp_path / "raw"), "--out", str(ingested)]) == 0
    write_splits(tmp_path / "splits.csv", Splits((Row("p1", "p1", "test"),)))
    intensity = {"rule": "window", "low": 0.0, "high": 1000.0}
    mr = PLAN | {"modality": "MR", "intensity": intensity}
    model = write_model(tmp_path / "model.pt", plan=mr, selected=2.0)

    def run(settings, *more):
        arguments = ["predict", "--model", str(model), "--settings", settings, *more]
        arguments += ["--cases", str(ingested / "cases.csv")]
        arguments += ["--splits", str(tmp_path / "splits.csv"), "--out", str(tmp_path / "out")]
        return main(arguments)

    run.folder, run.findings = tmp_path, ("--findings", str(ingested / "ingest.json"))
    return run


def test_a_study_writes_objects_that_refer_to_the_series_where_asked(converted):
    assert converted("{dicom_seg: true}", *converted.findings) == 0
    series = read_series(converted.folder / "raw" / "p1")
    for weights in ("last", "selected"):
        made = converted.folder / "out" / weights
        label = read_volume(made / "p1.nii.gz", labels=True)
        naming = Naming(PLAN["classes"])
        back = read_annotations([str(made / "p1.seg.dcm")], label, naming, series)
        np.testing.assert_array_equal(back.label.array, label.array)
    entry = read_json(converted.folder / "out" / "predictions.json")["cases"][0]
    assert entry["last"].endswith("last/p1.nii.gz")


def test_a_study_writes_no_objects_unless_asked(converted, capsys):
    assert converted("{}", *converted.findings) == 0
    assert not list((converted.folder / "out").rglob("*.dcm"))
    assert converted("{dicom_seg: true}") == 1
    assert "needs ingest.json" in capsys.readouterr().err


def test_a_series_that_is_gone_costs_the_object_alone(converted, capsys):
    files = sorted((converted.folder / "raw" / "p1").iterdir())
    files[0].unlink()
    assert converted("{dicom_seg: true}", *converted.findings) == 0
    assert "no DICOM-SEG: p1: 1 of 18 slices are gone" in capsys.readouterr().out
    assert (converted.folder / "out" / "last" / "p1.nii.gz").is_file()
    assert not list((converted.folder / "out").rglob("*.dcm"))


@pytest.fixture
def new(tmp_path):
    """Predict new scans; the model is one of CT unless given."""

    def run(scans, *more, model=None):
        model = model or write_model(tmp_path / "model.pt")
        arguments = ["predict", "--model", str(model), "--input", str(scans)]
        return main([*arguments, "--output", str(tmp_path / "out"), *more])

    run.folder = tmp_path
    run.out = tmp_path / "out"
    return run


def test_a_new_scan_in_a_single_file_needs_nothing_but_the_model(new, capsys):
    image, labels = scan()
    write_nifti(new.folder / "anna.nii", image)
    assert new(new.folder / "anna.nii") == 0
    assert [path.name for path in new.out.iterdir()] == ["anna.nii.gz"]
    assert_in_place(new.out / "anna.nii.gz", image, labels)
    said = capsys.readouterr().out
    assert "anna" in said
    assert "44x36x18" in said


def test_a_new_dicom_series_comes_back_on_its_own_grid(new):
    image, labels = scan(np.diag([1.0, 1.4, 3.0, 1.0]))
    image = Volume(image.array + 500, image.affine)  # the series writer wants values above 0
    write_series(new.folder / "tree" / "anna", image, "anna", np.random.default_rng(0))
    intensity = {"rule": "window", "low": 0.0, "high": 1000.0}
    mr = PLAN | {"modality": "MR", "intensity": intensity}
    model = write_model(new.folder / "model.pt", plan=mr)
    assert new(new.folder / "tree", model=model) == 0
    series = nib.load(new.out / "anna.nii.gz")
    found = nib.as_closest_canonical(series)
    truth = nib.as_closest_canonical(nib.Nifti1Image(labels, image.affine))
    np.testing.assert_allclose(found.affine, truth.affine, atol=1e-4)
    for value in (3, 7):
        masks = [np.asarray(volume.dataobj) == value for volume in (found, truth)]
        assert dice(*masks) > 0.95
    scan_series = read_series(new.folder / "tree" / "anna")
    label = read_volume(new.out / "anna.nii.gz", labels=True)
    naming = Naming(PLAN["classes"])
    written = read_annotations([str(new.out / "anna.seg.dcm")], label, naming, scan_series)
    np.testing.assert_array_equal(written.label.array, label.array)
    assert [finding.code for finding in written.findings] == ["annotation_automatic"]


def test_each_series_of_one_folder_is_predicted(new):
    folder = new.folder / "tree"
    for name in ("anna", "berta"):
        write_series(new.folder / name, Volume(np.abs(scan()[0].array), np.eye(4)), name,
                     np.random.default_rng(0))  # fmt: skip
        folder.mkdir(exist_ok=True)
        for file in (new.folder / name).iterdir():
            file.rename(folder / f"{name}{file.name}")
    assert new(folder, "--force") == 0
    made = sorted(path.name for path in new.out.iterdir())
    assert len([name for name in made if name.endswith(".nii.gz")]) == 2
    named = set()
    for file in new.out.glob("*.seg.dcm"):
        named.add(pydicom.dcmread(file).PatientID)
    assert named == {"anna", "berta"}


def test_refused_scans_are_named_and_the_others_go_on(new, capsys):
    image, _ = scan()
    write_nifti(new.folder / "in" / "good.nii.gz", image)
    coarse = Volume(image.array, image.affine @ np.diag([4.5, 1, 1, 1]))
    write_nifti(new.folder / "in" / "coarse.nii.gz", coarse)
    write_nifti(
        new.folder / "in" / "twice.nii.gz", Volume(np.repeat(image.array, 2, 0), image.affine)
    )
    (new.folder / "in" / "broken.nii.gz").write_bytes(b"nonsense")
    assert new(new.folder / "in") == 0
    assert [path.name for path in new.out.iterdir()] == ["good.nii.gz"]
    refused = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("predict: refused"):
            refused[line.split()[2].rstrip(":")] = line
    assert set(refused) == {"coarse", "twice", "broken"}
    assert "4.5" in refused["coarse"]
    assert "--force" in refused["coarse"]
    assert "expected 1" in refused["twice"]


def test_a_spacing_of_the_training_images_is_accepted_however_far_from_the_plan(new):
    image, _ = scan(np.diag([1.0, 1.0, 8.0, 1.0]))  # the plan has 2 mm, and has seen 8 mm
    write_nifti(new.folder / "thick.nii.gz", image)
    assert new(new.folder / "thick.nii.gz") == 0
    write_nifti(new.folder / "thicker.nii.gz", Volume(image.array, np.diag([1.0, 1.0, 8.5, 1.0])))
    assert new(new.folder / "thicker.nii.gz") == 1


def test_the_spacing_is_compared_along_the_axes_of_the_patient(new):
    image, _ = scan(np.diag([1.0, 1.4, 5.0, 1.0]))
    turned = Volume(image.array.transpose(0, 3, 1, 2), image.affine[:, [2, 0, 1, 3]])
    write_nifti(new.folder / "turned.nii.gz", turned)
    assert new(new.folder / "turned.nii.gz") == 0  # 5 mm from head to foot, too much along x
    assert nib.load(new.out / "turned.nii.gz").shape == (18, 44, 36)


def test_nothing_predicted_is_an_error(new, capsys):
    (new.folder / "broken.nii.gz").write_bytes(b"nonsense")
    assert new(new.folder / "broken.nii.gz") == 1
    assert "none of 1" in capsys.readouterr().err


def test_another_modality_is_refused_unless_forced(new, capsys):
    image, _ = scan(np.diag([1.0, 1.4, 3.0, 1.0]))
    write_series(new.folder / "anna", Volume(image.array + 500, image.affine), "anna",
                 np.random.default_rng(0))  # fmt: skip
    assert new(new.folder / "anna") == 1  # the header says MR, the model is of CT
    assert "MR" in capsys.readouterr().out
    assert new(new.folder / "anna", "--force") == 0
    write_nifti(new.folder / "anna.nii", image)
    assert new(new.folder / "anna.nii", "--modality", "MR") == 1
    assert new(new.folder / "anna.nii", "--modality", "CT") == 0


def test_an_input_is_never_overwritten(new, capsys):
    image, _ = scan()
    write_nifti(new.out / "anna.nii.gz", image)
    before = (new.out / "anna.nii.gz").read_bytes()
    assert new(new.out) == 1
    assert (new.out / "anna.nii.gz").read_bytes() == before
    assert "--output" in capsys.readouterr().out


def test_the_weights_of_the_best_validation_can_be_asked_for(new):
    image, _ = scan()
    write_nifti(new.folder / "anna.nii", image)
    model = write_model(new.folder / "model.pt", selected=2.0)
    assert new(new.folder / "anna.nii", "--weights", "selected", model=model) == 0
    assert set(np.unique(read_volume(new.out / "anna.nii.gz").array)) == {0, 3}


def test_arguments_that_do_not_belong_together_are_refused(new, capsys):
    model = str(write_model(new.folder / "model.pt"))
    assert main(["predict", "--model", model]) == 1
    assert "--input" in capsys.readouterr().err
    assert main(["predict", "--model", model, "--input", model]) == 1
    assert "--output" in capsys.readouterr().err


def test_a_real_series_of_another_modality_is_refused(new, data, capsys):
    assert new(data / "sts_ibsi" / "dicom" / "STS_002" / "PET") == 1
    assert "PET" in capsys.readouterr().out
