"""The table of runs: who starts from what, by which order, seed, steps and learning rate."""

import csv
from pathlib import Path

import pytest

from medcl.config import ConfigError, Study, load_study, primary_pairs
from medcl.study import protocol
from medcl.training.seeds import seed_of

DATASET = {
    "name": "heart",
    "modality": "MR",
    "classes": {"lv": 1},
    "sources": [{"layout": "files", "path": "x"}],
}
PRETRAIN = {"objective": "mae", "steps": 3, "seeds": 2}
ARMS = {
    "scratch": {},
    "long": {"cost_of": "dense"},
    "own": {"weights": "mine/encoder.pt"},
    "mae": {"pretrain": PRETRAIN, "control": True},
    "dense": {"pretrain": PRETRAIN},
    "short": {"start": "dense", "finetune": {"steps": 7}},
}
TUNE = {"learning_rates": [1e-3, 1e-2], "labelled": 2}


def study(**changed: object) -> Study:
    given = {"study": "s", "dataset": DATASET, "arms": ARMS, "labelled": [1, 4], "replicates": 3}
    return load_study(given | {"finetune": {"steps": {1: 20, 4: 50}}} | changed)


def test_there_is_one_row_for_each_arm_label_count_and_replicate() -> None:
    rows = protocol.runs(study())
    assert len({row.folder for row in rows}) == len(rows) == 6 * 2 * 3
    assert rows[0].folder == "finetune/scratch/n1/r0"


def test_pretraining_seeds_go_to_replicates_in_turn_also_of_an_arm_that_starts_from_another() -> (
    None
):
    for arm in ("dense", "short"):
        folders = [protocol.run(study(), arm, 1, r).origin.folder for r in range(3)]
        assert folders == ["pretrain/dense/s0", "pretrain/dense/s1", "pretrain/dense/s0"]
    assert protocol.run(study(), "scratch", 1, 0).origin is None
    assert protocol.run(study(), "own", 1, 2).origin.file == "mine/encoder.pt"


def test_an_arm_that_starts_from_another_adds_no_pretraining() -> None:
    folders = [start.folder for start in protocol.pretrainings(study())]
    assert folders == [f"pretrain/{arm}/s{seed}" for arm in ("mae", "dense") for seed in (0, 1)]


def test_seeds_that_no_replicate_uses_are_not_pretrained() -> None:
    assert len(protocol.pretrainings(study(replicates=1))) == 2
    bound = {"arm": "dense", "replicates": 2}
    assert len(protocol.pretrainings(study(replicates=1, bound=bound))) == 3


def test_steps_follow_the_label_count_and_an_arms_own_settings() -> None:
    rows = {(row.arm, row.labelled): row.settings.steps for row in protocol.runs(study())}
    assert (rows["scratch", 1], rows["scratch", 4]) == (20, 50)
    assert (rows["short", 1], rows["short", 4]) == (7, 7)
    assert protocol.changes_of(study(), "short") == {"steps": 7}
    assert protocol.changes_of(study(), "dense") == {}


def test_a_cost_matched_run_names_its_own_pretraining_and_the_same_run_from_scratch() -> None:
    row = protocol.run(study(), "long", 4, 1)
    assert row.origin is None
    assert row.matched.pretraining.folder == "pretrain/dense/s1"
    assert row.matched.pace == "finetune/scratch/n4/r1"
    assert row.settings.steps == 50


@pytest.mark.parametrize(
    ("arm", "controls"),
    [
        ("scratch", ()),
        ("long", ("scratch",)),
        ("own", ("scratch",)),
        ("mae", ("scratch",)),
        ("dense", ("scratch", "long", "own", "mae")),
        ("short", ("scratch", "long", "own", "mae")),
        ("other", ("scratch", "own", "mae")),
    ],
)
def test_pretrained_arms_stand_beside_every_control_that_fits_them(
    arm: str, controls: tuple[str, ...]
) -> None:
    """`long` matches the cost of dense and says nothing of another pretraining."""
    arms = ARMS | {"other": {"pretrain": PRETRAIN}}
    assert protocol.controls_of(study(arms=arms), arm) == controls


