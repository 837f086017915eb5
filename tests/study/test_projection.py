"""What a study is said to cost, from a pace that was given; expected numbers by hand."""

import pytest

from medcl.config import Study, load_study
from medcl.study.projection import Pace, project, sentence, wall_seconds

DATASET = {
    "name": "heart",
    "modality": "MR",
    "classes": {"lv": 1},
    "sources": [{"layout": "files", "path": "x"}],
}
PRETRAIN = {
    "objective": "global_contrast",
    "steps": 100,
    "seeds": 2,
    "then": [{"objective": "local_contrast", "steps": 50}],
}
PACE = Pace(
    pretrain={"glocal": [1.0, 2.0]},
    finetune={"scratch": 0.5, "glocal": 0.5, "long": 0.5},
    validate={"scratch": 3.0, "glocal": 3.0, "long": 0.0},
    predict={"scratch": 10.0, "glocal": 10.0, "long": 10.0},
    start=4.0,
)


def study(**changed: object) -> Study:
    arms = {"scratch": {}, "long": {"cost_of": "glocal"}, "glocal": {"pretrain": PRETRAIN}}
    given = {"study": "s", "dataset": DATASET, "arms": arms, "labelled": [1, 4], "replicates": 3}
    given |= {"finetune": {"steps": 20, "validate_every": 10}}
    return load_study(given | {"split": {"test": 5, "validation": 3}} | changed)


def test_the_hours_are_steps_times_pace_validations_and_the_start_of_each_process() -> None:
    made = {(item.stage, item.arm): item for item in project(study(), PACE)}
    pretrain = made["pretrain", "glocal"]
    assert (pretrain.jobs, pretrain.steps) == (2, [150])
    assert pretrain.seconds == 2 * (100 * 1.0 + 50 * 2.0 + 4)
    # Two validations of 2 volumes with 1 label, of all 3 with 4 labels.
    scratch = made["finetune", "scratch"]
    assert scratch.seconds == 3 * (20 * 0.5 + 2 * 2 * 3 + 4) + 3 * (20 * 0.5 + 2 * 3 * 3 + 4)
    assert scratch.longest == 20 * 0.5 + 18 + 4
    # The 200 s of the pretraining are 400 steps of 0.5 s.
    assert made["finetune", "long"].steps == [420]
    assert made["finetune", "long"].seconds == 6 * (420 * 0.5 + 4)
    assert made["predict", "long"].seconds == 6 * (10.0 + 4)


def test_trial_runs_and_the_bound_are_counted() -> None:
    tune = {"learning_rates": [1e-3, 2e-3, 4e-3], "labelled": 1, "steps": 20}
    whole = study(tune=tune, bound={"arm": "scratch", "steps": 100})
    made = {(item.stage, item.arm): item for item in project(whole, PACE)}
    # Each rate is judged once, on all 3 validation subjects.
    assert made["tune", "scratch"].seconds == 3 * (20 * 0.5 + 3 * 3) + 4
    assert ("tune", "long") not in made
    assert made["finetune, bound", "scratch"].seconds == 2 * (100 * 0.5 + 10 * 3 * 3 + 4)
    assert made["predict", "scratch"].jobs == 6 + 2


def test_an_ensemble_predicts_with_every_network_of_an_arm() -> None:
    made = {(i.stage, i.arm): i for i in project(study(predict={"ensemble": True}), PACE)}
    together = made["predict, ensemble", "long"]
    assert (together.jobs, together.seconds) == (2, 2 * (3 * 10.0 + 4))
    assert not any(item.stage == "predict, ensemble" for item in project(study(), PACE))


def test_what_could_not_be_timed_is_not_guessed() -> None:
    pace = Pace({"glocal": None}, PACE.finetune, PACE.validate, {}, 4.0)
    made = {(item.stage, item.arm): item for item in project(study(), pace)}
    unknown = {key for key, item in made.items() if item.seconds is None}
    assert unknown == {
        ("pretrain", "glocal"),
        ("finetune", "long"),
        *(("predict", arm) for arm in ("scratch", "long", "glocal")),
    }


def test_jobs_run_side_by_side_but_a_stage_waits_for_the_one_before() -> None:
    made = project(study(), PACE)
    total = sum(item.seconds for item in made)
    assert wall_seconds(made, 2) == pytest.approx(total / 2)
    chain = 204 + (420 * 0.5 + 4) + 14
    assert wall_seconds(made, 1000) == pytest.approx(chain)


def test_the_amount_of_work_is_said_at_no_cost() -> None:
    tune = {"learning_rates": [1e-3, 2e-3], "labelled": 1, "steps": 10}
    assert sentence(study(tune=tune)) == (
        "s: 2 pretrainings (300 steps), 2 tunings (40 steps), "
        "18 fine-tunings (360 steps and those of equal cost)"
    )


def test_an_arm_that_trains_itself_is_charged_for_every_network_and_for_labelling_the_pool() -> (
    None
):
    """Two rounds of three networks: 6 trainings; the pool of 30 less 4 is labelled by 3, twice."""
    teaching = {"of": "scratch", "rounds": 2, "members": 3}
    arms = {"scratch": {}, "self": {"selftrain": teaching}}
    pace = Pace(
        {}, {"scratch": 0.5, "self": 0.5}, {"self": 3.0}, {}, 4.0, label={"self": 2.0}, pool=30
    )
    made = {
        i.arm: i for i in project(study(arms=arms, labelled=[4]), pace) if i.stage == "finetune"
    }
    trained = 6 * (20 * 0.5 + 2 * 3 * 3.0)
    assert made["self"].seconds == 3 * (trained + 6 * 26 * 2.0 + 4)
    assert made["self"].steps == [6 * 20]
    unknown = Pace({}, pace.finetune, pace.validate, {}, 4.0, label=pace.label)
    made = {
        item.arm: item
        for item in project(study(arms=arms, labelled=[4]), unknown)
        if item.stage == "finetune"
    }
    assert made["self"].seconds == 3 * (trained + 4)
    said = sentence(study(arms=arms, labelled=[4]))
    assert said == "s: 6 fine-tunings (420 steps)"


def test_a_probe_makes_no_step_and_takes_a_while_for_each_labelled_volume() -> None:
    arms = {"scratch": {}, "knn": {"finetune": {"mode": "knn"}}}
    pace = Pace({}, {"scratch": 0.5, "knn": 7.0}, {}, {}, 4.0, candidates=12)
    whole = study(arms=arms, bound={"arm": "knn", "replicates": 1})
    made = {(item.stage, item.arm): item for item in project(whole, pace)}
    assert made["finetune", "knn"].seconds == 3 * (1 * 7.0 + 4) + 3 * (4 * 7.0 + 4)
    assert made["finetune", "knn"].steps == [0]
    assert made["finetune, bound", "knn"].seconds == 12 * 7.0 + 4
