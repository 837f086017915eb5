import random

import pytest

from medcl.training.diagnosis import diagnose


def rows(loss: float, first: float = 0.6, **more: float) -> list[dict[str, float]]:
    levels = [first] * 5 + [loss] * 55
    return [
        {"loss": level + 0.01 * (-1) ** n, "chance": 0.5, **more} for n, level in enumerate(levels)
    ]


def test_a_loss_below_chance_and_below_where_it_began_has_left_it() -> None:
    (said,) = diagnose(rows(0.3), ["loss"])
    assert said.startswith("it left chance: loss 0.3 against 0.5")
    assert said.endswith("0.602 in its first 5")


def test_a_loss_at_chance_is_said_plainly() -> None:
    (sentence,) = diagnose(rows(0.499), ["loss"])
    assert "stayed at chance" in sentence


@pytest.mark.parametrize("count", [4, 30, 60, 500])
def test_a_network_that_makes_no_step_has_not_left_chance_wherever_its_loss_lies(count) -> None:
    """The loss of a random U-Net, batch by batch: 5.479 against log(N - 1) = 5.624."""
    rng = random.Random(0)
    still = [{"loss": rng.gauss(5.479, 0.05), "chance": 5.624} for _ in range(count)]
    (said,) = diagnose(still, ["loss"])
    assert said.startswith("it has learnt nothing that shows: it lies below chance")
    assert "against 5.624" in said
    assert f"in its first {min(count, 5)}" in said
    learnt = [{**row, "loss": row["loss"] - 0.01 * n} for n, row in enumerate(still)]
    assert diagnose(learnt, ["loss"])[0].startswith("it left chance") == (count >= 60)


def test_a_chance_level_that_moves_is_followed() -> None:
    """As fewer points are kept: a loss that falls as its chance level does shows no learning."""
    rng = random.Random(0)
    moved = [{"loss": 5.4 - n / 50, "chance": 5.6 - n / 50} for n in range(60)]
    moved = [{**row, "loss": row["loss"] + rng.gauss(0, 0.02)} for row in moved]
    assert diagnose(moved, ["loss"])[0].startswith("it has learnt nothing that shows")


def test_collapse_and_dead_logits_are_named() -> None:
    said = diagnose(rows(0.3, spread=0.001, effective_rank=28.0, zero_logits=0.99), ["loss"])
    assert "collapsed: all are nearly equal (spread 0.001)" in said[1]
    assert "99 % of its logits" in said[2]


def test_few_directions_are_no_collapse() -> None:
    (said,) = diagnose([{"loss": 1.0, "spread": 0.64, "effective_rank": 1.24}] * 3, ["loss"])
    assert said == "its embeddings use hardly more than 1.2 directions"


def test_lesion_patches_without_a_pair_are_told_what_to_change() -> None:
    (said,) = diagnose([{"loss": 0.0, "chance": 0.0, "pairs": 0.0}] * 3, ["loss"])
    assert "no crop held a pair of patches" in said
    assert "lower `block`" in said
    some = [{"loss": 0.0, "chance": 0.0, "pairs": float(n)} for n in range(3)]
    assert "no crop held" not in " ".join(diagnose(some, ["loss"]))


def test_without_a_chance_level_nothing_is_claimed() -> None:
    assert diagnose([{"loss": 1.0}], ["loss"]) == []


def test_a_pretraining_that_saw_one_cohort_is_said_to_have_separated_nothing() -> None:
    (sentence,) = diagnose([{"loss": 1.0, "targets": 1.0}] * 3, ["loss"])
    assert "all of its cases were of the target cohort" in sentence
    mixed = [{"loss": 1.0, "targets": share} for share in (0.0, 1.0)]
    assert diagnose(mixed, ["loss"]) == []
