"""Classes that a case does not have, classes that are lost, and what is said of them."""

import csv
import math
from dataclasses import replace

import pytest
from report_pages import quick, run, text_of

from medcl.study import drawing, metric_tables
from medcl.study.classes import FalseFinds, false_finds, lost_classes
from medcl.study.comparison import compare, difference_of, mean_of
from medcl.study.results import read_scores

WITHOUT = tuple((f"patient-{number:03d}a", "spleen") for number in (1, 2))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")


def test_an_arm_that_finds_what_is_not_there_gains_and_loses_nothing_by_it_and_is_told_of(
    tmp_path,
):
    results, page = quick(tmp_path / "a", absent=WITHOUT, inventive=("voco",))
    scratch, voco = compare(results)
    assert voco.mean.mean - scratch.mean.mean == pytest.approx(voco.difference.mean, abs=1e-12)
    for metric in ("iou", "nsd"):
        means = [mean_of(results, arm, 1, metric=metric).mean for arm in ("voco", "scratch")]
        found = difference_of(results, "voco", 1, "scratch", metric=metric)
        assert means[0] - means[1] == pytest.approx(found.mean, abs=1e-12)
    text = text_of(page)
    assert (
        "Found where it is not: spleen, most often by voco with 1 labelled (in 10 of 10 "
        "predictions of cases without it)."
    ) in text
    assert "spleen found without it" in text
    assert "such false finds are counted instead" in text
    run(results.folder / "config.resolved.yaml")
    with open(results.folder / "tables/classes.csv", newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    for arm, found in (("scratch", "0"), ("voco", "10")):
        counts = rows[arm]["spleen_found_without"], rows[arm]["spleen_cases_without"]
        assert counts == (found, "10")
    assert "liver_found_without" not in rows["voco"]


def test_nothing_is_said_of_false_finds_where_there_are_none(tmp_path):
    results, page = quick(tmp_path / "a", absent=WITHOUT)
    assert "Found where it is not" not in page
    assert false_finds(results, "voco", 1, "spleen") == FalseFinds(0, 10)
    assert false_finds(results, "voco", 1, "liver") == FalseFinds(0, 0)
    results, page = quick(tmp_path / "b")
    assert "found without it" not in text_of(page)


def test_a_false_find_that_was_once_scored_as_0_is_read_by_the_rule_of_today(tmp_path):
    results, _ = quick(tmp_path / "a", absent=WITHOUT, inventive=("voco",))
    file = results.folder / "finetune/voco/n1/r0/metrics.csv"
    today = read_scores(file)
    file.write_text(file.read_text().replace(",,reference empty", ",0.000000,reference empty"))
    once = read_scores(file)
    for key, table in today.items():
        assert once[key] == pytest.approx(table, nan_ok=True)
    assert math.isnan(once["last", "dice"][WITHOUT[0]])
    assert once["last", "predicted_mm3"][WITHOUT[0]] == 300.0


@pytest.mark.parametrize(("dice", "lost"), [(0.0, True), (0.0099, True), (0.01, False)])
def test_a_class_is_lost_where_its_mean_dice_is_below_one_point(tmp_path, dice, lost):
    results, _ = quick(tmp_path / "a")
    first, *others = results.runs_of("voco", 1)
    scores = dict(first.scores)
    # one case has four fifths of it, the others the rest: the mean decides, not the best case
    values = [4 * dice, *[dice / 4] * (len(results.test_cases) - 1)]
    told = dict(zip(((case, "kidney") for case in results.test_cases), values, strict=True))
    scores["last", "dice"] = scores["last", "dice"] | told
    rest = [one for one in results.runs if one.arm != "voco"]
    changed = replace(results, runs=[*rest, replace(first, scores=scores), *others])
    assert lost_classes(changed, "voco", 1) == ({"kidney": [0]} if lost else {})
    row = next(row for row in metric_tables.classes(changed).rows if row[1] == "voco")
    assert row[3].note == int(lost)
