"""Which seconds a report counts, and what a control of equal cost is said to have matched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_results import Fake, make
from report_pages import QUICK, text_of

from medcl.files import read_json, read_yaml, write_json, write_yaml
from medcl.study import arm_words, drawing, matching, methods, report_tables
from medcl.study.caveats import caveats
from medcl.study.cost import clock, costs, matched_runs, seconds_of
from medcl.study.report import make_report
from medcl.study.results import Results, read_results

Change = Callable[[Path, dict[str, Any]], dict[str, Any]]


def changed(config: Path, change: Change, pattern: str = "**/summary.json") -> Results:
    """The study with every summary as `change` makes it."""
    for file in config.parent.glob(pattern):
        write_json(file, read_json(file) | change(file, read_json(file)))
    return read_results(config, config.parent)


def counted(file: Path, _: dict[str, Any]) -> dict[str, Any]:
    """100 s of the cores for each pretraining, 10 s for each run."""
    return {"cpu_seconds": 100.0 if "pretrain" in file.parts else 10.0}


def test_costs_are_seconds_of_the_cores_where_every_run_knows_them(tmp_path: Path) -> None:
    """On a busy machine the clock said 1834 s and some 100 s."""
    config = make(tmp_path / "a", Fake(**QUICK))
    results = changed(config, counted)
    assert clock(results) == matching.CPU
    assert seconds_of(results, "voco", 1) == 110.0
    found = {(item.stage, item.arm): item for item in costs(results)}
    assert (found["pretrain", "voco"].seconds, found["finetune", "voco"].seconds) == (300.0, 50.0)
    assert found["predict", "voco"].clock == matching.WALL
    said = report_tables.cost(results).caption
    assert "Times of finetune and pretrain are seconds of the cores, the others by" in said


@pytest.mark.parametrize("lacking", ["pretrain/voco/s1", "finetune/scratch/n1/r3"])
def test_a_single_run_without_them_makes_the_clock_count_for_all(
    tmp_path: Path, lacking: str
) -> None:
    config = make(tmp_path / "a", Fake(**QUICK))
    changed(config, counted)
    results = changed(config, lambda *_: {"cpu_seconds": 0.0}, f"{lacking}/summary.json")
    assert clock(results) == matching.WALL
    assert seconds_of(results, "voco", 1) == pytest.approx(1834.2 + 100, abs=5)
    assert "cores" not in report_tables.cost(results).caption


def test_a_gpu_is_timed_by_the_clock(tmp_path: Path) -> None:
    config = make(tmp_path / "a", Fake(**QUICK))
    results = changed(config, lambda *given: counted(*given) | {"device": "cuda"})
    assert clock(results) == matching.WALL


def test_a_tuning_that_knows_only_the_clock_is_told_apart(tmp_path: Path) -> None:
    config = make(tmp_path / "a", Fake(**QUICK))
    write_yaml(config, read_yaml(config) | {"tune": {"learning_rates": [0.1, 0.2], "labelled": 1}})
    tried = [{"seconds": 30.0, "cpu_seconds": 3.0}, {"seconds": 20.0, "cpu_seconds": 2.0}]
    file = tmp_path / "a/tune/voco/tuned.yaml"
    for trials, seconds, which in (
        (tried, 5.0, matching.CPU),
        ([tried[0], {"seconds": 20.0}], 50.0, matching.WALL),
        ([tried[0], {"seconds": None}], 3.0, matching.CPU),
    ):
        write_yaml(file, {"status": "ok", "device": "cpu", "tried": trials})
        (found,) = (item for item in costs(changed(config, counted)) if item.stage == "tune")
        assert (found.seconds, found.clock) == (seconds, which)


def matched(steps: dict[int, int], **more: str) -> Change:
    """Replicate -> the steps added for the cost of the pretraining."""
    return lambda file, _: {"matched": {"added_steps": steps[int(file.parts[-2][1:])], **more}}


LONG = "finetune/scratch-long/n1/*/summary.json"
UNEVEN = dict(enumerate((100, 120, 90, 151, 130)))
EVEN = dict(enumerate((100, 100, 101, 150, 130)))


def test_the_protocol_says_the_clock_and_the_steps_a_control_of_equal_cost_was_given(
    tmp_path: Path,
) -> None:
    config = make(tmp_path / "a", Fake(**QUICK, long=True))
    planned = methods.protocol(read_results(config, config.parent))["Arms"]
    assert "(seconds of the cores on a CPU, else seconds by the clock) is spent" in planned
    assert "replicate." in planned
    results = changed(config, matched(UNEVEN), LONG)
    said = methods.protocol(results)["Arms"]
    assert "what the pretraining of voco took (seconds by the clock) is spent on further" in said
    assert "with the same labels and replicate: 90 to 151 steps with 1 labelled." in said
    said = methods.protocol(changed(config, matched(EVEN, clock=matching.CPU), LONG))["Arms"]
    assert "took (seconds of the cores) is spent" in said


def test_the_steps_of_each_label_count_are_told_by_themselves(tmp_path: Path) -> None:
    config = make(tmp_path / "a", Fake(**(QUICK | {"labelled": (1, 2)}), long=True))
    changed(config, matched(EVEN), LONG)
    results = changed(config, matched(dict.fromkeys(range(5), 7)), LONG.replace("n1", "n2"))
    (said,) = (
        words
        for words in arm_words.arms(
            results.study, {"scratch-long": matched_runs(results, "scratch-long")}
        )
        if words.startswith("scratch-long")
    )
    assert said.endswith(": 100 to 150 steps with 1 and 7 steps with 2 labelled.")


def test_a_control_whose_added_steps_differ_is_not_called_one_of_equal_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """151 steps are more than one and a half times 90; 150 are just that times 100."""
    monkeypatch.setattr(drawing, "render", lambda figure, kind: b"<svg></svg>")
    config = make(tmp_path / "a", Fake(**QUICK, long=True))
    assert not any("was given" in words for words in caveats(changed(config, matched(EVEN), LONG)))
    results = changed(config, matched(UNEVEN), LONG)
    said = (
        "The steps that scratch-long was given for the cost of the pretraining of voco differ by "
        "more than a factor of 1.5 between replicates (90 to 151 steps with 1 labelled; counted by "
        "the clock, they hang on what else the machine did): read it as a longer training from "
        "scratch, not as one of equal cost."
    )
    assert said in caveats(results)
    assert said in text_of(make_report(results).html)
    cores = caveats(changed(config, matched(UNEVEN, clock=matching.CPU), LONG))
    assert any("(90 to 151 steps with 1 labelled): read it" in words for words in cores)
