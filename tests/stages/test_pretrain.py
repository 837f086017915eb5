"""Pretraining in phases: what each trains, what is logged, and a run that was killed between."""

import csv
import json
import re

import pytest
import torch
from stages.test_plan_and_preprocess import (
    ROLES,
    call,
    make_case,
    preprocess_words,
    run_plan,
    write_tables,
)

from medcl.config import load_study
from medcl.data.splits import read_splits
from medcl.data.store import Store, StoredVolume
from medcl.errors import MedclError
from medcl.segmentation.validation import Watch
from medcl.stages import preprocess, pretrain
from medcl.training import checkpoint, fit
from medcl.training.state import Run

GLOBAL = "objective: {name: global_contrast, form: gd-, partitions: 2, hidden: 8, width: 4}"
LOCAL = "{objective: {name: local_contrast, region: 1, width: 4}, steps: 2}"
ALONE = f"{{{GLOBAL}, steps: 3, batch: 1, weight_decay: 0.1}}"
BOTH = f"{{{GLOBAL}, steps: 3, batch: 1, weight_decay: 0.1, then: [{LOCAL}]}}"


@pytest.fixture
def study(tmp_path):
    cases = [make_case(tmp_path, number, labelled=number < 2) for number in range(6)]
    write_tables(tmp_path, cases, ROLES)
    run_plan(tmp_path)
    call(preprocess, *preprocess_words(tmp_path))
    return tmp_path


def run(study, settings, out="out"):
    words = ["--settings", settings, "--network", "{name: unet, width: 4}"]
    words += ["--store", study / "store/manifest.json", "--splits", study / "splits.csv"]
    words += ["--plan", study / "plan/plan.yaml", "--out", study / out]
    call(pretrain, *words, "--work", study / f"{out}-work")
    summary = json.loads((study / out / "summary.json").read_text())
    return checkpoint.load(study / out / "encoder.pt"), summary


def test_the_second_phase_starts_from_the_first_and_leaves_its_encoder_alone(study):
    alone, summary_alone = run(study, ALONE, "alone")
    both, summary = run(study, BOTH)
    first, second = alone["network_weights"], both["network_weights"]
    for name, weight in second.items():
        assert torch.equal(weight, first[name]) == (not name.startswith(("up.", "merge."))), name
    assert alone["trained"] == ["down."]
    assert both["trained"] == ["down.", "up.0.", "merge.0."]
    assert any(name.startswith("head.") for name in both["objective"])
    assert "project.1.weight" in both["before"][0]
    assert summary["steps"] == 5
    assert summary["then"][0]["objective"]["name"] == "local_contrast"
    first, second = summary["phases"]
    assert first["compared_with_chance"] == ["loss"]
    assert first["chance"] != second["chance"] == summary["chance"]
    assert second["compared"] == summary["compared"]
    told = summary["diagnosis"]
    assert all(words.startswith(("phase 1: ", "phase 2: ")) for words in told)
    assert {words[:7] for words in told} == {"phase 1", "phase 2"}
    (only,) = summary_alone["phases"]
    assert only["chance"] == summary_alone["chance"]
    assert not any(words.startswith("phase") for words in summary_alone["diagnosis"])


