"""The answer in one sentence per label count: what it claims, and of whom."""

from dataclasses import replace

from make_results import Fake, make

from medcl.files import read_yaml, write_yaml
from medcl.study.comparison import Comparison, compare
from medcl.study.headline import headline, reached, spent_instead
from medcl.study.measures import MEASURES
from medcl.study.results import read_results
from medcl.study.sections_results import headlines
from medcl.study.statistics import Estimate

FOUND = Estimate(0.032, 5, 8, 8, low=0.011, high=0.053, p=0.01, detectable=0.029)
GAIN = Comparison(
    "voco", 4, "scratch", MEASURES["dice"], Estimate(0.7, 5, 8, 8), FOUND, "ok", 3, 60.0, (),
    family=2, p_holm=0.02,
)  # fmt: skip
UNCLEAR = replace(
    GAIN,
    arm="mae",
    seeds=5,
    difference=replace(FOUND, mean=-0.016, low=-0.034, high=0.003, detectable=0.0381),
    p_holm=0.4,
)
SCRATCH = "training from scratch"


def test_a_gain_comes_first_and_what_is_unclear_after_it() -> None:
    assert headline([UNCLEAR, GAIN], SCRATCH) == (
        "With 4 labelled subjects, these 3 encoders (voco) gain 3.2 Dice points over training from "
        "scratch (95 % interval 1.1 to 5.3); no measurable difference for this method (mae) −1.6 "
        "Dice points (95 % interval −3.4 to 0.3); a true difference of less than 3.9 points may "
        "have gone unseen."
    )


def test_what_the_cost_of_a_pretraining_gave_from_scratch_is_told_without_a_claim() -> None:
    one = replace(GAIN, arm="long", seeds=0, labelled=1, family=0, p_holm=None)
    two = replace(one, labelled=2, difference=replace(FOUND, mean=-0.01, low=-0.03, high=0.01))
    four = replace(one, labelled=4, difference=replace(FOUND, low=None, high=None))
    none = replace(one, labelled=8, difference=replace(FOUND, mean=None))
    assert spent_instead([one, two, four, none], "dense", SCRATCH) == (
        "Secondary, not corrected: spent on further steps from scratch instead (long), the cost of "
        "the pretraining of dense makes a difference to training from scratch of +3.2 Dice points "
        "(95 % interval 1.1 to 5.3), −1.0 (−3.0 to 1.0) and +3.2 (no interval) with 1, 2 and 4 "
        "labelled subjects."
    )
    assert spent_instead([none], "dense", SCRATCH) == ""


def with_mean(mean: float | None, **more: object) -> Comparison:
    return replace(GAIN, mean=replace(GAIN.mean, mean=mean), **more)


def test_the_highest_mean_is_set_beside_the_bound_without_a_claim() -> None:
    items = [
        with_mean(0.6),
        with_mean(0.4, labelled=1),
        with_mean(0.5, labelled=1, arm="long"),
        with_mean(None, labelled=8),
    ]
    assert reached(items, 0.8, "scratch", 25) == (
        "Of the 80.0 Dice points that scratch reaches with all 25 labelled candidates, the highest "
        "mean of an arm is 62 and 75 % with 1 and 4 labelled subjects (in turn long and voco). It "
        "is the highest of several, which flatters it, and no claim that one arm is better than "
        "another."
    )
    one = reached(items[:1], 0.8, "scratch", 25)
    assert "is 75 % with 4 labelled subjects (voco)." in one
    distance = [replace(item, measure=MEASURES["hd95_mm"]) for item in items]
    assert reached(distance, 8.0, "scratch", 25) == ""
    assert reached(items[3:], 0.8, "scratch", 25) == ""


def test_one_unclear_arm_is_set_against_training_from_scratch() -> None:
    assert headline([replace(UNCLEAR, labelled=1, seeds=1)], SCRATCH) == (
        "With 1 labelled subject, no measurable difference between this encoder (mae) and training "
        "from scratch (−1.6 Dice points, 95 % interval −3.4 to 0.3); a true difference of less "
        "than 3.9 points may have gone unseen."
    )


def test_several_unclear_arms_share_a_sentence_and_the_range_of_what_was_visible() -> None:
    other = replace(GAIN, p_holm=0.06)  # Holm does not uphold it
    text = headline([other, UNCLEAR], SCRATCH)
    assert (
        "no measurable difference to training from scratch: these 3 encoders (voco) +3.2 Dice "
        "points (95 % interval 1.1 to 5.3, after Holm's correction p = 0.06), this method (mae) "
        "−1.6 (−3.4 to 0.3); a true difference of less than 3.9 points may have gone unseen"
    ) in text
    assert " gain " not in text


def test_a_smaller_distance_is_said_to_be_lower() -> None:
    shorter = replace(FOUND, mean=-1.2, low=-2.0, high=-0.4)
    text = headline([replace(GAIN, measure=MEASURES["hd95_mm"], difference=shorter)], "mae")
    assert "these 3 encoders (voco) lower HD95 by 1.2 mm against mae (95 % interval −2.0" in text


def test_without_an_interval_nothing_is_claimed() -> None:
    few = Estimate(0.032, 3, 8, 8, reason="3 replicates; an interval needs at least 5")
    text = headline([replace(GAIN, difference=few)], SCRATCH)
    assert "from training from scratch by +3.2 Dice points, which without an interval" in text
    lost = Estimate(None, 0, 0, 0, reason="no replicate finished")
    assert "could not be compared with training from scratch: no replicate finished" in headline(
        [replace(GAIN, difference=lost)], SCRATCH
    )


def test_only_label_counts_with_a_primary_comparison_have_a_headline(tmp_path) -> None:
    fake = Fake(labelled=(1, 2), volumes=False, primary={"labelled": [2]})
    read = read_results(make(tmp_path / "a", fake), tmp_path / "a")
    (said,) = headlines(read, compare(read))
    assert "With 2 labelled subjects, " in said


def test_replicates_that_share_encoders_are_not_called_a_method_and_given_weights_are_one(
    tmp_path,
) -> None:
    """5 replicates: 3 seeds are 3 encoders, 5 are the method, weights from elsewhere are one."""
    effects, seeds = {"voco": 0.06, "mae": 0.06, "own": 0.06}, {"voco": 3, "mae": 5}
    file = make(tmp_path / "a", Fake(effects, seeds, labelled=(1,), tests=4, volumes=False))
    content = read_yaml(file)
    content["arms"]["own"] = {"weights": "mine/encoder.pt"}
    content["primary"] = {"arms": ["voco", "mae", "own"]}
    write_yaml(file, content)
    read = read_results(file, tmp_path / "a")
    assert {item.arm: item.seeds for item in compare(read)} == {
        "scratch": 0, "voco": 3, "mae": 5, "own": 1,
    }  # fmt: skip
    (said,) = headlines(read, compare(read))
    for words in ("these 3 encoders (voco)", "this method (mae)", "this encoder (own)"):
        assert words in said
