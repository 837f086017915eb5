"""What a comparison may be called, at the borders of what it may be called."""

import pytest

from medcl.study.measures import MEASURES
from medcl.study.sentences import encoder_words, mean_sentence, p_value, points, sentence, verdict

# a primary comparison, the only one of its study
SURE = {
    "p_holm": 0.0123,
    "family": 1,
    "difference": 0.032,
    "interval": (0.011, 0.053),
    "p": 0.0123,
    "replicates": 5,
    "detectable": 0.029,
    "arm": "voco",
    "labelled": 4,
    "seeds": 1,
}


def say(**changes):
    return sentence(**{**SURE, **changes})


def test_an_interval_above_zero_is_a_gain():
    assert say() == (
        "With 4 labelled subjects, this encoder (voco) gains 3.2 Dice points over training from "
        "scratch (95 % interval 1.1 to 5.3, p = 0.012, 5 replicates)."
    )


def test_an_interval_below_zero_is_a_loss_said_as_plainly():
    text = say(difference=-0.032, interval=(-0.053, -0.011))
    assert text == (
        "With 4 labelled subjects, this encoder (voco) loses 3.2 Dice points against training from "
        "scratch (95 % interval −5.3 to −1.1, p = 0.012, 5 replicates)."
    )


def test_an_interval_that_includes_zero_says_what_the_study_could_have_seen():
    text = say(interval=(-0.004, 0.068), p=0.07)
    assert text == (
        "With 4 labelled subjects, no measurable difference between this encoder (voco) and "
        "training from scratch (+3.2 Dice points, 95 % interval −0.4 to 6.8, p = 0.07, "
        "5 replicates); this study could have seen 2.9 points."
    )


@pytest.mark.parametrize("interval", [(0.0, 0.06), (-0.06, 0.0), (-1e-9, 0.06), (-0.06, 1e-9)])
def test_an_interval_that_touches_zero_is_neither_gain_nor_loss(interval):
    text = say(interval=interval, p=0.05)
    assert "no measurable difference" in text
    assert not any(word in text for word in (" gains ", " loses ", "no effect"))


def test_a_gain_that_holms_correction_does_not_uphold_is_not_claimed():
    text = say(p=0.0123, p_holm=0.074, family=6)
    assert text == (
        "With 4 labelled subjects, no measurable difference between this encoder (voco) and "
        "training from scratch (+3.2 Dice points, 95 % interval 1.1 to 5.3, p = 0.012, after "
        "Holm's correction for 6 comparisons p = 0.074, 5 replicates); this study could have seen "
        "2.9 points."
    )


@pytest.mark.parametrize(("p_holm", "claimed"), [(0.0499, True), (0.05, False), (None, False)])
@pytest.mark.parametrize(("interval", "verb"), [((0.01, 0.05), "gains"), ((-0.05, -0.01), "loses")])
def test_a_primary_comparison_claims_only_below_five_per_cent_after_holm(
    p_holm, claimed, interval, verb
):
    text = say(interval=interval, p_holm=p_holm, family=3)
    assert (f" {verb} " in text) == claimed
    assert ("no measurable difference" in text) != claimed


def test_a_secondary_comparison_is_called_one_and_needs_no_correction():
    text = say(p_holm=None, family=0, against="mae")
    assert text == (
        "With 4 labelled subjects, this encoder (voco) gains 3.2 Dice points over mae (95 % "
        "interval 1.1 to 5.3, p = 0.012, 5 replicates; secondary)."
    )


def test_a_smaller_distance_is_the_gain_and_a_larger_one_the_loss():
    far = MEASURES["hd95_mm"]
    better = say(measure=far, difference=-1.24, interval=(-2.0, -0.5), detectable=1.0)
    assert "this encoder (voco) lowers HD95 by 1.2 mm against training from scratch" in better
    worse = say(measure=far, difference=1.24, interval=(0.5, 2.0), detectable=1.0)
    assert "this encoder (voco) raises HD95 by 1.2 mm against training from scratch" in worse
    unclear = say(measure=far, difference=1.24, interval=(-0.5, 3.0), detectable=2.01)
    assert "(+1.2 mm HD95, 95 % interval −0.5 to 3.0" in unclear
    assert "could have seen 2.1 mm" in unclear
    assert verdict((-2.0, -0.5), measure=far) == "gain"
    assert verdict((0.5, 2.0), measure=far) == "loss"


def test_an_arm_without_a_pretraining_goes_by_its_name():
    assert "scratch-long gains 3.2 Dice points" in say(arm="scratch-long", seeds=0)


