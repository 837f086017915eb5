"""Pretraining and fine-tuning as stages: what they write, what they take, how they fail."""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medcl.config import Intensity, Split
from medcl.data.cases import Case
from medcl.data.plan import Plan
from medcl.data.splits import assign, write_splits
from medcl.data.store import write_case, write_manifest
from medcl.errors import MedclError
from medcl.files import read_json, write_json, write_yaml
from medcl.stages import finetune, pretrain, selftrain
from medcl.training import checkpoint
from medcl.training.run import work_folder

CROP = (8, 8, 8)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store, splits and plan of eight subjects: a bright cube is the class."""
    root = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    cases, entries = [], []
    for number in range(8):
        name = f"s{number}"
        label = np.zeros((10, 10, 10), np.uint8)
        x = int(rng.integers(1, 5))
        label[x : x + 4, 3:7, 3:7] = 1
        image = (label + rng.normal(0, 0.1, label.shape))[None].astype(np.float32)
        entries.append(write_case(root / "store", name, name, image, label))
        hashes = {"image_sha256": "", "voxel_sha256": name, "label_sha256": ""}
        cases.append(
            Case(
                case=name, subject=name, visit="", image=f"{name}.nii", label=f"{name}l.nii",
                modality="MR", channels=1, shape=(10, 10, 10), spacing=(1.0, 1.0, 1.0),
                orientation="RAS", source="test", extra={}, **hashes,
            )
        )  # fmt: skip
    write_manifest(root / "store", entries, plan_sha256="", failed={})
    write_splits(root / "splits.csv", assign(cases, Split(test=2, validation=2)))
    plan = Plan(
        modality="MR", classes={"cube": 1}, spacing=(1.0, 1.0, 1.0), crop=CROP,
        strides=((1, 1, 1), (2, 2, 2)), channels=1, intensity=Intensity(rule="zscore"),
        body_threshold=None, threads=1, fingerprint={},
    )  # fmt: skip
    write_yaml(root / "plan.yaml", plan.to_dict())
    return root


def words_of(study: Path, out: Path, settings: str, width: int = 2) -> list[str]:
    """The command line of every stage that trains."""
    reads = ["--store", str(study / "store/manifest.json"), "--plan", str(study / "plan.yaml")]
    reads += ["--splits", str(study / "splits.csv"), "--network", f"{{name: unet, width: {width}}}"]
    return ["--settings", settings, *reads, "--out", str(out), "--work", str(out / "work")]


def call(stage: object, study: Path, out: Path, *more: str, width: int = 2, **settings: object):
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)  # type: ignore[attr-defined]
    words = words_of(study, out, yaml.safe_dump(settings), width)
    stage.run(parser.parse_args([*words, *more]))  # type: ignore[attr-defined]
    return read_json(out / "summary.json")


def tune(study: Path, out: Path, *more: str, **settings: object):
    settings = {"steps": 3, "validate_every": 2} | settings
    return call(finetune, study, out, "--labelled", "1", "--replicate", "0", *more, **settings)


def rows_of(log: Path) -> list[dict[str, str]]:
    with open(log, newline="") as file:
        return list(csv.DictReader(file))


def test_an_encoder_is_pretrained_and_its_tensors_start_the_fine_tuning(
    study: Path, tmp_path: Path
) -> None:
    mae = {"objective": {"name": "mae"}, "steps": 2}
    pretrained = call(pretrain, study, tmp_path / "mae", "--seed", "1", **mae)
    assert pretrained["status"] == "ok"
    assert pretrained["diagnosis"]
    tuned = tune(study, tmp_path / "ft", "--encoder", str(tmp_path / "mae/encoder.pt"))
    taken = tuned["transfer"]["taken"]
    assert tuned["transfer"]["share"] == 1
    assert all(name.startswith(("down.", "up.", "merge.")) for name in taken)
    assert {row["name"] for row in tuned["transfer"]["not_taken"]} == {"head.weight", "head.bias"}
    assert len(tuned["subset"]) == 1
    assert len(tuned["validation"]) == 2
    content = checkpoint.load(tmp_path / "ft/model.pt")
    assert content["weights"].keys() == {"last", "selected"}


def test_the_control_draws_the_same_head_the_same_crops_and_the_same_subset(
    study: Path, tmp_path: Path
) -> None:
    mae = {"objective": {"name": "mae"}, "steps": 1}
    call(pretrain, study, tmp_path / "mae", **mae)
    encoder = ["--encoder", str(tmp_path / "mae/encoder.pt")]
    tiny = {"steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0}
    scratch = tune(study, tmp_path / "a", **tiny)
    arm = tune(study, tmp_path / "b", *encoder, **tiny)
    assert scratch["subset"] == arm["subset"]
    assert scratch["seed"] == arm["seed"]
    heads = [
        checkpoint.load(tmp_path / name / "model.pt")["weights"]["last"]["head.weight"]
        for name in "ab"
    ]
    assert torch.equal(*heads)


def test_a_diverged_run_writes_its_outputs_and_says_why(study: Path, tmp_path: Path) -> None:
    summary = tune(study, tmp_path, steps=40, learning_rate=1e30, warmup=0.0, clip=1e30)
    assert summary["status"] == "failed"
    assert "loss is" in summary["reason"]
    assert len((tmp_path / "log.csv").read_text().splitlines()) > 1
    with pytest.raises(MedclError, match="its training failed"):
        checkpoint.load_model(tmp_path / "model.pt")


def test_a_failed_pretraining_fails_its_fine_tuning_with_the_reason(
    study: Path, tmp_path: Path
) -> None:
    broken = {"objective": {"name": "mae"}, "steps": 40, "learning_rate": 1e30}
    broken |= {"warmup": 0.0, "clip": 1e30}
    assert call(pretrain, study, tmp_path / "mae", **broken)["status"] == "failed"
    summary = tune(study, tmp_path / "ft", "--encoder", str(tmp_path / "mae/encoder.pt"))
    assert summary["status"] == "failed"
    assert "its pretraining failed" in summary["reason"]


def test_an_encoder_of_another_network_is_refused(study: Path, tmp_path: Path) -> None:
    call(pretrain, study, tmp_path / "mae", width=4, objective={"name": "mae"}, steps=1)
    with pytest.raises(MedclError, match="of the parameters fit"):
        tune(study, tmp_path / "ft", "--encoder", str(tmp_path / "mae/encoder.pt"))


def test_more_labels_than_there_are_is_a_failure_with_numbers(study: Path, tmp_path: Path) -> None:
    summary = call(finetune, study, tmp_path, "--labelled", "9", "--replicate", "0", steps=1)
    assert summary["status"] == "failed"
    assert "there are 4 candidates" in summary["reason"]


def test_a_subset_with_a_case_that_could_not_be_prepared_is_no_subset(
    study: Path, tmp_path: Path
) -> None:
    manifest = read_json(study / "store/manifest.json")
    subset = tune(study, tmp_path / "whole", steps=1)["subset"]
    manifest["failed"] = {subset[0]: "no body was found"}
    manifest["cases"] = [case for case in manifest["cases"] if case["case"] != subset[0]]
    write_json(study / "store/less.json", manifest)
    less = ["--store", str(study / "store/less.json")]
    summary = tune(study, tmp_path / "less", *less, steps=1)
    assert summary["status"] == "failed"
    assert "could not be prepared: no body was found" in summary["reason"]


def test_a_store_of_another_plan_is_refused(study: Path, tmp_path: Path) -> None:
    manifest = read_json(study / "store/manifest.json") | {"plan_sha256": "of another"}
    write_json(study / "store/other.json", manifest)
    with pytest.raises(MedclError, match="prepared by another plan"):
        tune(study, tmp_path, "--store", str(study / "store/other.json"))


def test_another_label_is_another_run(study: Path, tmp_path: Path) -> None:
    file = study / "store/manifest.json"
    same = work_folder(tmp_path, {"a": 1}, {"store": str(file)})
    (same / "state.pt").touch()
    assert work_folder(tmp_path, {"a": 1}, {"store": str(file)}) == same
    manifest = read_json(file)
    manifest["cases"][0]["made_from"] = "a mended label"
    write_json(tmp_path / "mended.json", manifest)
    assert work_folder(tmp_path, {"a": 1}, {"store": str(tmp_path / "mended.json")}) != same
    assert not same.exists()


def teach(study: Path, out: Path, model: Path, *more: str, steps: int = 3, **settings: object):
    tuning = ["--finetune", f"{{steps: {steps}, validate_every: 2}}", "--model", str(model)]
    where = ["--labelled", "1", "--replicate", "0"]
    return call(selftrain, study, out, *where, *tuning, *more, of="scratch", **settings)


def test_self_training_learns_from_the_pool_and_never_from_its_labels(
    study: Path, tmp_path: Path
) -> None:
    tune(study, tmp_path / "base", steps=30, learning_rate=0.01)
    model = tmp_path / "base/model.pt"
    summary = teach(study, tmp_path / "a", model, confidence=0.4, keep=0.5)
    assert summary["status"] == "ok"
    assert summary["rounds"] == [{"cases": 2, "of": 3}]
    manifest = read_json(study / "store/manifest.json")
    for case in manifest["cases"]:
        if case["case"] not in summary["subset"] + summary["validation"]:
            case["label"] = None
    write_json(study / "store/unlabelled.json", manifest)
    without = ["--store", str(study / "store/unlabelled.json")]
    teach(study, tmp_path / "b", model, *without, confidence=0.4, keep=0.5)
    a, b, base = (
        checkpoint.load(tmp_path / name / "model.pt")["weights"]["last"]["head.weight"]
        for name in ("a", "b", "base")
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, base)


def _noting(patched: pytest.MonkeyPatch, name: str) -> list[dict[str, float]]:
    """The seconds of every call of a part of self-training, as they are told to its caller."""
    part, made = getattr(selftrain, name), list[dict[str, float]]()

    def noted(*given: object, **more: object) -> object:
        found = part(*given, **more)
        made.append({"seconds": found.seconds, "cpu_seconds": found.cpu_seconds})
        return found

    patched.setattr(selftrain, name, noted)
    return made


def test_self_training_killed_in_its_second_round_ends_as_an_uninterrupted_one(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(study, tmp_path / "base", steps=30, learning_rate=0.01)
    model = tmp_path / "base/model.pt"
    settings = {"confidence": 0.4, "rounds": 2, "members": 2}
    with monkeypatch.context() as watched:
        parts = [_noting(watched, name) for name in ("train", "label_pool")]
        summary = teach(study, tmp_path / "whole", model, **settings)
    assert [len(own) for own in parts] == [4, 2]
    for key in ("seconds", "cpu_seconds"):  # of all the work, not of the last training
        whole = sum(made[key] for own in parts for made in own)
        assert summary[key] == pytest.approx(whole, abs=1e-3)
    label, calls = selftrain.pseudo_label, []

    def killed(*arguments: object):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return label(*arguments)

    monkeypatch.setattr(selftrain, "pseudo_label", killed)
    with pytest.raises(KeyboardInterrupt):
        teach(study, tmp_path / "killed", model, **settings)
    teach(study, tmp_path / "killed", model, **settings)
    a, b = (
        checkpoint.load(tmp_path / name / "model.pt")["weights"]["last"]
        for name in ("whole", "killed")
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


TWO = """
import os, sys
from pathlib import Path
from medcl.cli import main
from medcl.stages import selftrain

