import csv
import subprocess
import sys

import numpy as np
import pytest

from medcl.cli import main
from medcl.data.cases import Case, write_cases
from medcl.data.volume import Volume, write_nifti
from medcl.files import write_json, write_yaml
from medcl.stages import evaluate

AFFINE = np.diag([-1.0, 2.0, 3.0, 1.0])
PLAN = {
    "format": 1,
    "dims": 3,
    "modality": "CT",
    "classes": {"liver": 2, "spleen": 5},
    "orientation": "RAS",
    "channels": 1,
    "spacing": [1.0, 2.0, 3.0],
    "crop": [8, 8, 8],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "intensity": {"rule": "window", "low": -100, "high": 200},
    "body": {"rule": "threshold", "threshold": -500.0},
    "threads": 1,
    "given": [],
    "fingerprint": {},
}


def write_labels(path, *, start=2, value=2, affine=AFFINE, shape=(12, 10, 8)):
    """A block of four voxels along each axis."""
    array = np.zeros(shape, np.uint8)
    array[start : start + 4, 2:6, 2:6] = value
    write_nifti(path, Volume(array[None], affine))
    return path


def case(name, label):
    return Case(
        case=name,
        subject=name[:2],
        visit="",
        image=f"{name}.nii.gz",
        label=label and str(label),
        modality="CT",
        channels=1,
        shape=(12, 10, 8),
        spacing=(1.0, 2.0, 3.0),
        orientation="LAS",
        image_sha256="",
        voxel_sha256="",
        label_sha256=None,
        source="",
    )


@pytest.fixture
def study(tmp_path):
    """Two test cases with references; returns what writes predictions.json and evaluates."""
    references = {name: write_labels(tmp_path / f"{name}-label.nii.gz") for name in ("p1a", "p2a")}
    cases = [case(name, label) for name, label in references.items()]
    write_cases(tmp_path / "cases.csv", [*cases, case("p3a", None)])
    write_yaml(tmp_path / "plan.yaml", PLAN)

    def run(files, **changes):
        """files: case -> weights -> path."""
        listed = [
            {"case": name, "subject": name[:2], "seconds": 0.1} | {w: str(f) for w, f in by.items()}
            for name, by in files.items()
        ]
        content = {"status": "ok", "reason": None, "weights": ["last", "selected"], "cases": listed}
        write_json(tmp_path / "predictions.json", content | changes)
        arguments = ["evaluate", "--predictions", str(tmp_path / "predictions.json")]
        arguments += [
            "--settings",
            "{nsd_tolerance_mm: 1.5}",
            "--plan",
            str(tmp_path / "plan.yaml"),
        ]
        return main(
            [*arguments, "--cases", str(tmp_path / "cases.csv"), "--out", str(tmp_path / "out")]
        )

    run.folder = tmp_path
    return run


def read_rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def value(rows, **wanted):
    (row,) = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return row["value"]


def test_every_case_weights_class_and_metric_has_its_row(study):
    same = write_labels(study.folder / "same.nii.gz")
    moved = write_labels(study.folder / "moved.nii.gz", start=3)
    files = {
        "p1a": {"last": moved, "selected": same},
        "p2a": {"last": same, "selected": same},
    }
    assert study(files) == 0
    rows = read_rows(study.folder / "out")
    assert list(rows[0]) == ["case", "subject", "weights", "class", "metric", "value", "note"]
    assert len(rows) == 2 * 2 * 2 * 7
    of_p1 = {"case": "p1a", "subject": "p1", "class": "liver"}
    assert float(value(rows, **of_p1, weights="last", metric="dice")) == pytest.approx(0.75)
    assert float(value(rows, **of_p1, weights="last", metric="hd95_mm")) == pytest.approx(1.0)
    assert float(value(rows, **of_p1, weights="last", metric="nsd")) == pytest.approx(1.0)
    assert float(value(rows, **of_p1, weights="selected", metric="dice")) == 1.0
    assert float(value(rows, **of_p1, weights="last", metric="reference_mm3")) == 64 * 6.0
    spleen = [row for row in rows if row["class"] == "spleen" and row["metric"] == "dice"]
    assert {(row["value"], row["note"]) for row in spleen} == {("", "both empty")}


def test_the_tolerance_of_the_settings_is_used(study):
    moved = write_labels(study.folder / "moved.nii.gz", start=4)
    assert study({"p1a": {"last": moved, "selected": moved}}) == 0
    nsd = value(read_rows(study.folder / "out"), weights="last", **{"class": "liver"}, metric="nsd")
    assert 0 < float(nsd) < 1  # two voxels of 1 mm away, tolerance 1.5 mm


