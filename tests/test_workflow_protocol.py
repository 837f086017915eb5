"""What the workflow plans for a bound, for tuned learning rates, and for arms that need others."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from micro import MICRO, micro_study, snakemake
from test_workflow import planned

from medcl import workflow
from medcl.config import load_study

TRAINED = {"finetune": 1, "predict": 1, "evaluate": 1}
TUNE = {"learning_rates": [1.0e-3, 1.0e-2], "labelled": 1}
WHOLE = {"tune": TUNE, "bound": {"arm": "scratch"}}

SELDOM = {"save_every_s": 90.0}
SAVED_LESS_OFTEN = {
    "finetune": MICRO["finetune"] | SELDOM,
    "arms": {"scratch": {}, "mae": {"pretrain": MICRO["arms"]["mae"]["pretrain"] | SELDOM}},
}


def with_arm(**arm: object) -> dict:
    return MICRO["arms"] | {"more": arm}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every output of the whole study but the report, as empty files.

    Without a record of the jobs a report that stands would not be missing its new inputs.
    """
    folder = tmp_path_factory.mktemp("standing")
    study = micro_study(folder, **WHOLE)
    text = snakemake("-n", "--forceall", "--configfile", study, cwd=folder).stdout
    outputs = re.findall(r"^    output: (.+)$", text, re.MULTILINE)
    made = [file for line in outputs for file in line.split(", ")]
    moment = time.time() - 10 * len(made)
    for number, file in enumerate(made):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
        os.utime(folder / file, (moment + number, moment + number))
    for target in folder.glob("results/*/report.html"):
        target.unlink()
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"bound": {"arm": "mae"}},
            {"finetune_bound": 2, "predict_bound": 2, "evaluate_bound": 2},
        ),
        ({"arms": with_arm(start="mae", finetune={"steps": 4})}, TRAINED),
        ({"arms": with_arm(cost_of="mae")}, TRAINED),
        (
            {"arms": with_arm(selftrain={"of": "scratch"})},
            {"selftrain": 1, "predict": 1, "evaluate": 1},
        ),
        ({"tune": TUNE}, {"tune": 2, "finetune": 2, "predict": 2, "evaluate": 2}),
        (SAVED_LESS_OFTEN, {}),
        (
            {"replicates": 2, "predict": MICRO["predict"] | {"ensemble": True}},
            {name: 2 for name in (*TRAINED, "predict_ensemble", "evaluate_ensemble")},
        ),
    ],
    ids=["bound", "start", "cost", "selftrain", "tune", "seconds between checkpoints", "ensemble"],
)
def test_growing_a_study_by_what_an_arm_can_ask_plans_only_what_is_new(
    finished: Path, tmp_path: Path, changes: dict, expected: dict
) -> None:
    jobs = planned("--configfile", micro_study(tmp_path, **changes), cwd=finished)
    assert jobs == expected | {"report": 1, "all": 1}


def test_given_weights_start_an_arm_without_a_pretraining(finished: Path, tmp_path: Path) -> None:
    weights = "results/micro/pretrain/mae/s0/encoder.pt"
    study = micro_study(tmp_path, arms=with_arm(weights=weights))
    assert planned("--configfile", study, cwd=finished) == TRAINED | {"report": 1, "all": 1}


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    study = micro_study(tmp_path, arms=with_arm(weights="mine/encoder.pt"))
    done = snakemake("-n", "--configfile", study, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "mine/encoder.pt" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {}),
        (
            {"arms": with_arm(pretrain={"objective": "voco", "steps": 2})},
            TRAINED | {"pretrain": 1, "tune": 1},
        ),
        ({"replicates": 2}, {"finetune": 2, "predict": 2, "evaluate": 2}),
        ({"bound": {"arm": "scratch", "replicates": 3}}, {
            "finetune_bound": 1, "predict_bound": 1, "evaluate_bound": 1,
        }),
    ],
    ids=["nothing", "arm", "replicate", "seed of the bound"],
)  # fmt: skip
def test_another_arm_of_a_tuned_study_plans_its_own_tuning_alone(
    standing: Path, tmp_path: Path, more: dict, expected: dict
) -> None:
    jobs = planned("--configfile", micro_study(tmp_path, **WHOLE | more), cwd=standing)
    assert jobs == expected | {"report": 1, "all": 1}


def test_the_settings_of_a_tuned_run_do_not_name_a_learning_rate() -> None:
    wildcards = type("Wildcards", (), {"arm": "mae", "labelled": "1", "replicate": "0"})
    plain, tuned = (workflow.Flow(load_study(MICRO | more)) for more in ({}, {"tune": TUNE}))
    assert "learning_rate" in plain.finetune(wildcards)
    assert "learning_rate" not in tuned.finetune(wildcards)
    assert tuned.tuned_of(wildcards) == ["results/micro/tune/mae/tuned.yaml"]
    assert plain.tuned_of(wildcards) == []


def test_the_seconds_between_checkpoints_reach_a_training_and_decide_nothing() -> None:
    wildcards = type("Wildcards", (), {"arm": "mae", "labelled": "1", "replicate": "0"})
    often, seldom = (workflow.Flow(load_study(MICRO | more)) for more in ({}, SAVED_LESS_OFTEN))
    assert json.loads(seldom.pretrain(wildcards, "encoder.pt"))["save_every_s"] == 90
    assert json.loads(seldom.finetune(wildcards, "model.pt"))["save_every_s"] == 90
    assert often.pretrain_decides(wildcards) == seldom.pretrain_decides(wildcards)
    assert often.finetune_decides(wildcards) == seldom.finetune_decides(wildcards)
    decided = json.loads(often.pretrain_decides(wildcards))
    assert decided.keys() == json.loads(often.pretrain(wildcards)).keys() - {"save_every_s"}


def test_another_list_of_rates_changes_no_section_of_a_fine_tuning() -> None:
    wildcards = type("Wildcards", (), {"arm": "mae", "labelled": "1", "replicate": "0"})
    flows = [
        workflow.Flow(load_study(MICRO | {"tune": TUNE | {"learning_rates": rates}}))
        for rates in ([1e-3, 1e-2], [1e-3, 1e-4])
    ]
    assert len({flow.finetune(wildcards) for flow in flows}) == 1
    assert len({flow.tune(wildcards) for flow in flows}) == 2