def test_the_control_is_the_first_arm_from_scratch_with_the_studys_own_fine_tuning() -> None:
    other = {"finetune": {"augment": False}}
    assert study().control == "scratch"
    assert study(arms={"plain": other, "scratch": {}}).control == "scratch"
    assert study(arms={"plain": other, "mae": {"pretrain": PRETRAIN}}).control == "plain"
    assert study(arms={"scratch": {}}).control is None


def test_the_trial_runs_take_an_order_nobody_reports_and_the_first_pretraining() -> None:
    made = {row.arm: row for row in protocol.trials(study(tune=TUNE | {"steps": 9}))}
    assert list(made) == ["scratch", "own", "mae", "dense", "short"]
    dense = made["dense"]
    assert (dense.folder, dense.replicate, dense.labelled) == ("tune/dense", 31, 2)
    assert dense.origin.folder == "pretrain/dense/s0"
    assert {row.settings.steps for row in made.values()} == {9}
    assert protocol.trials(study()) == []


def test_each_arm_takes_its_own_learning_rate_and_the_matched_one_that_of_the_control() -> None:
    tuned = study(tune=TUNE)
    assert protocol.run(tuned, "short", 1, 0).tuned == "tune/short/tuned.yaml"
    assert protocol.run(tuned, "long", 1, 0).tuned == "tune/scratch/tuned.yaml"
    assert protocol.run(study(), "short", 1, 0).tuned is None


def test_the_bound_trains_one_arm_on_all_candidates() -> None:
    first, second = protocol.bound_runs(study(bound={"arm": "dense", "steps": 99}, tune=TUNE))
    assert [first.folder, second.folder] == ["bound/dense/r0", "bound/dense/r1"]
    assert first.labelled is None
    assert first.settings.steps == 99
    assert second.origin.folder == "pretrain/dense/s1"
    assert first.tuned == "tune/dense/tuned.yaml"
    assert protocol.bound_runs(study()) == []


def test_the_table_says_it_all(tmp_path: Path) -> None:
    whole = study(bound={"arm": "scratch"}, tune=TUNE)
    protocol.write_table(tmp_path / "protocol.csv", whole)
    rows = list(csv.DictReader((tmp_path / "protocol.csv").read_text().splitlines()))
    assert len(rows) == 36 + 2 + 5
    (row,) = (r for r in rows if (r["arm"], r["labelled"], r["replicate"]) == ("long", "1", "2"))
    assert row["steps"] == "20 + cost of pretrain/dense/s0"
    assert row["learning_rate"] == "tune/scratch/tuned.yaml"
    assert row["seed"] == str(seed_of(2, 1))
    assert row["controls"] == "scratch"
    assert {r["labelled"] for r in rows if r["stage"] == "bound"} == {"all"}


def test_a_probe_has_neither_steps_nor_a_rate_in_the_table(tmp_path: Path) -> None:
    probed = study(arms=ARMS | {"knn": {"start": "dense", "finetune": {"mode": "knn"}}})
    protocol.write_table(tmp_path / "protocol.csv", probed)
    rows = list(csv.DictReader((tmp_path / "protocol.csv").read_text().splitlines()))
    assert {(r["steps"], r["learning_rate"]) for r in rows if r["arm"] == "knn"} == {("", "")}


def test_the_table_names_the_run_whose_network_labels_the_pool(tmp_path: Path) -> None:
    protocol.write_table(
        tmp_path / "protocol.csv", study(arms=ARMS | {"self": {"selftrain": {"of": "short"}}})
    )
    rows = list(csv.DictReader((tmp_path / "protocol.csv").read_text().splitlines()))
    teachers = {r["teacher"] for r in rows if (r["arm"], r["labelled"]) == ("self", "4")}
    assert teachers == {f"finetune/short/n4/r{r}" for r in range(3)}
    assert {r["teacher"] for r in rows if r["arm"] != "self"} == {""}


