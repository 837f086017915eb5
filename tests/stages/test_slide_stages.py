"""A slide study from slides to report on six small slides, stage by stage in one process."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from make_slide_study import Stages, draw, stage

from medcl.errors import MedclError
from medcl.files import read_json
from medcl.objectives.tile_contrast import TileContrast
from medcl.slides.phantom import BROKEN
from medcl.slides.seen import hashes_of, of_test_patients
from medcl.slides.table import Dealt, Slide, read_folds, write_folds
from medcl.stages import embed
from medcl.stages.slides_evaluate import patients_of
from medcl.study.slides_colour import logistic
from medcl.study.slides_results import read_slide_results

CLASSES = ["normal", "tumour"]
TILES = {"microns_per_pixel": 1.0, "tile": 32, "least_tissue": 0.5}
ENCODER = {"name": "narrow", "width": 2, "levels": 2}
PRETRAIN = {"objective": "tile_contrast", "steps": 2, "batch": 4, "save_every_s": 0.001}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Slides examined, dealt to folds and tiled."""
    root = tmp_path_factory.mktemp("six")
    dataset = {"name": "six", "classes": CLASSES, "truth": 1, "tiles": TILES}
    stages = Stages(
        root,
        {
            "kind": "slides",
            "dataset": dataset | {"root": str(draw(root / "raw", CLASSES, 6, list(BROKEN)))},
            "folds": {"count": 3},
            "seeds": 1,
            "encoder": ENCODER,
            "encoders": {"random": {}, "mine": {"pretrain": PRETRAIN}},
            "aggregators": {"mean": {"name": "mean", "width": None}},
            "mil": {"steps": 3, "batch": 2},
        },
    )
    stages.begin()
    return stages


@pytest.fixture(scope="module")
def begun(study: Stages) -> Path:
    return study.root


@pytest.fixture(scope="module")
def done(study: Stages) -> Path:
    """The whole study, to its report."""
    study.finish()
    return study.root


def test_one_bad_slide_stops_nothing_and_is_named(begun: Path) -> None:
    listed = {item["case"]: item for item in read_json(begun / "ingest/ingest.json")["slides"]}
    assert [listed[f"s{n}"]["status"] for n in range(6)] == ["ok"] * 6
    assert listed["bad"]["status"] == "unreadable"
    assert listed["bad"]["findings"][0]["remedy"]
    assert (begun / "ingest/slides/bad/qc.json").exists()
    dealt = {one.slide for one in read_folds(begun / "split/folds.csv").slides}
    assert dealt == {f"s{n}" for n in range(6)}


