"""What the replicates predict together stands beside every comparison, and in none."""

import csv
from pathlib import Path

import numpy as np
import pytest
from make_results import Fake, make

from medcl.files import read_yaml, write_json, write_text, write_yaml
from medcl.study import ensembles
from medcl.study.comparison import compare, mean_of
from medcl.study.prose import NONE
from medcl.study.results import Results, read_results
from medcl.workflow import Flow

FAKE = Fake(effects={"voco": 0.06}, labelled=(1, 2), replicates=5, tests=3, volumes=False)
TOGETHER = 0.9


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return make(tmp_path / "torso", FAKE)


def asked(config: Path) -> Path:
    content = read_yaml(config)
    content["predict"]["ensemble"] = True
    write_yaml(config, content)
    return config


def results_of(config: Path) -> Results:
    return read_results(config, config.parent)


def write_ensemble(folder: Path, arm: str, labelled: int, *, failed: bool = False) -> None:
    """An ensemble whose Dice is `TOGETHER` everywhere, in the format the stages write."""
    with open(folder / f"finetune/{arm}/n{labelled}/r0/metrics.csv", newline="") as file:
        header, *rows = csv.reader(file)
    place = folder / f"finetune/{arm}/n{labelled}/ensemble"
    value = header.index("value")
    lines = [header, *([*row[:value], str(TOGETHER), ""] for row in rows if not failed)]
    write_text(place / "metrics.csv", "".join(",".join(line) + "\n" for line in lines))
    reason = "r2/model.pt: loss is nan" if failed else None
    outcome = {"status": "failed" if failed else "ok", "reason": reason, "cases": []}
    write_json(place / "predictions/predictions.json", outcome)


def test_an_ensemble_has_a_row_with_what_its_networks_do_alone(config: Path) -> None:
    for arm in ("scratch", "voco"):
        for labelled in FAKE.labelled:
            write_ensemble(config.parent, arm, labelled)
    results = results_of(asked(config))
    table = ensembles.table(results)
    assert [row[:3] for row in table.rows] == [
        ["1", "scratch", 5], ["1", "voco", 5], ["2", "scratch", 5], ["2", "voco", 5]
    ]  # fmt: skip
    row = table.rows[3]
    assert row[4].value == pytest.approx(mean_of(results, "voco", 2).mean)
    assert row[5].value == pytest.approx(TOGETHER)
    subsets = [set(results.splits.subset(2, replicate)) for replicate in range(5)]
    assert row[3] == len(set.union(*subsets)) > 2


def test_both_sides_are_means_over_subjects_on_the_cases_that_all_have(config: Path) -> None:
    """A case that one network has no value for counts for none, and a failed one is not read."""
    write_ensemble(config.parent, "voco", 1)
    lost, *others = results_of(config).test_cases
    folder = config.parent / "finetune/voco/n1"
    for place in (folder / "r0", folder / "ensemble"):
        with open(place / "metrics.csv", newline="") as file:
            header, *lines = csv.reader(file)
        case, value = header.index("case"), header.index("value")
        new = "" if place.name == "r0" else "0.1"
        lines = [[*x[:value], new, *x[value + 1 :]] if x[case] == lost else x for x in lines]
        write_text(place / "metrics.csv", "".join(",".join(x) + "\n" for x in [header, *lines]))
    results = results_of(asked(config))
    (row,) = [row for row in ensembles.table(results).rows if row[:2] == ["1", "voco"]]
    assert row[5].value == pytest.approx(TOGETHER)
    runs = [run.scores["last", "dice"].items() for run in results.runs_of("voco", 1)]
    known = [value for scores in runs for (case, _), value in scores if case in others]
    assert row[4].value == pytest.approx(np.mean(known))


def test_no_comparison_knows_of_an_ensemble(config: Path) -> None:
    before = [(c.arm, c.labelled, c.mean, c.difference) for c in compare(results_of(config))]
    for arm in ("scratch", "voco"):
        write_ensemble(config.parent, arm, 1)
    after = [(c.arm, c.labelled, c.mean, c.difference) for c in compare(results_of(asked(config)))]
    assert repr(before) == repr(after)


def test_an_ensemble_with_a_failed_network_is_missing_and_its_networks_are_not(
    config: Path,
) -> None:
    write_ensemble(config.parent, "voco", 1, failed=True)
    table = ensembles.table(results_of(asked(config)))
    (row,) = [row for row in table.rows if row[:2] == ["1", "voco"]]
    assert row[5].value is None
    assert row[4].value > 0
    assert (table.columns[6].title, row[6]) == ("why not", "r2/model.pt: loss is nan")


def test_it_is_planned_where_asked_for_alone_and_re_runs_no_prediction(config: Path) -> None:
    plain = Flow(results_of(config).study)
    together = Flow(results_of(asked(config)).study)
    new = set(together.made()) - set(plain.made())
    assert {file.removeprefix(plain.root) for file in new} == {
        f"/finetune/{arm}/n{n}/ensemble/metrics.csv" for arm in ("scratch", "voco") for n in (1, 2)
    }
    assert plain.predict(None) == together.predict(None)
    assert ensembles.table(results_of(make(config.parent, FAKE))).rows == []
    wildcards = type("Wildcards", (), {"arm": "voco", "labelled": "2"})
    assert together.members_of(wildcards) == [
        f"{plain.root}/finetune/voco/n2/r{replicate}/model.pt" for replicate in range(5)
    ]


def test_more_labels_than_there_are_candidates_leave_a_report(config: Path) -> None:
    content = read_yaml(asked(config))
    content["labelled"] = [1, 2, 50]
    write_yaml(config, content)
    rows = ensembles.table(results_of(config)).rows
    assert {row[0] for row in rows} == {"1", "2", "50"}
    assert {row[3] for row in rows if row[0] == "50"} == {NONE}
