"""What arms may say of one another, and what a study refuses before it starts."""

import pytest

from medcl.config import ConfigError, load_study

DATASET = {
    "name": "heart",
    "modality": "MR",
    "classes": {"lv": 1},
    "sources": [{"layout": "files", "path": "x"}],
}
PRETRAIN = {"objective": "mae", "steps": 3}
ARMS = {"scratch": {}, "dense": {"pretrain": PRETRAIN}}
OTHERS = {
    "own": {"weights": "e.pt"},
    "knn": {"start": "dense", "finetune": {"mode": "knn"}},
    "taught": {"selftrain": {"of": "dense"}},
}


def study(**changed: object) -> dict:
    return {"study": "s", "dataset": DATASET, "arms": ARMS, "labelled": [1]} | changed


@pytest.mark.parametrize(
    ("arm", "problem"),
    [
        ({"start": "dens"}, "arms.a.start: no arm 'dens'; did you mean 'dense'?"),
        ({"start": "scratch"}, "arms.a.start: scratch starts from no pretraining"),
        ({"start": "a"}, "arms.a.start: a starts from no pretraining"),
        ({"cost_of": "scratch"}, "arms.a.cost_of: scratch starts from no pretraining"),
        ({"cost_of": "own"}, "arms.a.cost_of: what the weights of own cost is not known"),
        ({"pretrain": PRETRAIN, "start": "dense"}, "arms.a: pretrain and start cannot stand"),
        ({"finetune": {"step": 3}}, "arms.a.finetune.step: no such key; did you mean 'steps'?"),
        ({"weights": "a b.pt"}, "arms.a.weights: string should match pattern"),
        ({"selftrain": {"of": "dens"}}, "arms.a.selftrain.of: no arm 'dens'; did you mean"),
        ({"selftrain": {"of": "a"}}, "arms.a.selftrain.of: a is made from other runs itself"),
        ({"selftrain": {"of": "own"}, "start": "own"}, "start and selftrain cannot stand"),
        ({"labelled": [3]}, "arms.a.labelled.0: 3 is not in the study's `labelled`"),
        ({"selftrain": {"of": "knn"}}, "arms.a.selftrain.of: knn is a probe"),
        ({"cost_of": "taught"}, "arms.a.cost_of: taught is made from other runs"),
        ({"finetune": {"mixup": 0.2, "batch": 1}}, "arms.a.finetune"),
    ],
)
def test_an_arm_that_leads_nowhere_is_refused_with_its_key(arm: dict, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_study(study(arms=ARMS | OTHERS | {"a": arm}))
    assert problem in str(error.value)


def test_arms_that_start_from_each_other_are_refused() -> None:
    arms = ARMS | {"a": {"start": "b"}, "b": {"start": "c"}, "c": {"start": "b"}}
    with pytest.raises(ConfigError) as error:
        load_study(study(arms=arms))
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == [
        "arms.a.start", "arms.b.start", "arms.c.start"
    ]  # fmt: skip


def test_problems_between_sections_are_shown_all_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load_study(
            study(
                arms=ARMS | {"rated": {"start": "dense", "finetune": {"learning_rate": 0.1}}},
                primary={"arms": ["scratch", "dence"], "labelled": [2]},
                bound={"arm": "nobody", "replicates": 7},
                tune={"learning_rates": [0.1, 0.2], "labelled": 1, "replicate": 6},
            )
        )
    said = str(error.value)
    assert "primary.arms.0: scratch is the control" in said
    assert "primary.arms.1: no arm 'dence'; did you mean 'dense'?" in said
    assert "primary.labelled.0: 2 is not in the study's `labelled`; one of 1" in said
    assert "bound.arm: no arm 'nobody'; there are: scratch, dense, rated" in said
    assert "tune.replicate: replicate 6 is reported (there are 7)" in said
    assert "arms.rated.finetune.learning_rate: `tune` chooses" in said
    assert len(said.splitlines()) == 6


def test_a_bound_of_equal_cost_is_refused() -> None:
    arms = ARMS | {"long": {"cost_of": "dense"}}
    with pytest.raises(ConfigError, match=r"bound\.arm: the steps of long follow from another run"):
        load_study(study(arms=arms, bound={"arm": "long"}))


def test_arms_without_a_plain_one_have_no_control() -> None:
    arms = {"dense": {"pretrain": PRETRAIN}, "long": {"cost_of": "dense"}}
    with pytest.raises(ConfigError, match="no arm starts from scratch"):
        load_study(study(arms=arms))


def test_a_resolved_study_says_of_an_arm_only_what_was_changed() -> None:
    """Defaults written as changes would win over the study's own `finetune`."""
    arms = ARMS | {"short": {"start": "dense", "finetune": {"steps": 5}}}
    first = load_study(study(arms=arms, finetune={"batch": 3}))
    resolved = first.model_dump(mode="json")
    assert resolved["arms"]["short"]["finetune"] == {"steps": 5}
    again = load_study(resolved)
    assert again == first
    tuned = again.finetune.changed_by(again.arms["short"].finetune)
    assert (tuned.steps, tuned.batch) == (5, 3)


def test_a_primary_comparison_of_labels_an_arm_is_not_run_with_is_refused() -> None:
    arms = ARMS | {"some": {"start": "dense", "labelled": [1]}}
    with pytest.raises(ConfigError) as error:
        load_study(study(arms=arms, labelled=[1, 2], primary={"arms": ["some"], "labelled": [2]}))
    assert "primary.arms.0: some is not run with 2 labelled" in str(error.value)