label = selftrain.pseudo_label

def noted(networks, volume, *more):
    with open(Path(sys.argv[1]) / f"rank{os.environ['RANK']}", "a") as file:
        file.write(volume.case + " ")
    return label(networks, volume, *more)

selftrain.pseudo_label = noted
sys.exit(main(sys.argv[2:]))
"""


def test_two_processes_label_half_of_the_pool_each_and_learn_from_the_same_cases(
    study: Path, tmp_path: Path
) -> None:
    tune(study, tmp_path / "base", steps=30, learning_rate=0.01)
    one = teach(study, tmp_path / "one", tmp_path / "base/model.pt", confidence=0.4)
    (tmp_path / "two.py").write_text(TWO)
    words = words_of(study, tmp_path / "two", "{confidence: 0.4, of: scratch}")
    words += ["--labelled", "1", "--replicate", "0", "--finetune", "{steps: 3, validate_every: 2}"]
    words += ["--model", str(tmp_path / "base/model.pt")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", str(tmp_path / "two.py"), str(tmp_path)]
    subprocess.run([*launch, "selftrain", *words], check=True, capture_output=True)
    two = read_json(tmp_path / "two/summary.json")
    shares = [(tmp_path / f"rank{rank}").read_text().split() for rank in (0, 1)]
    assert sorted(map(len, shares)) == [1, 2]
    assert len({*shares[0], *shares[1]}) == 3
    assert two["status"] == "ok"
    assert two["rounds"] == one["rounds"] == [{"cases": 2, "of": 3}]


@pytest.mark.parametrize("mode", ["linear", "knn"])
def test_a_probe_is_a_model_that_predicts_and_leaves_the_network_as_it_was(
    study: Path, tmp_path: Path, mode: str
) -> None:
    call(pretrain, study, tmp_path / "mae", objective={"name": "mae"}, steps=2)
    encoder = tmp_path / "mae/encoder.pt"
    summary = tune(study, tmp_path / "probe", "--encoder", str(encoder), mode=mode)
    assert summary["status"] == "ok"
    network, _ = checkpoint.load_model(tmp_path / "probe/model.pt")
    label = np.zeros((10, 10, 10), np.uint8)
    label[2:6, 3:7, 3:7] = 1
    image = torch.from_numpy(label[None, None, :8, :8, :8].astype(np.float32))
    found = network(image).argmax(1)[0].numpy() == 1
    truth = label[:8, :8, :8] == 1
    everywhere = 2 * truth.sum() / (truth.size + truth.sum())
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 2 * everywhere
    weights = checkpoint.load(encoder)["network_weights"]
    state = network.state_dict()
    assert torch.equal(state["network.down.0.0.0.weight"], weights["down.0.0.0.weight"])


def test_the_state_of_a_run_is_removed_and_nothing_else(tmp_path: Path) -> None:
    old = work_folder(tmp_path, {"a": 1}, {})
    (old / "round0").mkdir()
    (old / "round0/state.pt").touch()
    mine = tmp_path / "my_own"
    mine.mkdir()
    (mine / "state.pt").touch()
    work_folder(tmp_path, {"a": 2}, {})
    assert not old.exists()
    assert mine.exists()
