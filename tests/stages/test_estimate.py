"""What is said of the cost of a study: from timed steps, from finished runs, or not at all."""

from pathlib import Path

import pytest
import yaml

from medcl.cli import main
from medcl.files import write_json
from medcl.stages import estimate

PRETRAIN = {"objective": "mae", "steps": 1000, "batch": 1}
DATASET = {
    "name": "small",
    "modality": "MR",
    "classes": {"a": 1, "b": 2},
    "sources": [{"layout": "files"}],
    "plan": {"crop": [8, 8, 8]},
}
STUDY = {
    "study": "small",
    "dataset": DATASET,
    "network": {"name": "unet", "width": 2},
    "split": {"test": 3, "validation": 2},
    "arms": {"scratch": {}, "mae": {"pretrain": PRETRAIN}, "long": {"cost_of": "mae"}},
    "labelled": [1],
    "replicates": 2,
    "finetune": {"steps": 40, "batch": 1, "validate_every": 20},
}


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Lines of `medcl estimate` for the small study with some keys changed."""
    monkeypatch.setattr(estimate, "_process", lambda: 2.0)

    def run(*more: str, **changes: object) -> list[str]:
        file = tmp_path / "study.yaml"
        changes |= {"results": str(tmp_path / "results")}
        file.write_text(yaml.safe_dump(STUDY | changes))
        assert main(["estimate", "--study", str(file), "--steps", "1", *more]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def row(lines: list[str], stage: str, arm: str) -> list[str]:
    (found,) = (line.split() for line in lines if line.split()[:2] == [stage, arm])
    return found


def test_every_stage_is_counted_and_timed_without_any_data(said) -> None:
    lines = said("--cores", "4")
    assert lines[0] == (
        "estimate: small: 1 pretraining (1000 steps), "
        "6 fine-tunings (240 steps and those of equal cost)"
    )
    assert row(lines, "pretrain", "mae")[2:4] == ["1", "1000"]
    assert row(lines, "finetune", "scratch")[2:4] == ["2", "40"]
    assert int(row(lines, "finetune", "long")[3]) > 40
    assert row(lines, "predict", "all")[2] == "6"
    assert any(line.startswith("about ") and "on 4 cores (4 jobs" in line for line in lines)
    assert "crops of 8x8x8 voxels: there is no plan yet" in lines[-1]


def test_the_pace_of_finished_runs_is_preferred_to_a_measurement(said, tmp_path: Path) -> None:
    done = {"status": "ok", "reason": None, "device": "cpu", "seconds": 4000.0, "steps": 40}
    write_json(tmp_path / "results/small/finetune/scratch/n1/r0/summary.json", done)
    lines = said(arms={"scratch": {}})
    # 100 s a step, validations included, and 2 s to start.
    assert row(lines, "finetune", "scratch")[4:] == ["67", "min", "2.2", "h"]


def test_an_objective_that_needs_more_than_images_is_not_counted_and_said(said) -> None:
    needy = {"pretrain": {"objective": {"name": "sepclr"}, "steps": 10}}
    lines = said(arms={"scratch": {}, "needy": needy, "deaf": {"pretrain": PRETRAIN}})
    assert any("pretrain of needy cannot be timed" in line for line in lines)
    assert row(lines, "pretrain", "needy")[-1] == "–"
    assert any(line.startswith("not counted") and "pretrain of needy" in line for line in lines)
    assert row(lines, "pretrain", "deaf")[-1] != "–"