def test_the_log_goes_on_through_the_phases(study):
    run(study, BOTH)
    with open(study / "out" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == list("12345")
    assert [row["phase"] for row in rows] == ["", "", "", "2", "2"]
    assert float(rows[0]["positive_cosine"]) <= 1
    assert rows[0]["kept"] == ""
    assert 0 < float(rows[4]["kept"]) <= 1  # a term of the second phase alone


def test_a_run_killed_in_the_second_phase_ends_as_an_uninterrupted_one(study, monkeypatch):
    whole, _ = run(study, BOTH, "whole")
    real, calls = pretrain.fit, []

    def killed(*args, **keywords):
        calls.append(keywords["what"])
        if len(calls) == 2:
            raise SystemExit(143)
        return real(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "fit", killed)
        with pytest.raises(SystemExit):
            run(study, BOTH)
    resumed, summary = run(study, BOTH)
    assert summary["status"] == "ok"
    for name, weight in whole["network_weights"].items():
        assert torch.equal(weight, resumed["network_weights"][name]), name


def test_a_mistake_in_a_later_phase_is_told_before_the_first_is_run(study, monkeypatch):
    monkeypatch.setattr(pretrain, "fit", lambda *_, **__: pytest.fail("a phase was trained"))
    with pytest.raises(MedclError, match=r"local_contrast\.regoin"):
        run(study, BOTH.replace("region", "regoin"))


LATER = "{objective: {name: %s}, steps: 3, batch: 1, then: [{objective: {name: %s}, steps: 2}]}"


@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        ("mae", "sepclr", "sepclr: no pool case has 'cohort' in the table of cases"),
        ("mae", "lesion_patches, lesion: 7", "no voxel of class 7 in the labels of 2 pool cases"),
        ("mae", "dense, matcher: nearest, refresh_every: 2", "2 steps: .* would never search"),
        ("mae", "global_contrast, volumes: 9", "an item compares 9 cases, and the pool has 4"),
        ("global_contrast, volumes: 9", "mae", "an item compares 9 cases, and the pool has 4"),
        ("voco, grid: [1, 1, 999]", "mae", r"no pool case has a body of \(1, 1, 999\) voxels"),
    ],
)
def test_what_the_cases_lack_for_any_phase_fails_the_run_before_a_step_is_made(
    study, monkeypatch, first, then, reason
):
    monkeypatch.setattr(pretrain, "fit", lambda *_, **__: pytest.fail("a phase was trained"))
    content, summary = run(study, LATER % (first, then))
    assert summary["status"] == "failed"
    assert re.search(reason, summary["reason"])
    assert "network_weights" not in content


def test_a_case_too_small_for_the_grid_stops_no_other(study, capsys):
    file = study / "store/manifest.json"
    manifest = json.loads(file.read_text())
    pool = read_splits(study / "splits.csv").cases("pool")
    small = next(entry for entry in manifest["cases"] if entry["case"] in pool)
    small["body"] = [[0, 0, 0], [1, 4, 4]]
    file.write_text(json.dumps(manifest))
    _, summary = run(study, "{objective: {name: voco, width: 4}, steps: 2, batch: 1}")
    assert summary["status"] == "ok"
    assert summary["cases"] == len(pool) - 1
    assert (
        "voco: left out 1 pool cases without a body of (2, 2, 2) voxels" in capsys.readouterr().out
    )


def test_what_an_objective_remarks_is_kept_in_the_summary(study):
    dense = "{objective: {name: dense, points: 4, matcher: %s}, steps: 2, batch: 1}"
    _, summary = run(study, dense % "affine")
    assert "of 3 pool cases were registered to the reference" in summary["diagnosis"][0]
    _, summary = run(study, dense % "nearest", "nearest")
    assert "by plain position up to step 1" in summary["diagnosis"][0]


def test_reading_labels_is_limited_to_labelled_cases_and_said(study):
    settings = "{objective: {name: lesion_patches, hidden: 4, width: 4, prototypes: 4}, %s}"
    _, summary = run(study, settings % "steps: 2, batch: 1")
    assert summary["labels_read"] == 2
    assert "read the voxel labels of 2 pool cases" in summary["diagnosis"][0]
    _, other = run(study, ALONE, "alone")
    assert other["labels_read"] == 0


def test_a_wrong_option_of_a_phase_is_named_in_the_study(tmp_path):
    raw = {
        "study": "s",
        "dataset": {
            "name": "d",
            "sources": [{"layout": "files"}],
            "modality": "MR",
            "classes": {"organ": 1},
        },
        "labelled": [1],
        "arms": {
            "scratch": {},
            "a": {
                "pretrain": {
                    "objective": "global_contrast",
                    "steps": 1,
                    "then": [{"objective": {"name": "local_contrast", "formm": "ld"}, "steps": 1}],
                }
            },
        },
    }
    with pytest.raises(MedclError, match=r"a\.pretrain\.then\.0\.objective\.formm.*'form'"):
        load_study(raw)


def test_cases_without_what_an_objective_needs_are_left_out_and_told(study, capsys):
    _, summary = run(study, "{objective: sepclr, steps: 2}")
    assert summary["status"] == "failed"
    assert "sepclr: no pool case has 'cohort' in the table of cases" in summary["reason"]
    run(study, "{objective: {name: lesion_patches, hidden: 4, width: 4}, steps: 1, batch: 1}")
    assert "left out 2 pool cases without a voxel label" in capsys.readouterr().out


