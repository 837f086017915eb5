from medcl.training.diagnosis import diagnose


def rows(loss: float, **more: float) -> list[dict[str, float]]:
    return [{"loss": loss + 0.01 * (-1) ** n, "chance": 0.5, **more} for n in range(60)]


def test_a_loss_below_chance_has_left_it() -> None:
    assert diagnose(rows(0.3), ["loss"])[0].startswith("it left chance: loss 0.3 against 0.5")


def test_a_loss_at_chance_is_said_plainly() -> None:
    (sentence,) = diagnose(rows(0.499), ["loss"])
    assert "stayed at chance" in sentence


def test_collapse_and_dead_logits_are_named() -> None:
    said = diagnose(rows(0.3, effective_rank=1.1, zero_logits=0.99), ["loss"])
    assert "collapsed to 1.1 directions" in said[1]
    assert "99 % of its logits" in said[2]


def test_without_a_chance_level_nothing_is_claimed() -> None:
    assert diagnose([{"loss": 1.0}], ["loss"]) == []


def test_a_pretraining_that_saw_one_cohort_is_said_to_have_separated_nothing() -> None:
    (sentence,) = diagnose([{"loss": 1.0, "targets": 1.0}] * 3, ["loss"])
    assert "all of its cases were of the target cohort" in sentence
    mixed = [{"loss": 1.0, "targets": share} for share in (0.0, 1.0)]
    assert diagnose(mixed, ["loss"]) == []
