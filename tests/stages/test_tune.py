"""A learning rate chosen on validation subjects, and what fine-tuning makes of it."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import test_training_stages as small
import yaml

from medcl.data.splits import Splits, read_splits, write_splits
from medcl.errors import MedclError
from medcl.files import read_yaml, write_json, write_yaml
from medcl.stages import pretrain, tune
from medcl.training import checkpoint

study = small.study


def choose(study: Path, out: Path, rates: list[float], *more: str, **settings: object) -> dict:
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    asked = yaml.safe_dump({"learning_rates": rates, "labelled": 1})
    reads = ["--store", str(study / "store/manifest.json"), "--plan", str(study / "plan.yaml")]
    reads += ["--splits", str(study / "splits.csv"), "--network", "{name: unet, width: 2}"]
    writes = ["--out", str(out), "--work", str(out / "work")]
    settings = {"steps": 3, "warmup": 0.0} | settings
    arguments = ["--settings", yaml.safe_dump(settings), "--tune", asked, *reads, *writes, *more]
    tune.run(parser.parse_args(arguments))
    return read_yaml(out / "tuned.yaml")


def test_the_rate_with_the_best_validation_is_chosen_and_all_are_written(
    study: Path, tmp_path: Path
) -> None:
    tuned = choose(study, tmp_path, [1e-12, 1e-2], steps=12)
    low, high = tuned["tried"]
    assert low["validation_dice"] != high["validation_dice"]
    best = max((low, high), key=lambda trial: trial["validation_dice"])
    assert tuned["learning_rate"] == best["learning_rate"]
    assert (tuned["status"], tuned["replicate"], tuned["labelled"]) == ("ok", 31, 1)
    assert not (tmp_path / "work").exists()


def test_a_rate_that_diverges_leaves_the_others(study: Path, tmp_path: Path) -> None:
    tuned = choose(study, tmp_path, [1e-3, 1e30], steps=20, clip=1e30)
    assert tuned["learning_rate"] == 1e-3
    assert [trial["status"] for trial in tuned["tried"]] == ["ok", "failed"]
    assert "loss is" in tuned["tried"][1]["reason"]


def test_a_tuning_of_which_every_rate_fails_fails_the_fine_tuning_and_not_the_study(
    study: Path, tmp_path: Path
) -> None:
    tuned = choose(study, tmp_path / "tune", [1e29, 1e30], steps=20, clip=1e30)
    assert tuned["status"] == "failed"
    assert tuned["learning_rate"] is None
    file = str(tmp_path / "tune/tuned.yaml")
    summary = small.tune(study, tmp_path / "ft", "--tuned", file)
    assert summary["status"] == "failed"
    assert "its tuning failed: no learning rate" in summary["reason"]
    taught = small.teach(study, tmp_path / "self", tmp_path / "ft/model.pt", "--tuned", file)
    assert taught["status"] == "failed"
    assert "its tuning failed: no learning rate" in taught["reason"]


def test_a_failed_pretraining_fails_every_trial_with_its_reason(
    study: Path, tmp_path: Path
) -> None:
    broken = {"objective": {"name": "mae"}, "steps": 40, "learning_rate": 1e30}
    small.call(pretrain, study, tmp_path / "mae", **broken, warmup=0.0, clip=1e30)
    encoder = ["--encoder", str(tmp_path / "mae/encoder.pt")]
    tuned = choose(study, tmp_path / "tune", [1e-3, 1e-2], *encoder)
    assert tuned["status"] == "failed"
    assert "its pretraining failed" in tuned["reason"]


def test_a_killed_tuning_repeats_no_rate_it_has_tried(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tune.shutil, "rmtree", lambda *_, **__: None)
    first = choose(study, tmp_path, [1e-3, 1e-2])
    capsys.readouterr()
    again = choose(study, tmp_path, [1e-3, 1e-2])
    assert capsys.readouterr().out.count("resumed at step 3") == 2
    scores = [[trial["validation_dice"] for trial in made["tried"]] for made in (first, again)]
    assert scores[0] == scores[1]
    assert all(trial["cpu_seconds"] > 0 for trial in first["tried"])


def test_a_trial_is_judged_once_on_all_validation_subjects(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def judge(network: object, volumes: Sequence, plan: object) -> float:
        seen.append(len(volumes))
        return 0.5

    monkeypatch.setattr(small.finetune, "validation_dice", judge)
    shared = tmp_path / "splits"
    shared.mkdir()
    for name in ("store", "plan.yaml"):
        (shared / name).symlink_to(study / name)
    cases = read_splits(study / "splits.csv").rows
    held = [row.case for row in cases if row.role != "test"][:5]
    rows = [replace(row, role="validation" if row.case in held else row.role) for row in cases]
    write_splits(shared / "splits.csv", Splits(tuple(rows)))
    tuned = choose(shared, tmp_path / "tune", [1e-3, 1e-2], steps=4, validate_every=2)
    assert seen == [5, 5]
    assert tuned["validation"] == 5


def trials(*scores: float | None) -> list[dict]:
    rates = [10.0**k for k in range(len(scores))]
    return [
        {"learning_rate": rate, "validation_dice": score, "reason": "diverged"}
        for rate, score in zip(rates, scores, strict=True)
    ]


@pytest.mark.parametrize(
    ("scores", "rate", "border", "runner_up", "margin"),
    [
        ((0.1, 0.3, 0.2), 10.0, False, 100.0, 0.1),
        ((0.1, 0.3, 0.3), 10.0, False, 100.0, 0.0),
        ((0.4, 0.3, 0.2), 1.0, True, 10.0, 0.1),
        ((None, 0.3, 0.5), 100.0, True, 10.0, 0.2),
        ((0.1, 0.3), 10.0, False, 1.0, 0.2),
        ((None, 0.3, None), 10.0, False, None, None),
    ],
)
def test_of_equals_the_lower_rate_is_chosen_and_an_end_of_the_list_and_the_margin_are_told(
    scores: tuple, rate: float, border: bool, runner_up: float | None, margin: float | None
) -> None:
    chosen = tune.choose(trials(*scores))
    assert (chosen["learning_rate"], chosen["border"]) == (rate, border)
    assert (chosen["runner_up"], chosen["margin"]) == (runner_up, margin)


def test_fine_tuning_takes_the_rate_that_was_chosen(study: Path, tmp_path: Path) -> None:
    write_yaml(tmp_path / "tuned.yaml", {"status": "ok", "reason": None, "learning_rate": 3e-3})
    told = ["--tuned", str(tmp_path / "tuned.yaml")]
    summary = small.tune(study, tmp_path / "a", *told, learning_rate=0.5)
    assert summary["learning_rate"] == 3e-3
    small.tune(study, tmp_path / "b", learning_rate=3e-3)
    rates = [_rates(tmp_path / name / "log.csv") for name in "ab"]
    assert rates[0] == rates[1]


def _rates(file: Path) -> list[str]:
    header, *rows = (line.split(",") for line in file.read_text().splitlines())
    return [row[header.index("learning_rate")] for row in rows]


def test_a_cost_matched_run_makes_the_steps_the_seconds_give(study: Path, tmp_path: Path) -> None:
    done = {"status": "ok", "reason": None, "device": "cpu"}
    write_json(tmp_path / "mae.json", done | {"seconds": 2.0, "steps": 9})
    write_json(tmp_path / "scratch.json", done | {"seconds": 1.5, "steps": 3})
    told = ["--cost-of", str(tmp_path / "mae.json"), "--pace", str(tmp_path / "scratch.json")]
    summary = small.tune(study, tmp_path / "long", *told, steps=3)
    assert summary["matched"]["added_steps"] == 4
    assert summary["steps"] == 7
    assert len((tmp_path / "long/log.csv").read_text().splitlines()) == 1 + 7
    failed = done | {"status": "failed", "reason": "loss is nan", "seconds": 2.0, "steps": 9}
    write_json(tmp_path / "mae.json", failed)
    summary = small.tune(study, tmp_path / "long", *told, steps=3)
    assert summary["status"] == "failed"
    assert "its pretraining failed: loss is nan" in summary["reason"]


def test_all_labels_are_those_of_every_candidate(study: Path, tmp_path: Path) -> None:
    everything = ["--labelled", "all", "--replicate", "1"]
    summary = small.call(
        small.finetune, study, tmp_path, *everything, steps={1: 2, 4: 5}, validate_every=9
    )
    assert summary["labelled"] == len(summary["subset"]) == 4
    assert summary["steps"] == 5
    with pytest.raises(MedclError, match="got 'most', expected a number of subjects, or all"):
        small.tune(study, tmp_path, "--labelled", "most")


def test_weights_of_ones_own_start_an_arm_with_a_report_of_what_was_taken(
    study: Path, tmp_path: Path
) -> None:
    small.tune(study, tmp_path / "model", steps=1)
    content = checkpoint.load(tmp_path / "model/model.pt")
    content["plan"]["spacing"] = [2.0, 2.0, 2.0]
    own = tmp_path / "own.pt"
    checkpoint.save(own, {key: value for key, value in content.items() if key != "format"})
    frozen = {"steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0}
    summary = small.tune(study, tmp_path / "arm", "--encoder", str(own), **frozen)
    assert summary["transfer"]["share"] == 1
    (differing,) = summary["transfer"]["differing"]
    assert differing == "spacing: made with [2.0, 2.0, 2.0], here [1.0, 1.0, 1.0]"
    after = checkpoint.load(tmp_path / "arm/model.pt")["weights"]["last"]
    for name, tensor in content["weights"]["last"].items():
        assert tensor.allclose(after[name], atol=1e-6), name


def test_a_state_of_training_is_no_weights_to_start_from(study: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state.pt", {"kind": "state", "step": 3})
    with pytest.raises(MedclError, match="holds no encoder and no model"):
        small.tune(study, tmp_path / "arm", "--encoder", str(tmp_path / "state.pt"))
