"""Which weights and which arm the secondary tables and the pictures are of."""

from dataclasses import replace

import pytest
from make_results import Fake, make
from report_pages import QUICK, text_of

from medcl.study import drawing, metric_tables, report_overlays
from medcl.study.comparison import compare
from medcl.study.report import make_report, names_of
from medcl.study.results import read_results

DICE = {("scratch", "last"): 0.7, ("voco", "last"): 0.2}
DICE |= {("scratch", "selected"): 0.3, ("voco", "selected"): 0.9}
FAR = {arm: {"last": 9.0, "selected": 4.0 if arm == "voco" else 6.0} for arm in ("scratch", "voco")}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take most of the time of a report, and nothing here depends on them."""
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")


def results(folder, *, weights, **changes):
    """A study whose scores are known: DICE and FAR, the same in every case and class."""
    config = make(folder / "a", Fake(**{**QUICK, "primary": {"weights": weights}, **changes}))
    read = read_results(config, config.parent)

    def known(run):
        scores = dict(run.scores)
        for kind in ("last", "selected"):
            keys = scores[kind, "dice"]
            scores[kind, "dice"] = dict.fromkeys(keys, DICE[run.arm, kind])
            scores[kind, "hd95_mm"] = dict.fromkeys(keys, FAR[run.arm][kind])
        return replace(run, scores=scores)

    return replace(read, runs=[known(run) for run in read.runs])


def cells(table, key):
    """Arm -> what stands in a column."""
    names = [column.key for column in table.columns]
    return {row[names.index("arm")]: row[names.index(key)] for row in table.rows}


@pytest.mark.parametrize(("weights", "other"), [("last", "selected"), ("selected", "last")])
def test_the_table_of_metrics_is_of_the_primary_weights_with_the_others_dice_beside_it(
    tmp_path, weights, other
):
    table = metric_tables.metrics(results(tmp_path, weights=weights))
    shown = {arm: cell.value for arm, cell in cells(table, "hd95_mm").items()}
    assert shown == {arm: FAR[arm][weights] for arm in ("scratch", "voco")}
    beside = {arm: cell.value for arm, cell in cells(table, f"dice_{other}").items()}
    assert beside == pytest.approx({arm: DICE[arm, other] for arm in ("scratch", "voco")})
    assert {"last": "after the last step", "selected": "selected on the validation"}[
        weights
    ] in table.caption


def test_differences_and_single_classes_follow_the_primary_weights(tmp_path):
    read = results(tmp_path, weights="selected")
    found = cells(metric_tables.metric_differences(read), "hd95_mm")["voco"]
    assert found.value == pytest.approx(-2.0)
    table = metric_tables.per_class(read)
    rows = [row for row in table.rows if row[1:4] == ["voco", "liver", "dice"]]
    assert [(row[4].value, row[5].value) for row in rows] == [
        (pytest.approx(0.9), pytest.approx(0.6))
    ]
    assert "selected on the validation" in table.caption


def test_the_pictures_show_the_predictions_of_the_primary_weights(tmp_path):
    read = results(tmp_path, weights="selected", volumes=True)
    only = [
        replace(run, predictions={k: f for k, f in run.predictions.items() if k[0] == "selected"})
        for run in read.runs
    ]
    read = replace(read, runs=only)
    found = report_overlays.case_overlays(read, compare(read), names_of(read))
    assert found.skipped == []
    captions = {picture.caption for _, group in found.groups for picture in group}
    assert captions == {"scratch: Dice 30.0", "voco: Dice 90.0"}
    assert "selected on the validation" in found.caption


def test_the_page_says_the_weights_of_its_curves_and_of_its_answer(tmp_path):
    read = results(tmp_path, weights="selected")
    text = text_of(make_report(read).html)
    words = "on the test subjects, of the weights selected on the validation subjects, "
    assert f"Mean Dice (points: times 100) {words}with 95 % intervals" in text
    assert f"Mean Dice {words}against the number of labelled subjects" in text


@pytest.mark.parametrize(("metric", "best"), [("dice", "voco"), ("hd95_mm", "voco")])
def test_the_arm_in_the_pictures_is_the_better_one_also_where_less_is_better(
    tmp_path, metric, best
):
    effects = {"order": -0.03, "voco": 0.06}
    config = make(
        tmp_path / "a", Fake(**{**QUICK, "effects": effects, "primary": {"metric": metric}})
    )
    read = read_results(config, config.parent)
    assert report_overlays.shown_arms(read, compare(read), 1) == ["scratch", best]