PROBED = f"{{{GLOBAL}, steps: 3, batch: 1, weight_decay: 0.1, probe_every: 2, probe: %s}}"


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_probes_write_their_dice_into_the_log_and_change_no_weight(study, capsys, kind):
    alone, _ = run(study, ALONE, "alone")
    probed, summary = run(study, PROBED % kind)
    for name, weight in alone["network_weights"].items():
        assert torch.equal(weight, probed["network_weights"][name]), name
    with open(study / "out" / "log.csv", newline="") as file:
        found = [row["probe_dice"] for row in csv.DictReader(file)]
    assert [bool(value) for value in found] == [False, True, True]
    assert all(0 <= float(value) <= 1 for value in found[1:])
    assert summary["probe"]["last"] == pytest.approx(float(found[2]), abs=1e-8)
    assert (summary["probe"]["fitted_to"], summary["probe"]["measured_on"]) == (1, 1)
    assert f"a {kind} probe of its feature maps had Dice" in summary["diagnosis"][-1]
    assert f"pretrain: step 2, {kind} probe: Dice" in capsys.readouterr().out


def run_killed(study, settings, monkeypatch, *, step):
    """Begin a pretraining and leave it at `step`, with its state of every second step."""
    real, calls = fit._backward, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(Run, "due", lambda run, seconds: run.step % 2 == 0)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_backward", killed)
        with pytest.raises(KeyboardInterrupt):
            run(study, settings)


def test_a_run_with_probes_that_was_killed_has_the_log_of_an_uninterrupted_one(
    study, capsys, monkeypatch
):
    settings = f"{(PROBED % 'knn')[:-1]}, then: [{LOCAL}]}}"
    whole, summary = run(study, settings, "whole")
    assert capsys.readouterr().out.count("step 0, knn probe") == 1  # not before each phase
    run_killed(study, settings, monkeypatch, step=5)
    resumed, again = run(study, settings)
    for name, weight in whole["network_weights"].items():
        assert torch.equal(weight, resumed["network_weights"][name]), name
    assert again["probe"] == summary["probe"]
    logs = []
    for folder in ("whole", "out"):
        with open(study / folder / "log.csv", newline="") as file:
            logs.append(
                [(row["step"], row["loss"], row["probe_dice"]) for row in csv.DictReader(file)]
            )
    assert logs[0] == logs[1]
    assert [bool(probe) for _, _, probe in logs[0]] == [False, True, True, False, True]


def test_all_probes_of_a_run_look_at_the_same_maps_and_the_best_is_that_of_all_phases(
    study, monkeypatch
):
    looked, dice = [], iter([0.1, 0.7, 0.6, 0.5])

    def seen(watch):
        looked.append(tuple(watch.parts))
        return next(dice)

    monkeypatch.setattr(Watch, "dice", seen)
    _, summary = run(study, f"{(PROBED % 'knn')[:-1]}, then: [{LOCAL}]}}")
    assert set(looked) == {("down.", "up.0.", "merge.0.")}
    probe = summary["probe"]
    assert (probe["before"], probe["best"], probe["best_step"], probe["last"]) == (0.1, 0.7, 2, 0.5)
    (said,) = [words for words in summary["diagnosis"] if "probe" in words]
    assert "Dice 10.0 before any step, 50.0 at the end and at best 70.0 (step 2)" in said


def test_a_run_that_goes_on_without_probes_says_nothing_of_those_before(study, monkeypatch):
    run_killed(study, PROBED % "knn", monkeypatch, step=3)
    _, summary = run(study, ALONE)
    assert summary["status"] == "ok"
    assert "probe" not in " ".join(summary["diagnosis"])


def test_probes_read_labels_of_pool_subjects_alone_and_fit_and_measure_on_different_ones(
    study, monkeypatch
):
    read, real = set(), StoredVolume.read_label

    def noted(volume, box):
        read.add(volume.case)
        return real(volume, box)

    monkeypatch.setattr(StoredVolume, "read_label", noted)
    run(study, PROBED % "linear")
    store, splits = Store(study / "store/manifest.json"), read_splits(study / "splits.csv")
    fitted, scored = pretrain.probed(store, splits)
    assert read == {volume.case for volume in [*fitted, *scored]}
    assert read <= set(splits.cases("pool"))
    assert not {v.subject for v in fitted} & {v.subject for v in scored}


def test_a_pool_without_labels_has_no_probes_and_is_pretrained_all_the_same(study):
    file = study / "store/manifest.json"
    manifest = json.loads(file.read_text())
    for entry in manifest["cases"]:
        entry["label"] = None
    file.write_text(json.dumps(manifest))
    _, summary = run(study, PROBED % "linear")
    assert summary["status"] == "ok"
    assert "no probe could be made: the pool has no two labelled subjects" in str(summary)