def test_equal_label_maps_of_both_weights_are_measured_once(study, monkeypatch):
    same, moved = (write_labels(study.folder / f"{s}.nii.gz", start=s) for s in (2, 3))
    copy = write_labels(study.folder / "copy.nii.gz", start=2)
    calls, measure = [], evaluate.class_metrics
    monkeypatch.setattr(
        evaluate, "class_metrics", lambda *a, **k: calls.append(1) or measure(*a, **k)
    )
    files = {"p1a": {"last": same, "selected": copy}, "p2a": {"last": moved, "selected": same}}
    assert study(files) == 0
    assert len(calls) == 3
    rows = read_rows(study.folder / "out")
    for metric in ("dice", "hd95_mm"):
        of = {"case": "p1a", "class": "liver", "metric": metric}
        assert value(rows, **of, weights="last") == value(rows, **of, weights="selected") != ""


def test_a_failed_prediction_gives_a_table_with_only_its_header(study, capsys):
    assert study({}, status="failed", reason="loss is nan at step 3") == 0
    text = (study.folder / "out" / "metrics.csv").read_text()
    assert text == "case,subject,weights,class,metric,value,note\n"
    assert "loss is nan at step 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [{"affine": np.diag([1.0, 2.0, 3.0, 1.0])}, {"affine": AFFINE * 1.1}, {"shape": (12, 10, 9)}],
)
def test_a_prediction_on_another_grid_is_refused_by_name(study, capsys, change):
    other = write_labels(study.folder / "other.nii.gz", **change)
    same = write_labels(study.folder / "same.nii.gz")
    files = {"p1a": {"last": same, "selected": other}, "p2a": {"last": same, "selected": same}}
    assert study({"p1a": {"last": same, "selected": same}}) == 0
    assert study(files) == 1
    assert "other.nii.gz" in capsys.readouterr().err
    assert not (study.folder / "out" / "metrics.csv").exists()  # nor the table of the first run


def test_a_test_case_without_a_label_is_named_and_left_out(study, capsys):
    same = write_labels(study.folder / "same.nii.gz")
    files = {name: {"last": same, "selected": same} for name in ("p1a", "p3a")}
    assert study(files) == 0
    assert "p3a" in capsys.readouterr().out
    assert {row["case"] for row in read_rows(study.folder / "out")} == {"p1a"}


def test_nothing_to_measure_is_an_error(study, capsys):
    same = write_labels(study.folder / "same.nii.gz")
    assert study({"p3a": {"last": same, "selected": same}}) == 1
    assert "no case" in capsys.readouterr().err


def test_the_same_inputs_give_the_same_bytes(study):
    moved = write_labels(study.folder / "moved.nii.gz", start=3)
    tables = []
    for _ in range(2):
        study({"p1a": {"last": moved, "selected": moved}})
        tables.append((study.folder / "out" / "metrics.csv").read_bytes())
    assert tables[0] == tables[1]


def test_two_folders_are_matched_by_file_name(tmp_path, capsys):
    write_labels(tmp_path / "predicted" / "anna.nii.gz", start=3, value=2)
    write_labels(tmp_path / "predicted" / "otto.nii", value=2)
    write_labels(tmp_path / "references" / "anna.nii", value=2)
    write_labels(tmp_path / "references" / "carl.nii.gz", value=2)
    arguments = ["evaluate", "--predictions", str(tmp_path / "predicted")]
    arguments += ["--references", str(tmp_path / "references"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--classes", "liver=2,spleen=5"]) == 0
    said = capsys.readouterr().out
    assert "otto" in said  # no reference
    assert "carl" in said  # no prediction
    assert "spleen" in said  # in no reference
    rows = read_rows(tmp_path / "out")
    assert {row["case"] for row in rows} == {"anna"}
    assert float(value(rows, metric="dice", **{"class": "liver"})) == pytest.approx(0.75)


@pytest.mark.parametrize("classes", ["liver", "liver=x", "liver=0", "a=1,b=1", "", "a=1,a=2"])
def test_classes_that_cannot_be_read_are_refused_with_an_example(tmp_path, capsys, classes):
    arguments = ["evaluate", "--predictions", str(tmp_path), "--references", str(tmp_path)]
    assert main([*arguments, "--out", str(tmp_path), "--classes", classes]) == 1
    assert "liver=1,spleen=2" in capsys.readouterr().err


def test_missing_arguments_are_named(tmp_path, capsys):
    assert main(["evaluate", "--predictions", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "--references" in capsys.readouterr().err


def test_the_summary_gives_means_over_the_cases_where_a_metric_is_defined(study, capsys):
    same, moved = (write_labels(study.folder / f"{s}.nii.gz", start=s) for s in (2, 3))
    study({"p1a": {"last": same, "selected": same}, "p2a": {"last": moved, "selected": same}})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["last", "liver", "0.875"] in [line[:3] for line in lines]
    assert ["last", "spleen", "-"] in [line[:3] for line in lines]


def test_evaluating_needs_no_torch():
    code = "import sys, medcl.stages.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
