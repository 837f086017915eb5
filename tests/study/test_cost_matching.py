"""Steps and learning rates that follow from what other runs wrote."""

from pathlib import Path

import pytest

from medcl.errors import TrainingFailed
from medcl.files import write_json, write_yaml
from medcl.study.matching import match, tuned_rate, words_of


def summary(file: Path, **changed: object) -> Path:
    content = {"status": "ok", "reason": None, "device": "cpu", "seconds": 90.0, "steps": 30}
    write_json(file, content | changed)
    return file


def test_the_seconds_of_the_pretraining_become_steps_at_the_pace_of_the_control(
    tmp_path: Path,
) -> None:
    """50 s at 0.25 s a step are 200 steps beside the 40."""
    pretrained = summary(tmp_path / "pretrain.json", seconds=50.0, steps=7)
    scratch = summary(tmp_path / "scratch.json", seconds=10.0, steps=40)
    matched = match(pretrained, scratch, 40)
    assert (matched["seconds_per_step"], matched["added_steps"]) == (0.25, 200)
    assert matched["steps"] == 240
    assert match(pretrained, scratch, 40) == matched
    assert words_of(matched).startswith("40 steps and 200 more, which at 0.25 s a step")


def test_on_the_cpu_the_seconds_of_its_cores_count_where_both_runs_know_them(
    tmp_path: Path,
) -> None:
    """A shared machine made the pretraining ten times as long; it used no more of the cores."""
    pretrained = summary(tmp_path / "pretrain.json", seconds=500.0, cpu_seconds=50.0)
    scratch = summary(tmp_path / "scratch.json", seconds=10.0, cpu_seconds=10.0, steps=40)
    matched = match(pretrained, scratch, 40)
    assert matched["added_steps"] == 200
    assert "0.25 s of a core a step take the 50 s of a core" in words_of(matched)
    older = summary(tmp_path / "older.json", seconds=10.0, steps=40)
    assert match(pretrained, older, 40)["added_steps"] == 2000
    on_gpu = [summary(file, device="cuda", seconds=s, cpu_seconds=1.0, steps=4)
              for file, s in ((tmp_path / "p.json", 8.0), (tmp_path / "c.json", 4.0))]  # fmt: skip
    assert match(*on_gpu, 4)["added_steps"] == 8


def test_a_failed_pretraining_has_no_cost_to_match(tmp_path: Path) -> None:
    failed = summary(tmp_path / "a.json", status="failed", reason="loss is nan")
    fine = summary(tmp_path / "b.json")
    with pytest.raises(TrainingFailed, match="its pretraining failed: loss is nan"):
        match(failed, fine, 10)
    with pytest.raises(TrainingFailed, match="its run from scratch failed: loss is nan"):
        match(fine, failed, 10)


def test_a_control_that_makes_no_steps_gives_no_pace(tmp_path: Path) -> None:
    fine, probe = summary(tmp_path / "a.json"), summary(tmp_path / "b.json", steps=0)
    with pytest.raises(TrainingFailed, match=r"0 steps in 90\.0 s are no pace"):
        match(fine, probe, 10)


def test_seconds_of_different_devices_are_not_matched(tmp_path: Path) -> None:
    gpu, cpu = summary(tmp_path / "a.json", device="cuda"), summary(tmp_path / "b.json")
    with pytest.raises(TrainingFailed, match=r"ran on cuda and .* on cpu"):
        match(gpu, cpu, 10)


def test_a_failed_tuning_gives_no_learning_rate(tmp_path: Path) -> None:
    write_yaml(tmp_path / "ok.yaml", {"status": "ok", "reason": None, "learning_rate": 1.0e-3})
    assert tuned_rate(tmp_path / "ok.yaml") == 1e-3
    write_yaml(tmp_path / "no.yaml", {"status": "failed", "reason": "all diverged"})
    with pytest.raises(TrainingFailed, match="its tuning failed: all diverged"):
        tuned_rate(tmp_path / "no.yaml")
