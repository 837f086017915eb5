"""A slide study from slides to report on six small slides, stage by stage in one process."""

import argparse
import csv
import importlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from medcl.config import load_slide_study
from medcl.errors import MedclError
from medcl.files import read_json, write_yaml
from medcl.slides.examine import write_png
from medcl.slides.phantom import write_svs
from medcl.slides.table import read_folds
from medcl.stages import embed
from medcl.study.slides_results import logistic, read_slide_results

CLASSES = ["normal", "tumour"]
TILES = {"microns_per_pixel": 1.0, "tile": 32, "least_tissue": 0.5}
ENCODER = {"name": "narrow", "width": 2, "levels": 2}
PRETRAIN = {
    "pretrain": {"objective": "tile_contrast", "steps": 2, "batch": 4, "save_every_s": 0.001}
}
STUDY = {
    "kind": "slides",
    "study": "six",
    "dataset": {"name": "six", "classes": CLASSES, "truth": 1, "tiles": TILES},
    "folds": {"count": 3},
    "seeds": 1,
    "encoder": ENCODER,
    "encoders": {"random": {}, "mine": PRETRAIN},
    "aggregators": {"mean": {"name": "mean", "width": None}},
}


def stage(name: str, *arguments: object) -> None:
    """Run one stage as the command line would."""
    module = importlib.import_module(f"medcl.stages.{name}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args([str(word) for word in arguments]))


def draw(folder: Path) -> Path:
    """Six slides of six patients, the positive ones with stripes; one that cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(6):
        image = np.full((512, 512, 3), 245, np.uint8)
        image[64:448, 64:448] = (200, 120, 180)
        coarse = rng.integers(0, 50, (24, 24, 1), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        image[64:448, 64:448] -= coarse
        if number % 2:
            image[128:256:4, 128:256] = (90, 60, 120)
            truth = np.zeros((64, 64), np.uint8)
            truth[16:32, 16:32] = 1
            write_png(folder / f"t{number}.png", truth)
        write_svs(folder / f"s{number}.svs", image, 20, 0.5)
        truth_file = f"t{number}.png" if number % 2 else ""
        rows.append([f"s{number}", f"s{number}.svs", f"p{number}", CLASSES[number % 2], truth_file])
    (folder / "bad.svs").write_bytes(b"no slide")
    rows.append(["bad", "bad.svs", "p9", "normal", ""])
    with open(folder / "slides.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "path", "patient", "label", "truth"])
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides examined, dealt to folds and tiled."""
    root = tmp_path_factory.mktemp("six")
    dataset = STUDY["dataset"] | {"root": str(draw(root / "raw"))}
    stage("slides_ingest", "--settings", yaml.safe_dump(dataset), "--out", root / "ingest")
    stage(
        "slides_split", "--settings", "{count: 3}", "--classes", *CLASSES,
        "--slides", root / "ingest/slides.csv", "--findings", root / "ingest/ingest.json",
        "--out", root / "split",
    )  # fmt: skip
    slides = root / "ingest/slides.csv"
    settings = json.dumps(TILES)
    stage("tile", "--settings", settings, "--slides", slides, "--out", root / "tile")
    return root


def encode(root: Path, name: str, fold: int) -> Path:
    """Train (or draw) an encoder and embed all tiles; the folder of the features."""
    place = root / "pretrain" / name / f"f{fold}" / "s0"
    common = ["--folds", root / "split/folds.csv", "--tiles", root / "tile/tiles.json"]
    stage(
        "slides_pretrain", "--settings", json.dumps(STUDY["encoders"][name]),
        "--network", json.dumps(ENCODER), "--fold", fold, "--out", place,
        "--work", root / "state" / name / str(fold), *common,
    )  # fmt: skip
    out = root / "embed" / name / f"f{fold}" / "s0"
    stage("embed", "--encoder", place / "encoder.pt", "--out", out, *common)
    return out


def aggregate(root: Path, name: str, fold: int, embedded: Path) -> Path:
    out = root / "mil" / name / "mean" / f"f{fold}" / "r0"
    stage(
        "mil", "--settings", "{steps: 3, batch: 2}", "--aggregator", "{name: mean, width: null}",
        "--classes", *CLASSES, "--embedded", embedded / "embed.json",
        "--folds", root / "split/folds.csv", "--fold", fold, "--out", out,
        "--work", root / "state" / "mil" / name / str(fold),
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def done(begun: Path) -> Path:
    """The whole study, to its report."""
    root = begun
    common = ["--folds", root / "split/folds.csv", "--tiles", root / "tile/tiles.json"]
    common += ["--examined", root / "ingest/slides"]
    for name in STUDY["encoders"]:
        features = {0: encode(root, name, 0)}
        runs = []
        for fold in range(3):
            if name == "mine" and fold:
                features[fold] = encode(root, name, fold)
            runs.append(aggregate(root, name, fold, features.get(fold, features[0])))
        out = root / "evaluate" / name / "mean"
        stage(
            "slides_evaluate", "--runs", *runs, "--classes", *CLASSES, "--truth", 1,
            "--out", out, *common,
        )  # fmt: skip
        if name == "mine":
            for fold, folder in enumerate(runs):
                place = root / "heatmap" / name / "mean" / f"f{fold}"
                stage("heatmap", "--scores", folder / "scores.h5", "--out", place, *common)
    study = load_slide_study(STUDY).model_dump(mode="json")
    write_yaml(root / "config.resolved.yaml", study)
    stage("slides_report", "--study", root / "config.resolved.yaml", "--out", root)
    return root


def test_one_bad_slide_stops_nothing_and_is_named(begun: Path) -> None:
    listed = {item["case"]: item for item in read_json(begun / "ingest/ingest.json")["slides"]}
    assert [listed[f"s{n}"]["status"] for n in range(6)] == ["ok"] * 6
    assert listed["bad"]["status"] == "unreadable"
    assert listed["bad"]["findings"][0]["remedy"]
    assert (begun / "ingest/slides/bad/qc.json").exists()
    assert {one.slide for one in read_folds(begun / "split/folds.csv").slides} == set(listed) - {
        "bad"
    }


def test_a_study_without_a_usable_slide_fails(tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    (tmp_path / "slides.csv").write_text("slide,path,patient,label\nbad,bad.svs,p,normal\n")
    dataset = {"name": "x", "classes": CLASSES, "root": str(tmp_path)}
    with pytest.raises(MedclError, match="none of 1 slides is usable"):
        stage("slides_ingest", "--settings", yaml.safe_dump(dataset), "--out", tmp_path / "out")


def test_the_same_file_under_two_patients_is_leakage(begun: Path, tmp_path: Path) -> None:
    findings = read_json(begun / "ingest/ingest.json")
    fold = read_folds(begun / "split/folds.csv").fold
    other = next(name for name in fold if fold[name] != fold["s0"])
    for item in findings["slides"]:
        if item["case"] == other:
            item["sha256"] = next(i["sha256"] for i in findings["slides"] if i["case"] == "s0")
    (tmp_path / "ingest.json").write_text(json.dumps(findings))
    with pytest.raises(MedclError, match="leakage: the same file is slide"):
        stage(
            "slides_split", "--settings", "{count: 3}", "--classes", *CLASSES,
            "--slides", begun / "ingest/slides.csv", "--findings", tmp_path / "ingest.json",
            "--out", tmp_path / "split",
        )  # fmt: skip
    assert not (tmp_path / "split/folds.csv").exists()


def test_tiles_and_their_mean_colour_are_listed(begun: Path) -> None:
    listed = read_json(begun / "tile/tiles.json")["slides"]
    assert all(item["status"] == "ok" and item["tiles"] > 0 for item in listed.values())
    red, green, blue = listed["s0"]["colour"]
    assert red > blue > green


def test_pretraining_reads_training_patients_alone(done: Path) -> None:
    dealt = read_folds(done / "split/folds.csv")
    for fold in range(3):
        summary = read_json(done / "pretrain/mine" / f"f{fold}" / "s0/summary.json")
        assert summary["slides"] == len(dealt.of("training", fold)) == 2


def test_every_patient_is_tested_once_with_a_threshold_of_validation(done: Path) -> None:
    with open(done / "evaluate/mine/mean/patients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["patient"] for row in rows) == [f"p{n}" for n in range(6)]
    for row in rows:
        above = float(row["p_tumour"]) >= float(row["threshold"])
        assert row["decision"] == CLASSES[above]


def test_tiles_with_a_truth_are_measured_on_positive_slides(done: Path) -> None:
    runs = read_json(done / "evaluate/mine/mean/metrics.json")["runs"]
    assert sum(run["slides_with_truth"] for run in runs) == 3
    assert all(run["peaks_inside"] <= run["peaks_touching"] for run in runs)


def test_the_report_shows_failed_slides_models_and_pictures(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert "unreadable" in page
    assert "an interval needs at least 5" in page
    assert "mean colour: logistic regression" in page
    assert page.count("data:image/png") == 12
    assert "bad.svs" not in page
    with open(done / "comparison.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["encoder"], first["against_encoder"], first["primary"]) == (
        "mine", "random", "yes"
    )  # fmt: skip
    results = read_slide_results(done / "config.resolved.yaml", done)
    assert [len(model.seeds) for model in results.models] == [1, 1]


def test_a_killed_embedding_leaves_no_partial_file_and_goes_on(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tmp_path / "encoder"
    common = ["--folds", begun / "split/folds.csv", "--tiles", begun / "tile/tiles.json"]
    stage(
        "slides_pretrain", "--network", json.dumps(ENCODER), "--out", encoder,
        "--work", tmp_path / "work", *common,
    )  # fmt: skip
    whole = embed.embed
    made = []

    def killed(path: Path, *given: object) -> bool:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(path)
        return whole(path, *given)

    out = tmp_path / "out"
    monkeypatch.setattr(embed, "embed", killed)
    with pytest.raises(KeyboardInterrupt):
        stage("embed", "--encoder", encoder / "encoder.pt", "--out", out, *common)
    assert not (out / "embed.json").exists()
    first = {file.name: file.stat().st_mtime_ns for file in (out / "features").iterdir()}
    assert set(first) == {"s0.h5", "s1.h5"}
    monkeypatch.setattr(embed, "embed", whole)
    stage("embed", "--encoder", encoder / "encoder.pt", "--out", out, *common)
    now = {file.name: file.stat().st_mtime_ns for file in (out / "features").iterdir()}
    assert len(now) == 6
    assert {name: now[name] for name in first} == first
    with h5py.File(out / "features/s0.h5") as file:
        assert np.isfinite(file["features"][:]).all()


def test_a_failed_encoder_fails_its_runs_and_no_more(begun: Path, tmp_path: Path) -> None:
    place = tmp_path / "s0"
    common = ["--folds", begun / "split/folds.csv", "--tiles", begun / "tile/tiles.json"]
    stage(
        "slides_pretrain", "--network", json.dumps(ENCODER), "--out", place,
        "--work", tmp_path / "work", *common,
    )  # fmt: skip
    content = torch.load(place / "encoder.pt", weights_only=True)
    torch.save(content | {"status": "failed", "reason": "it diverged"}, place / "encoder.pt")
    out = tmp_path / "embed"
    stage("embed", "--encoder", place / "encoder.pt", "--out", out, *common)
    shutil.copytree(begun / "split", tmp_path / "split")
    summary = read_json(aggregate(tmp_path, "random", 0, out) / "summary.json")
    assert summary["status"] == "failed"
    assert "it diverged" in summary["reason"]


def test_logistic_regression_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(30, 3)), np.arange(30) % 3
    x[:, 0] += label
    x = (x - x.mean(0)) / x.std(0)
    expected = LogisticRegression(tol=1e-10, max_iter=1000).fit(x, label).predict_proba(x)
    assert np.allclose(logistic(x, label, x, 3), expected, atol=1e-3)


def test_an_encoder_of_ones_own_is_taken_whole(begun: Path, tmp_path: Path) -> None:
    common = ["--network", json.dumps(ENCODER), "--folds", begun / "split/folds.csv"]
    common += ["--tiles", begun / "tile/tiles.json", "--work", tmp_path / "work"]
    stage("slides_pretrain", "--seed", 3, "--out", tmp_path / "mine", *common)
    given = json.dumps({"weights": str(tmp_path / "mine/encoder.pt")})
    stage("slides_pretrain", "--settings", given, "--out", tmp_path / "taken", *common)
    stage("slides_pretrain", "--out", tmp_path / "random", *common)
    mine, taken, random = (
        torch.load(tmp_path / name / "encoder.pt", weights_only=True)["weights"]
        for name in ("mine", "taken", "random")
    )
    assert all(torch.equal(mine[name], taken[name]) for name in mine)
    assert any(not torch.equal(mine[name], random[name]) for name in mine)
    assert read_json(tmp_path / "taken/summary.json")["transfer"]["share"] == 1.0
