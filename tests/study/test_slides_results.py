"""What a slide study reads of its folder: encoders of the study alone, patients that two share."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from medcl.study.slides_metrics import Predicted, measure
from medcl.study.slides_report import slide_page, write_comparison
from medcl.study.slides_results import SlideResults, pairs, read_slide_results
from medcl.study.statistics import holm

CLASSES = ["normal", "tumour"]
STUDY = {
    "kind": "slides",
    "study": "s",
    "dataset": {"name": "s", "classes": CLASSES},
    "folds": {"count": 3},
    "encoders": {
        "random": {},
        "mine": {"weights": "mine.pt"},
        "theirs": {"weights": "theirs.pt", "waive": ["test_slides"]},
    },
    "aggregators": {"mean": "mean"},
    "report": {"identifiers": "keep"},
}
PATIENTS = [f"p{n:02}" for n in range(18)]  # of both classes in turn, three folds of six
PLACES = {name: f"{name}/f0/s0" for name in STUDY["encoders"]}


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def predict(root: Path, encoder: str, strength: float, without: dict[int, list[str]]) -> None:
    """An evaluation of five seeds, in which the seed `n` lost the patients `without[n]`."""
    rng = np.random.default_rng(len(encoder))
    folder = root / "evaluate" / encoder / "mean"
    runs, rows = [], ["seed,fold,patient,label,decision,threshold,p_normal,p_tumour"]
    for seed in range(5):
        lost = without.get(seed, [])
        for number, patient in enumerate(PATIENTS):
            kind = number % 2
            p = float(np.clip(0.5 + strength * (kind - 0.5) + rng.normal(0, 0.2), 0, 1))
            if patient not in lost:
                rows.append(
                    f"{seed},{number // 6},{patient},{CLASSES[kind]},{CLASSES[p >= 0.5]},0.5,"
                    f"{1 - p:.6f},{p:.6f}"
                )
        for fold in range(3):
            mine = [patient for patient in lost if PATIENTS.index(patient) // 6 == fold]
            runs.append({"seed": seed, "fold": fold, "status": "ok", "lost": mine})
    write(folder / "metrics.json", {"runs": runs})
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three encoders, of which `mine` lost p03 in one seed and p04 in all."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    predict(tmp_path, "random", 0.1, {})
    predict(tmp_path, "mine", 0.6, {n: ["p04", "p03"][: 1 + (n == 2)] for n in range(5)})
    predict(tmp_path, "theirs", 0.4, {})
    for place in PLACES.values():
        write(tmp_path / "pretrain" / place / "summary.json", {"status": "ok", "steps": 0})
    listed = [
        {"case": f"s{n}", "subject": p, "label": CLASSES[n % 2], "findings": []}
        for n, p in enumerate([*PATIENTS, "p18"])
    ]
    write(tmp_path / "ingest/ingest.json", {"slides": listed})
    write(tmp_path / "split/audit.json", {"lost": {"p18": "tumour"}})
    return tmp_path


def read(root: Path) -> SlideResults:
    return read_slide_results(root / "study.yaml", root)


def test_models_that_lost_other_patients_are_compared_on_those_both_predicted(root: Path) -> None:
    found = read(root)
    primary, other = pairs(found)
    assert (primary.first.name, primary.second.name) == ("mine, mean", "random, mean")
    assert [len(model.patients) for model in found.models] == [18, 16, 18]
    assert len(primary.first.seeds) == 5  # the seed that lost one more is one of them
    assert (primary.apart, other.apart) == (2, 0)
    estimate = primary.differences["auroc"]
    assert estimate.reason is None
    assert (estimate.replicates, estimate.subjects) == (5, 16)
    kept = np.array([p not in ("p03", "p04") for p in PATIENTS])
    control = [measure("auroc", one.rows(kept)) for one in found.models[0].seeds.values()]
    own = [measure("auroc", one) for one in found.models[1].seeds.values()]
    assert primary.means["auroc"] == pytest.approx((np.mean(own), np.mean(control)))
    assert estimate.mean == pytest.approx(np.mean(own) - np.mean(control))
    page = slide_page(found)
    assert "16 patients (without 2 that only one of them predicted)" in page
    assert "up to 2 patients are left out whom only one of the two models predicted" in page


def test_models_without_a_common_patient_are_not_compared_and_the_reason_is_true(
    root: Path,
) -> None:
    first, second = PATIENTS[::2], PATIENTS[1::2]
    predict(root, "mine", 0.6, dict.fromkeys(range(5), first))
    predict(root, "random", 0.1, dict.fromkeys(range(5), second))
    reason = pairs(read(root))[0].differences["auroc"].reason
    assert reason == "no patient was predicted by both"


def test_the_primary_comparison_is_of_the_auroc_and_other_metrics_are_corrected(
    root: Path,
) -> None:
    found = pairs(read(root))
    write_comparison(root / "comparison.csv", found)
    with open(root / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    primary = [(row["encoder"], row["metric"]) for row in rows if row["primary"] == "yes"]
    assert primary == [("mine", "auroc")]
    assert found[0].adjusted["auroc"] == found[0].differences["auroc"].p
    assert [pair.family["auroc"] for pair in found] == [1, 1]
    for name in ("auprc", "balanced_accuracy", "macro_f1"):
        expected = holm([pair.differences[name].p for pair in found])
        assert [pair.adjusted[name] for pair in found] == expected
        assert [pair.family[name] for pair in found] == [2, 2]


def embedded(root: Path, place: str, unreadable: list[str]) -> None:
    slides = {
        f"s{n}": {"status": "unreadable", "reason": f"s{n}.svs: gone"}
        if f"s{n}" in unreadable
        else {"status": "ok", "made_from": "x"}
        for n in range(3)
    }
    write(root / "embed" / place / "embed.json", {"status": "ok", "slides": slides})


def test_encoders_of_earlier_configurations_are_not_read(root: Path) -> None:
    for place in ("old/f0/s0", "random/f1/s0", "random/f0/s1"):
        embedded(root, place, ["s1"])
        write(root / "pretrain" / place / "summary.json", {"status": "failed", "reason": "old"})
    embedded(root, "random/f0/s0", [])
    found = read(root)
    assert (found.unreadable, found.unread_by) == ({}, {})
    assert list(found.pretrainings) == list(PLACES.values())


def test_a_slide_that_one_of_several_encoders_lost_is_part_of_the_study(root: Path) -> None:
    embedded(root, PLACES["random"], ["s1"])
    embedded(root, PLACES["mine"], ["s1", "s2"])
    embedded(root, PLACES["theirs"], ["s1"])
    write(
        root / "pretrain" / PLACES["theirs"] / "summary.json", {"status": "failed", "reason": "x"}
    )
    found = read(root)
    assert found.unreadable == {"s1": "s1.svs: gone"}
    assert found.unread_by == {"s2": {PLACES["mine"]: "s2.svs: gone"}}
    page = slide_page(found)
    assert "Slides that are not part of the study: 2 of 19." in page  # s1, and p18's
    assert "left out by mine/f0/s0: s2.svs: gone" in page


def test_patients_whose_class_is_lost_are_listed_and_counted(root: Path) -> None:
    found = read(root)
    assert found.lost() == {"p03": ["mine, mean"], "p04": ["mine, mean"], "p18": ["all"]}
    page = slide_page(found)
    assert "every slide of their class is lost: 3 of 19." in page
    assert "patient_left_out" in page


def test_weights_that_saw_test_patients_or_do_not_say_come_first(root: Path) -> None:
    summary = {"status": "ok", "steps": 0, "test_slides": ["s1", "s2"]}
    write(root / "pretrain" / PLACES["theirs"] / "summary.json", summary)
    page = slide_page(read(root))
    unknown = page.index("mine: on which slides the given weights were pretrained is not known")
    waived = page.index("theirs: its weights were pretrained on 2 slides of test patients")
    assert "s1, s2." in page
    assert max(unknown, waived) < page.index("mine, mean compared with random, mean")
    write(root / "pretrain" / PLACES["mine"] / "summary.json", summary | {"test_slides": []})
    assert "mine: on which" not in slide_page(read(root))


def test_a_table_of_some_patients_is_that_of_a_study_without_the_others(root: Path) -> None:
    model = read(root).models[0]
    rows = np.array([0, 1, 2, 3, 8, 9, 14, 15])
    chosen = [PATIENTS[row] for row in rows]
    table = model.of([4], chosen)["macro_f1"]
    only: Predicted = model.seeds[4].rows(rows)
    assert table.shape == (1, 8)
    assert table.mean() == pytest.approx(measure("macro_f1", only))
