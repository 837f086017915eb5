"""What is said of the cost of a study: from timed steps, from finished runs, or not at all."""

import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from medcl.cli import main
from medcl.config import load_study
from medcl.data.planning import Measured, make_plan
from medcl.data.splits import ORDERS, Row, Splits, write_splits
from medcl.files import write_json, write_yaml
from medcl.segmentation.inference import predict_probabilities
from medcl.stages import estimate, timing

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
    assert row(lines, "predict", "scratch")[2] == "2"
    assert any(line.startswith("about ") and "on 4 cores (4 jobs" in line for line in lines)
    assert "crops of 8x8x8 voxels: there is no plan yet" in lines[-1]
    assert "volumes of 12x12x12 voxels are a guess" in lines[-1]


def test_a_network_of_slices_is_not_taken_to_see_two_of_them(said) -> None:
    """12 slices, wherever they are thin; along the others one and a half crops."""
    flat = DATASET | {"plan": {"dims": 2, "crop": [8, 8, 1], "spacing": [1, 1, 8]}}
    lines = said(dataset=flat, arms={"scratch": {}})
    assert "volumes of 12x12x12 voxels are a guess" in lines[-1]
    wide = DATASET | {"plan": {"dims": 2, "crop": [16, 1, 8], "spacing": [1, 8, 1]}}
    assert "volumes of 24x12x12 voxels are a guess" in said(dataset=wide, arms={"scratch": {}})[-1]


def test_waiting_for_a_busy_machine_is_not_counted(
    said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that waits half a second for the cores does not take it from them."""
    waited = []
    items = timing.LabelledCrops

    class Waiting(items):
        def augment(self, *given):
            waited.append(time.sleep(0.5))
            return super().augment(*given)

    monkeypatch.setattr(timing, "LabelledCrops", Waiting)
    lines = said(arms={"scratch": {}})
    assert len(waited) == 2
    # 40 steps, and 2 s of a start: with the waiting they took 22 s.
    assert float(row(lines, "finetune", "scratch")[4]) < 12


def test_finished_runs_count_by_the_cores_they_used(said, tmp_path: Path) -> None:
    done = {"status": "ok", "reason": None, "device": "cpu", "seconds": 4000.0, "steps": 40}
    file = tmp_path / "results/small/finetune/scratch/n1/r0/summary.json"
    write_json(file, done | {"cpu_seconds": 58.0})
    # 58 s on one thread, and 2 s to start; on two threads half of that.
    assert row(said(arms={"scratch": {}}), "finetune", "scratch")[4:6] == ["60", "s"]
    two = DATASET | {"plan": {"crop": [8, 8, 8], "threads": 2}}
    assert row(said(arms={"scratch": {}}, dataset=two), "finetune", "scratch")[4:6] == ["31", "s"]


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


def planned(tmp_path: Path, shape: list[int], tests: int) -> None:
    """The plan of volumes of `shape`, and as many test cases, as the stages would write them."""
    root = tmp_path / "results/small"
    size = tuple(shape)
    image = Measured("a", size, (1.0, 1.0, 1.0), tuple(map(float, size)), np.zeros((1, 9), "f4"))
    dataset = load_study(STUDY).dataset
    write_yaml(root / "plan/plan.yaml", make_plan([image], dataset, cases=7).to_dict())
    rows = [Row(f"t{n}", f"t{n}", "test") for n in range(tests)]
    rows += [Row(f"p{n}", f"p{n}", "pool", tuple([n] * ORDERS)) for n in range(6)]
    write_splits(root / "split/splits.csv", Splits(tuple(rows)))


def slow(measure):
    """The measurement as it is, and then 4 s, so that the sum is known."""

    def told(*given):
        measure(*given)
        return 4.0

    return told


def test_predictions_are_timed_on_volumes_of_the_plans_size_and_counted_by_the_split(
    said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def windows(network, image, crop, **more):
        seen.append(image.shape[1:])
        return predict_probabilities(network, image, crop, **more)

    monkeypatch.setattr("medcl.segmentation.inference.predict_probabilities", windows)
    monkeypatch.setattr("medcl.stages.timing.WARM_S", 0.0)
    monkeypatch.setattr("medcl.stages.timing._prediction", slow(timing._prediction))
    planned(tmp_path, [10, 12, 9], tests=50)
    lines = said(arms={"scratch": {}}, replicates=1)
    assert seen == [(10, 12, 9)]
    # 50 cases of 4 s, half of them twice, and the start.
    assert row(lines, "predict", "scratch")[-2:] == ["5", "min"]
    assert lines[-1].endswith("whatever else it does, with crops of 8x8x8 voxels")
    assert row(lines, "predict", "scratch")[2] == "1"


def test_finished_predictions_are_preferred_and_their_start_is_not_counted_twice(
    said, tmp_path: Path
) -> None:
    done = {"status": "ok", "reason": None, "device": "cpu", "seconds": 400.0, "steps": 40}
    root = tmp_path / "results/small"
    write_json(root / "finetune/scratch/n1/r0/summary.json", done)
    head = "s\th:m:s\tmax_rss\n"
    for replicate, seconds in ((0, 50), (1, 70)):
        file = root / f"benchmark/predict.scratch.n1.r{replicate}.tsv"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{head}{seconds}\t0\t0\n")
    lines = said(arms={"scratch": {}})
    # 48 s and 68 s beside the 2 s of a start, which each job is charged for again.
    assert row(lines, "predict", "scratch")[2:] == ["2", "60", "s", "2", "min"]


def test_core_tuning_probes_and_self_training_are_counted(said, tmp_path: Path) -> None:
    heads = []
    build = timing.start

    def counted(settings, *more):
        model = build(settings, *more)
        heads.append((settings.core_tuning, model.core_tuning is not None))
        return model

    arms = {
        "scratch": {},
        "core": {"finetune": {"core_tuning": 1.0}},
        "knn": {"finetune": {"mode": "knn"}},
        "self": {"selftrain": {"of": "scratch", "rounds": 2}},
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timing, "start", counted)
        lines = said(arms=arms)
    assert sorted(heads) == [(0.0, False), (0.0, False), (1.0, True)]
    assert row(lines, "finetune", "knn")[3] == "0"
    assert row(lines, "finetune", "self")[3] == "80"
    assert any("labelling the pool for self" in line for line in lines)
    planned(tmp_path, [10, 12, 9], tests=3)
    assert not any("labelling the pool" in line for line in said(arms=arms))