def test_a_gain_too_small_for_one_decimal_is_printed_with_more():
    text = say(difference=0.0004, interval=(0.0002, 0.0006), p=0.001)
    assert "gains 0.04 Dice points" in text
    assert "interval 0.02 to 0.06" in text


def test_the_detectable_difference_is_rounded_up():
    assert "could have seen 3.0 points" in say(interval=(-0.01, 0.07), detectable=0.02901)


@pytest.mark.parametrize(
    ("seeds", "words"), [(1, "this encoder"), (2, "these 2 encoders"), (4, "these 4 encoders")]
)
def test_replicates_that_share_pretrainings_speak_of_encoders(seeds, words):
    assert words in say(seeds=seeds)
    assert "method" not in say(seeds=seeds)


def test_a_pretraining_for_each_replicate_speaks_of_the_method():
    assert encoder_words("voco", 5, 5) == "this method (voco)"
    assert encoder_words("voco", 2, 2) == "these 2 encoders (voco)"
    assert "these 2 encoders (voco) gain 3.2" in say(seeds=2)


def test_fewer_than_five_replicates_give_the_difference_alone_and_the_reason():
    text = say(interval=None, p=None, detectable=None, replicates=3, labelled=1)
    assert text == (
        "With 1 labelled subject, this encoder (voco) differs from training from scratch by "
        "+3.2 Dice points; without an interval this may be chance (3 replicates; an interval needs "
        "at least 5)."
    )


def test_an_interval_handed_over_with_three_replicates_is_not_used():
    text = say(replicates=3)
    assert " gains " not in text
    assert "interval 1.1" not in text


def test_another_reason_for_a_missing_interval_is_given():
    text = say(interval=None, p=None, reason="1 test subject; an interval needs at least 2")
    assert text.endswith("this may be chance (1 test subject; an interval needs at least 2).")


def test_no_difference_at_all_names_the_reason():
    text = say(difference=None, interval=None, p=None, replicates=0, reason="no replicate finished")
    assert text == (
        "With 4 labelled subjects, this encoder (voco) could not be compared with training from "
        "scratch: no replicate finished."
    )


def test_missing_replicates_are_named_in_the_sentence():
    assert "4 of 5 replicates" in say(replicates=4, planned=5)
    assert "5 replicates" in say(replicates=5, planned=5)


def test_every_sentence_of_a_grid_of_results_keeps_the_rules():
    for low in (-0.02, -0.0001, 0.0, 0.0001, 0.02):
        for width in (0.0002, 0.01, 0.05):
            high = low + width
            text = say(difference=(low + high) / 2, interval=(low, high))
            assert (" gains " in text) == (low > 0)
            assert (" loses " in text) == (high < 0)
            for word in ("no effect", "no difference", "does not help", "equal"):
                assert word not in text


def test_verdicts_are_one_word():
    assert verdict((0.01, 0.02)) == "gain"
    assert verdict((-0.02, -0.01)) == "loss"
    assert verdict((-0.02, 0.01)) == "unclear"
    assert verdict(None) == "no interval"


def test_p_values_never_round_across_the_level():
    assert p_value(0.0496) == "p = 0.0496"
    assert p_value(0.0504) == "p = 0.0504"
    assert p_value(0.049999) == "p < 0.05"
    assert p_value(0.2) == "p = 0.2"
    assert p_value(0.0004) == "p < 0.001"
    assert p_value(0.9996) == "p > 0.99"


def test_points_are_dice_times_a_hundred_with_a_true_minus():
    assert points(0.0321) == "3.2"
    assert points(-0.0321) == "−3.2"
    assert points(0.0321, sign=True) == "+3.2"
    assert points(-0.0001) == "0.0"
    assert points(-0.0001, sign=True) == "0.0"


def test_a_lone_arm_gets_its_mean_and_nothing_to_compare():
    words = {"arm": "scratch", "labelled": 8, "reason": None}
    assert mean_sentence(mean=0.5, interval=(0.4, 0.6), **words) == (
        "With 8 labelled subjects, scratch reaches a mean Dice of 50.0 points "
        "(95 % interval 40.0 to 60.0)."
    )
    few = mean_sentence(mean=0.5, interval=None, **{**words, "reason": "2 replicates"})
    assert few.endswith("50.0 points (2 replicates).")
    none = mean_sentence(mean=None, interval=None, **{**words, "reason": "no replicate finished"})
    assert none.endswith("scratch has no result: no replicate finished.")
