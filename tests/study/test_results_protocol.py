"""What is read of a bound, of tuned rates and of arms that lean on others; what is missing."""

from pathlib import Path

from make_results import Fake, make

from medcl.files import read_json, read_yaml, write_json, write_text, write_yaml
from medcl.study.cost import seconds_of
from medcl.study.results import MISSING, OK, Results, read_results

SMALL = Fake(effects={"voco": 0.05}, seeds={"voco": 2}, labelled=(1,), replicates=3, volumes=False)


def results(folder: Path, **changes: object) -> Results:
    """The results of a small study, to whose configuration `changes` are made afterwards."""
    file = make(folder / "small", SMALL)
    study = read_yaml(file)
    study["arms"] |= changes.pop("arms", {})  # type: ignore[arg-type]
    write_yaml(file, study | changes)
    return read_results(file, folder / "small")


def test_a_bound_that_was_not_made_is_missing_and_no_run_of_the_comparison(tmp_path: Path) -> None:
    read = results(tmp_path, bound={"arm": "scratch"})
    assert [(run.status, run.labelled, run.bound) for run in read.bound] == [(MISSING, 0, True)] * 2
    assert read.bound[0].name == "scratch, all labelled, replicate 0"
    assert len(read.runs) == 2 * 3


def test_the_bound_is_read_with_the_number_of_its_subjects(tmp_path: Path) -> None:
    asked = {"bound": {"arm": "scratch", "replicates": 1}}
    results(tmp_path, **asked)
    made, place = tmp_path / "small/finetune/scratch/n1/r0", tmp_path / "small/bound/scratch/r0"
    write_json(place / "summary.json", read_json(made / "summary.json") | {"labelled": 10})
    predictions = read_json(made / "predictions/predictions.json")
    write_json(place / "predictions/predictions.json", predictions)
    write_text(place / "metrics.csv", (made / "metrics.csv").read_text())
    (run,) = read_results(tmp_path / "small/config.resolved.yaml", tmp_path / "small").bound
    assert (run.status, run.labelled) == (OK, 10)
    assert run.scores["last", "dice"]


def test_an_arm_that_starts_from_another_is_paired_with_its_pretraining_and_its_cost(
    tmp_path: Path,
) -> None:
    read = results(tmp_path, arms={"short": {"start": "voco"}, "own": {"weights": "e.pt"}})
    assert [read.seed_of("short", r) for r in range(3)] == [0, 1, 0]
    assert [read.seed_of("scratch", r) for r in range(3)] == [None] * 3
    assert read.seed_of("own", 2) == 0  # one encoder for all replicates
    assert read.control == "scratch"
    assert len(read.pretrainings) == 2
    place = tmp_path / "small/finetune"
    for arm in ("short", "own"):
        for r in range(3):
            (place / arm / f"n1/r{r}").mkdir(parents=True)
            done = {"status": "ok", "reason": None, "seconds": 100.0}
            write_json(place / arm / f"n1/r{r}/summary.json", done)
    read = read_results(tmp_path / "small/config.resolved.yaml", tmp_path / "small")
    assert seconds_of(read, "short", 1) == 100.0 + 1834.2
    assert seconds_of(read, "own", 1) is None


def test_a_pretraining_no_replicate_uses_is_not_missing(tmp_path: Path) -> None:
    pretrain = {"objective": "mae", "steps": 3, "seeds": 5}
    read = results(tmp_path, arms={"mae": {"pretrain": pretrain}})
    assert [item.seed for item in read.pretrainings if item.arm == "mae"] == [0, 1, 2]


def test_what_the_tuning_chose_is_read(tmp_path: Path) -> None:
    tune = {"learning_rates": [0.1, 0.2], "labelled": 1}
    assert results(tmp_path, tune=tune).tuned == {}
    write_yaml(tmp_path / "small/tune/voco/tuned.yaml", {"status": "ok", "learning_rate": 0.1})
    read = read_results(tmp_path / "small/config.resolved.yaml", tmp_path / "small")
    assert read.tuned == {"voco": {"status": "ok", "learning_rate": 0.1}}
