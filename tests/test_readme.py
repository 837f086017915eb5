"""What the README shows must run."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from micro import ROOT

from medcl import networks, objectives
from medcl.config import Training, load_study
from medcl.data.store import Store, write_case, write_manifest
from medcl.training.devices import Place
from medcl.training.fit import fit
from medcl.training.pretext import PretextItems

TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_two_yaml_files_are_a_valid_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset, study = blocks("yaml")
    Path("my_heart.yaml").write_text(dataset)
    Path("my_study.yaml").write_text(study)
    assert load_study("my_study.yaml").dataset.classes == {"ventricle": 1, "muscle": 2}


def test_the_objective_of_ones_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    Path("mine.py").write_text(code)
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    entry = write_case("store", "a", "a", image)
    store = Store(write_manifest("store", [entry], plan_sha256="", failed={}))
    network = networks.build(
        {"name": "unet", "width": 2}, channels_in=1, strides=[[1] * 3, [2] * 3], channels_out=1
    )
    options = {"name": "mine.py:Mine", "width": 4}
    objective = objectives.build(options, network, crop=(8, 8, 8), spacing=(1.0, 1.0, 1.0))
    fitted = fit(
        objective,
        PretextItems(store, store.cases, objective.views),
        Training(batch=2),
        steps=2,
        seed=0,
        place=Place(torch.device("cpu")),
        work=tmp_path / "work",
        what="mine",
    )
    assert [set(row) >= {"loss", "chance"} for row in fitted.progress.rows] == [True, True]


def test_commands_name_targets_stages_and_files_that_exist() -> None:
    from medcl.cli import STAGES

    shell = "\n".join(blocks("sh"))
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", shell):
        assert f"\n{target}:" in makefile
    for stage in re.findall(r"medcl (\w+)", shell):
        assert stage in STAGES
    for profile in re.findall(r"--workflow-profile (\w+)", shell):
        assert yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text())
    for link in re.findall(r"\]\(([\w/.]+)\)", TEXT):
        assert (ROOT / link).exists(), link
