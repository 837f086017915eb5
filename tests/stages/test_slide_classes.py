"""Three classes, two encoders and two aggregators, from slides to report."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
from make_slide_study import Stages, draw

from medcl.files import read_json
from medcl.slides.tiles import read_tiles
from medcl.stages.slides_report import slide_page
from medcl.study.slides_results import pairs, read_slide_results
from medcl.study.statistics import holm

CLASSES = ["benign", "insitu", "invasive"]
STUDY = {
    "kind": "slides",
    "folds": {"count": 3},
    "seeds": 5,
    "encoder": {"name": "narrow", "width": 2, "levels": 2},
    "encoders": {
        "random": {},
        "contrast": {
            "pretrain": {"objective": "tile_contrast", "steps": 2, "batch": 4, "patients": "all"}
        },
    },
    "aggregators": {
        "abmil": {"name": "abmil", "width": 4, "attention": 4},
        "dsmil": {"name": "dsmil", "query": 4},
    },
    "mil": {"steps": 3, "batch": 3},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("three")
    tiles = {"microns_per_pixel": 2.0, "tile": 32, "least_tissue": 0.5}
    dataset = {"name": "three", "classes": CLASSES, "tiles": tiles}
    dataset["root"] = str(draw(root / "raw", CLASSES, 9))
    stages = Stages(root, {**STUDY, "dataset": dataset})
    stages.begin()
    stages.finish()
    return root


def patients(root: Path, encoder: str = "contrast", aggregator: str = "abmil") -> list[dict]:
    file = root / "evaluate" / encoder / aggregator / "patients.csv"
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_the_decision_of_three_classes_is_the_likeliest_without_a_threshold(done: Path) -> None:
    rows = patients(done)
    assert len(rows) == 5 * 9
    for row in rows:
        shares = [float(row[f"p_{name}"]) for name in CLASSES]
        assert sum(shares) == pytest.approx(1)
        assert row["decision"] == CLASSES[int(np.argmax(shares))]
        assert row["threshold"] == ""


def test_tiles_are_scored_for_the_last_class_where_a_method_tells_classes_apart(
    done: Path,
) -> None:
    with h5py.File(done / "mil/contrast/dsmil/f0/r0/scores.h5") as file:
        for name, scores in file.items():
            assert len(scores) == len(read_tiles(done / "tile" / f"{name}.h5"))
            assert np.isfinite(scores[:]).all()
    runs = read_json(done / "evaluate/contrast/dsmil/metrics.json")["runs"]
    assert sum(run["slides_with_truth"] for run in runs) == 5 * 3


def test_every_encoder_meets_the_control_and_every_aggregator_the_first(done: Path) -> None:
    results = read_slide_results(done / "config.resolved.yaml", done)
    found = pairs(results)
    assert [(p.first.name, p.second.name, p.by) for p in found] == [
        ("contrast, abmil", "random, abmil", "encoder"),
        ("contrast, dsmil", "random, dsmil", "encoder"),
        ("contrast, dsmil", "contrast, abmil", "aggregator"),
    ]
    assert [pair.primary for pair in found] == [True, False, False]
    first, others = found[0], found[1:]
    assert first.adjusted["auroc"] == first.differences["auroc"].p is not None
    expected = holm([pair.differences["auroc"].p for pair in others])
    assert [pair.adjusted["auroc"] for pair in others] == expected
    with open(done / "comparison.csv", newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if row["metric"] == "auroc"]
    written = [float(row["p_holm"]) for row in rows[1:]]
    assert written == pytest.approx(expected, rel=1e-5)


def test_the_page_tells_the_rule_of_decision_and_every_class(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert "the decision is the likeliest class, without a threshold" in page
    assert "each class against the rest" in page
    assert "validation patients choose" not in page
    assert "whose patients choose the threshold" not in page
    assert page.count("contrast − random") == 4  # in the figure and in the table
    for name in CLASSES:
        assert f">{name}</td>" in page


def test_a_slide_that_could_not_be_read_later_stands_among_those_that_failed(done: Path) -> None:
    assert "unreadable_later" not in (done / "report.html").read_text()
    results = read_slide_results(done / "config.resolved.yaml", done)
    results.unreadable["s3"] = "s3.svs: cannot be read as a slide: gone"
    page = slide_page(results)
    assert "unreadable_later" in page
    assert "Slides that are not part of the study: 2 of 10." in page