def test_a_study_without_a_usable_slide_fails(tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    (tmp_path / "slides.csv").write_text("slide,path,patient,label\nbad,bad.svs,p,normal\n")
    dataset = {"name": "x", "classes": CLASSES, "root": str(tmp_path)}
    with pytest.raises(MedclError, match="none of 1 slides is usable"):
        stage("slides_ingest", "--settings", yaml.safe_dump(dataset), "--out", tmp_path / "out")


@pytest.mark.parametrize("key", ["sha256", "quickhash"])
def test_the_same_slide_under_two_patients_is_leakage(
    begun: Path, tmp_path: Path, key: str
) -> None:
    findings = read_json(begun / "ingest/ingest.json")
    fold = read_folds(begun / "split/folds.csv").fold
    other = next(name for name in fold if fold[name] != fold["s0"])
    for item in findings["slides"]:
        if key == "sha256":
            item["quickhash"] = None
        if item["case"] == other:
            item[key] = next(i[key] for i in findings["slides"] if i["case"] == "s0")
    (tmp_path / "ingest.json").write_text(json.dumps(findings))
    with pytest.raises(MedclError, match="leakage: the same picture is slide"):
        stage(
            "slides_split", "--settings", "{count: 3}", "--classes", *CLASSES,
            "--slides", begun / "ingest/slides.csv", "--findings", tmp_path / "ingest.json",
            "--out", tmp_path / "split",
        )  # fmt: skip
    assert not (tmp_path / "split/folds.csv").exists()


def test_the_audit_names_sites_in_several_folds_and_patients_of_several_classes(
    tmp_path: Path,
) -> None:
    rows = ["slide,path,patient,label,site"]
    rows += [f"s{n},s{n}.svs,p{n // 2},{CLASSES[n // 2 % 2]},h{n // 6}" for n in range(12)]
    rows += ["x,x.svs,p1,normal,h0"]
    (tmp_path / "slides.csv").write_text("\n".join(rows) + "\n")
    parts = [row.split(",") for row in rows[1:]]
    listed = [{"case": p[0], "sha256": p[1], "subject": p[2], "label": p[3]} for p in parts]
    (tmp_path / "ingest.json").write_text(json.dumps({"slides": listed}))
    common = ["--classes", *CLASSES, "--slides", tmp_path / "slides.csv"]
    common += ["--findings", tmp_path / "ingest.json", "--out", tmp_path / "split"]
    stage("slides_split", "--settings", "{count: 3}", *common)
    audit = read_json(tmp_path / "split/audit.json")
    assert audit["mixed"] == ["p1"]
    fold = read_folds(tmp_path / "split/folds.csv").fold
    for site, folds in audit["sites"].items():
        here = {fold[row.split(",")[0]] for row in rows[1:] if row.endswith(site)}
        assert folds == sorted(here)
        assert len(folds) > 1
    with pytest.raises(MedclError, match="2 sites cannot be dealt to 3 folds"):
        stage("slides_split", "--settings", "{count: 3, by: site}", *common)


def test_a_patient_whose_slides_of_its_class_are_lost_is_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["slide,path,patient,label"]
    rows += [f"s{n},s{n}.svs,p{n},{CLASSES[n % 2]}" for n in range(8)]
    (tmp_path / "slides.csv").write_text("\n".join(rows) + "\n")
    unusable = ["x,x.svs,p0,tumour", "y,y.svs,p1,normal", "z,z.svs,p9,tumour"]
    parts = [row.split(",") for row in [*rows[1:], *unusable]]
    listed = [{"case": p[0], "sha256": p[1], "subject": p[2], "label": p[3]} for p in parts]
    (tmp_path / "ingest.json").write_text(json.dumps({"slides": listed}))
    stage(
        "slides_split", "--settings", "{count: 3}", "--classes", *CLASSES,
        "--slides", tmp_path / "slides.csv", "--findings", tmp_path / "ingest.json",
        "--out", tmp_path / "split",
    )  # fmt: skip
    dealt = read_folds(tmp_path / "split/folds.csv")
    assert {one.patient for one in dealt.slides} == {f"p{n}" for n in range(1, 8)}
    audit = read_json(tmp_path / "split/audit.json")
    assert audit["lost"] == {"p0": "tumour", "p9": "tumour"}
    assert audit["mixed"] == ["p1"]  # also by its normal slide that is lost
    assert audit["patients"] == 7
    assert "left out p0: every slide of its class 'tumour' is lost" in capsys.readouterr().out


def test_a_patient_counts_by_all_its_slides_and_not_by_those_predicted_alone(
    tmp_path: Path,
) -> None:
    table = [("a", "p0", 0), ("b", "p0", 1), ("c", "p1", 0), ("d", "p2", 1), ("e", "p2", 0)]
    table += [("f", "p3", 1), ("g", "p3", 0)]
    fold = {"p0": 0, "p1": 0, "p2": 0, "p3": 1}
    slides = [Slide(name, f"{name}.svs", patient, CLASSES[kind]) for name, patient, kind in table]
    dealt = Dealt(tuple(slides), {one.slide: fold[one.patient] for one in slides}, 3)
    rows = ["slide,patient,label,role,p_normal,p_tumour"]
    rows += ["a,p0,normal,test,0.9,0.1", "c,p1,normal,test,0.7,0.3"]  # not b: p0 is lost
    rows += ["d,p2,tumour,test,0.2,0.8", "e,p2,normal,test,0.6,0.4"]
    rows += ["g,p3,normal,validation,0.8,0.2"]  # not f
    (tmp_path / "predictions.csv").write_text("\n".join(rows) + "\n")
    patients, lost = patients_of(tmp_path / "predictions.csv", CLASSES, dealt, 0)
    assert lost == ["p0"]
    assert [(one.patient, one.label) for one in patients] == [("p1", 0), ("p2", 1)]
    assert patients[1].probability.tolist() == pytest.approx([0.4, 0.6])


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
    assert "Slides that are not part of the study: 4 of 10." in page
    for status in ("unreadable", *BROKEN):
        assert f'<td class="text">{status}</td>' in page
    assert "an interval needs at least 5" in page
    assert "mean colour: logistic regression" in page
    assert page.count("data:image/png") == 12
    assert "bad.svs" not in page
    assert "from a threshold on that validation patients choose" in page
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
        "--work", tmp_path / "work", "--examined", begun / "ingest/slides", *common,
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
        "--work", tmp_path / "work", "--examined", begun / "ingest/slides", *common,
    )  # fmt: skip
    content = torch.load(place / "encoder.pt", weights_only=True)
    torch.save(content | {"status": "failed", "reason": "it diverged"}, place / "encoder.pt")
    out = tmp_path / "embed"
    stage("embed", "--encoder", place / "encoder.pt", "--out", out, *common)
    stage(
        "mil", "--aggregator", "{name: mean}", "--classes", *CLASSES, "--fold", 0,
        "--embedded", out / "embed.json", "--folds", begun / "split/folds.csv",
        "--out", tmp_path / "mil", "--work", tmp_path / "state",
    )  # fmt: skip
    summary = read_json(tmp_path / "mil/summary.json")
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
    common += ["--examined", begun / "ingest/slides"]
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


