"""Studies of slides: what is refused, and what a study asks when it does not say."""

import pytest

from medcl.config import ConfigError, load_slide_study, load_study
from medcl.config.loading import kind_of

DATASET = {"name": "s", "classes": ["normal", "tumour"]}
PRETRAIN = {"objective": "tile_contrast", "steps": 3}


def study(**changed: object) -> dict:
    given = {"kind": "slides", "study": "s", "dataset": DATASET, "encoders": {"random": {}}}
    return given | {"aggregators": {"abmil": "abmil"}} | changed


def test_all_problems_of_a_slide_study_are_said_at_once() -> None:
    wrong = study(
        encoders={"a": {"pretrain": {"objective": {"name": "tile_contrst"}, "steps": 3}}},
        aggregators={"b": {"name": "abmil", "widht": 3}},
        folds={"count": 2},
        mil={"stepz": 3},
    )
    with pytest.raises(ConfigError) as error:
        load_slide_study(wrong)
    text = str(error.value)
    assert len(text.splitlines()) == 4
    assert "folds.count: input should be greater than or equal to 3, got 2" in text
    assert "mil.stepz: no such key; did you mean 'steps'?" in text
    assert "encoders.a.pretrain.objective.name: no such entry 'tile_contrst'" in text
    assert "aggregators.b.widht: no such key; did you mean 'width'?" in text


def test_an_encoder_has_one_origin() -> None:
    both = {"a": {"pretrain": PRETRAIN, "weights": "mine.pt"}}
    with pytest.raises(ConfigError, match="gives both `pretrain` and `weights`"):
        load_slide_study(study(encoders=both))


def test_the_study_asks_about_the_pretrained_encoder_beside_the_random_one() -> None:
    found = load_slide_study(study(encoders={"random": {}, "mine": {"pretrain": PRETRAIN}}))
    assert (found.asked, found.control, found.aggregator) == ("mine", "random", "abmil")
    assert load_slide_study(study()).control is None


def test_a_primary_encoder_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"primary\.encoder: no 'x'; one of random"):
        load_slide_study(study(primary={"encoder": "x"}))


@pytest.mark.parametrize(
    ("aggregator", "mil", "problem"),
    [
        (
            {"name": "ins", "warm_steps": 300},
            {},
            "aggregators.a.warm_steps: 300 of the 300 steps of `mil.steps` teach bag labels",
        ),
        ("ins", {"steps": 1}, "aggregators.a.warm_steps: 1 of the 1 steps"),
        (
            "scmil",
            {"batch": 5},
            "mil.batch: 5 bags a step, and aggregators.a needs 6: two of each of 3 classes",
        ),
    ],
)
def test_an_aggregator_that_cannot_be_trained_is_refused_before_any_training(
    aggregator: object, mil: dict, problem: str
) -> None:
    three = {"name": "s", "classes": ["benign", "insitu", "invasive"]}
    with pytest.raises(ConfigError) as error:
        load_slide_study(study(dataset=three, aggregators={"a": aggregator}, mil=mil))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"configuration: {problem}")


@pytest.mark.parametrize(
    ("aggregator", "mil"),
    [("ins", {}), ({"name": "ins", "warm_steps": 299}, {}), ("ins", {"steps": 2}),
     ("scmil", {}), ("scmil", {"batch": 4})],
)  # fmt: skip
def test_an_aggregator_with_room_for_its_steps_and_bags_is_accepted(
    aggregator: object, mil: dict
) -> None:
    found = load_slide_study(study(aggregators={"a": aggregator}, mil=mil))
    assert list(found.aggregators) == ["a"]


def test_a_finding_is_waived_where_weights_are_given() -> None:
    with pytest.raises(ConfigError, match=r"encoders\.a: `waive` is about `weights`"):
        load_slide_study(study(encoders={"a": {"waive": ["test_slides"]}}))
    given = {"a": {"weights": "mine.pt", "waive": ["test_slides"]}}
    assert load_slide_study(study(encoders=given)).encoders["a"].waive == ["test_slides"]


def test_the_kind_of_a_study_chooses_its_keys() -> None:
    assert [kind_of(study()), kind_of({})] == ["slides", "volumes"]
    with pytest.raises(ConfigError, match="no such kind of study: 'slide'; did you mean 'slides'"):
        kind_of({"kind": "slide"})
    with pytest.raises(ConfigError, match="a study of slides, and this takes studies of volumes"):
        load_study(study())


def test_an_encoder_trained_on_training_patients_belongs_to_its_fold() -> None:
    everyone = {"pretrain": PRETRAIN | {"patients": "all"}}
    encoders = {"a": {"pretrain": PRETRAIN}, "b": everyone, "c": {}}
    found = load_slide_study(study(encoders=encoders)).encoders
    assert [one.by_fold for one in found.values()] == [True, False, False]