def test_an_arm_that_trains_itself_has_the_weights_settings_and_rate_of_its_teacher() -> None:
    short = ARMS["short"] | {"start": "mae"}
    arms = ARMS | {"short": short, "self": {"selftrain": {"of": "short"}}}
    made = study(arms=arms, tune=TUNE)
    row = protocol.run(made, "self", 4, 1)
    assert row.teacher == "finetune/short/n4/r1"
    assert row.origin.folder == "pretrain/mae/s1"
    assert row.settings.steps == 7
    assert row.tuned == "tune/short/tuned.yaml"
    assert "self" not in [trial.arm for trial in protocol.trials(made)]
    assert ("self", 1) not in primary_pairs(made)
    assert row.controls == ("scratch", "short")


def test_a_probe_has_no_learning_rate_to_tune() -> None:
    made = study(arms=ARMS | {"knn": {"start": "mae", "finetune": {"mode": "knn"}}}, tune=TUNE)
    assert protocol.run(made, "knn", 1, 0).tuned is None
    assert "knn" not in [trial.arm for trial in protocol.trials(made)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"arms": {"scratch": {}, "dense": {"pretrain": PRETRAIN, "finetune": {"steps": 9}},
                      "long": {"cost_of": "dense"}}},
            "arms.long.cost_of: dense is fine-tuned with another steps; give both the same",
        ),
        (
            {"arms": {"scratch": {}, "dense": {"pretrain": PRETRAIN, "finetune": {"batch": 3}},
                      "long": {"cost_of": "dense", "finetune": {"batch": 3}}}},
            "arms.long.cost_of: its pace is that of scratch, which is fine-tuned with another "
            "batch",
        ),
        (
            {"arms": {"scratch": {}, "dense": {"pretrain": PRETRAIN, "finetune": {"batch": 1}},
                      "taught": {"selftrain": {"of": "dense"}, "finetune": {"mixup": 0.2}}}},
            "mixup mixes crops of a batch",
        ),
        (
            {"arms": {"scratch": {}, "dense": {"pretrain": PRETRAIN, "labelled": [4]}},
             "primary": {"labelled": [1]}},
            "primary.labelled: no arm that is compared is run with 1 labelled",
        ),
        (
            {"arms": {"scratch": {}, "dense": {"pretrain": PRETRAIN, "labelled": [4]},
                      "other": {"start": "dense", "finetune": {"steps": 9}}},
             "primary": {"labelled": [1]}},
            "primary.labelled: no arm that is compared is run with 1 labelled",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(changed: dict, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        study(**changed)
    assert said in str(error.value)


def test_how_often_a_state_is_saved_makes_no_control_unlike() -> None:
    arms = {"scratch": {}, "dense": {"pretrain": PRETRAIN, "finetune": {"save_every_s": 5}}}
    found = study(arms=arms | {"long": {"cost_of": "dense"}})
    assert protocol.run(found, "long", 1, 0).matched is not None


def test_a_self_trained_arm_may_need_what_its_teacher_has() -> None:
    arms = {"scratch": {}, "dense": {"pretrain": PRETRAIN, "finetune": {"batch": 2}}}
    arms["taught"] = {"selftrain": {"of": "dense"}, "finetune": {"mixup": 0.2}}
    found = study(arms=arms, finetune={"batch": 1})
    assert protocol.run(found, "taught", 1, 0).settings.mixup == 0.2


def primary(**changed: object) -> set[str]:
    return {arm for arm, _ in primary_pairs(study(**changed))}


def test_arms_that_are_fine_tuned_otherwise_are_not_primary_unless_named() -> None:
    assert primary() == {"dense"}
    often = ARMS | {"dense": ARMS["dense"] | {"finetune": {"save_every_s": 3}}}
    assert primary(arms=often) == {"dense"}
    assert primary(primary={"arms": ["short"]}) == {"short"}


def test_a_pretrained_arm_that_is_a_control_is_not_primary_unless_named_or_alone() -> None:
    assert primary(arms=ARMS | {"mae": {"pretrain": PRETRAIN}}) == {"mae", "dense"}
    assert primary(primary={"arms": ["mae", "dense"]}) == {"mae", "dense"}
    assert primary(arms={"scratch": {}, "mae": ARMS["mae"]}) == {"mae"}