def test_weights_that_saw_slides_of_test_patients_stop_the_study_unless_waived(
    begun: Path, tmp_path: Path
) -> None:
    common = ["--network", json.dumps(ENCODER), "--folds", begun / "split/folds.csv"]
    common += ["--tiles", begun / "tile/tiles.json", "--work", tmp_path / "work"]
    common += ["--examined", begun / "ingest/slides"]
    mine = tmp_path / "mine"
    given = json.dumps({"pretrain": PRETRAIN})
    stage("slides_pretrain", "--settings", given, "--out", mine, *common)
    seen = [one.slide for one in read_folds(begun / "split/folds.csv").of("training", 0)]
    content = torch.load(mine / "encoder.pt", weights_only=True)
    listed = {i["case"]: i["sha256"] for i in read_json(begun / "ingest/ingest.json")["slides"]}
    assert [one["sha256"] for one in content["slides"]] == [listed[name] for name in seen]
    weights = {"weights": str(mine / "encoder.pt")}
    taken = ["--out", tmp_path / "taken", *common]
    said = f"leakage: .*encoder.pt: was pretrained on 2 slides .*: {', '.join(seen)}; give"
    with pytest.raises(MedclError, match=said):
        stage("slides_pretrain", "--settings", json.dumps(weights), *taken)
    assert not (tmp_path / "taken/encoder.pt").exists()
    waived = json.dumps(weights | {"waive": ["test_slides"]})
    stage("slides_pretrain", "--settings", waived, *taken)
    assert read_json(tmp_path / "taken/summary.json")["test_slides"] == seen
    again = torch.load(tmp_path / "taken/encoder.pt", weights_only=True)
    assert again["slides"] == content["slides"]  # taken weights have seen what they had seen
    for one in content["slides"]:
        one["sha256"] = "of another level"
    torch.save(content, mine / "encoder.pt")
    with pytest.raises(MedclError, match="2 slides of test patients"):  # by their pictures
        stage("slides_pretrain", "--settings", json.dumps(weights), *taken)
    del content["slides"]
    torch.save(content, mine / "encoder.pt")
    stage("slides_pretrain", "--settings", json.dumps(weights), *taken)
    assert read_json(tmp_path / "taken/summary.json")["test_slides"] is None


def test_slides_without_a_label_are_nobodys_test(begun: Path, tmp_path: Path) -> None:
    slides = read_folds(begun / "split/folds.csv").slides
    dealt = Dealt((replace(slides[0], label=""), *slides[1:]), {}, 3)
    seen = hashes_of(begun / "ingest/slides", ["s0", "s1"])
    assert of_test_patients(seen, dealt, begun / "ingest/slides") == ["s1"]


def test_a_slide_that_the_pool_cannot_read_is_told_and_stored(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dealt = read_folds(begun / "split/folds.csv")
    lost = dealt.of("training", 0)[0]
    (tmp_path / "gone.svs").write_bytes(b"no slide")
    slides = [
        replace(one, path=str(tmp_path / "gone.svs")) if one == lost else one
        for one in dealt.slides
    ]
    write_folds(tmp_path / "folds.csv", slides, {s.patient: dealt.fold[s.slide] for s in slides})
    stage(
        "slides_pretrain", "--settings", json.dumps({"pretrain": PRETRAIN}),
        "--network", json.dumps(ENCODER), "--folds", tmp_path / "folds.csv",
        "--tiles", begun / "tile/tiles.json", "--examined", begun / "ingest/slides",
        "--out", tmp_path / "out", "--work", tmp_path / "work",
    )  # fmt: skip
    summary = read_json(tmp_path / "out/summary.json")
    assert list(summary["left_out"]) == [lost.slide]
    assert summary["slides"] == 1
    assert len(torch.load(tmp_path / "out/encoder.pt", weights_only=True)["slides"]) == 1
    assert f"left out {lost.slide}: " in capsys.readouterr().out


def test_a_killed_pretraining_ends_with_the_weights_of_an_uninterrupted_one(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"pretrain": PRETRAIN | {"steps": 6}}
    common = ["--settings", json.dumps(settings), "--network", json.dumps(ENCODER)]
    common += ["--folds", begun / "split/folds.csv", "--tiles", begun / "tile/tiles.json"]
    common += ["--examined", begun / "ingest/slides"]
    stage("slides_pretrain", "--out", tmp_path / "a", "--work", tmp_path / "work_a", *common)
    forward, calls = TileContrast.forward, []

    def killed(self: TileContrast, batch: dict[str, torch.Tensor]) -> object:
        calls.append(len(calls))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(TileContrast, "forward", killed)
    resumed = ["--out", tmp_path / "b", "--work", tmp_path / "work_b", *common]
    with pytest.raises(KeyboardInterrupt):
        stage("slides_pretrain", *resumed)
    assert not (tmp_path / "b/encoder.pt").exists()
    stage("slides_pretrain", *resumed)
    assert len(calls) == 4 + 3  # the steps that were not saved, and none of the others
    whole, goes_on = (
        torch.load(tmp_path / name / "encoder.pt", weights_only=True)["weights"] for name in "ab"
    )
    assert all(torch.equal(whole[name], goes_on[name]) for name in whole)
    assert not (tmp_path / "work_b").exists()
