"""Several models predict together: the mean of their class probabilities, before the largest."""

from pathlib import Path

import numpy as np
import pytest
from stages import test_predict as alone

from medcl.cli import main
from medcl.data.plan import Plan
from medcl.data.preprocess import prepare, restore_values
from medcl.data.volume import read_volume, write_nifti
from medcl.files import read_json, write_yaml
from medcl.training.ensemble import entropy

known_network, study = alone.known_network, alone.study
BRIGHT = 7
STUDY = {
    "study": "s",
    "dataset": {"name": "d", "modality": "MR", "classes": {"bright": 1},
                "sources": [{"layout": "files", "path": "x"}]},
    "arms": {"scratch": {}, "mae": {"pretrain": {"objective": "mae", "steps": 1}}},
    "labelled": [1, 2],
    "replicates": 3,
}  # fmt: skip


@pytest.fixture
def models(tmp_path: Path):
    """Models that see what is brighter than a threshold; the bright cube of the scan is 0.95."""

    def write(*thresholds: float, **changes: object) -> list[str]:
        files = [tmp_path / f"m{number}.pt" for number in range(len(thresholds))]
        for file, high in zip(files, thresholds, strict=True):
            alone.write_model(file, last=high, selected=high, **changes)
        return [str(file) for file in files]

    return write


def predict(folder: Path, models: list[str], *more: str) -> int:
    write_nifti(folder / "in/anna.nii", alone.scan()[0])
    words = ["predict", "--model", *models, "--input", str(folder / "in/anna.nii")]
    return main([*words, "--output", str(folder / "out"), *more])


def is_bright(folder: Path) -> bool:
    """Whether the middle of the bright cube was found to be bright."""
    found = read_volume(folder / "out/anna.nii.gz", labels=True).array[0]
    return found[12, 11, 6] == BRIGHT


def softmax_of_bright(high: float, value: float = 0.95) -> float:
    """By hand: the probability the model of this threshold gives to `bright`."""
    logits = np.exp([0.0, 20 * (0.275 - value), 20 * (value - high)])
    return float(logits[2] / logits.sum())


@pytest.mark.parametrize(
    "thresholds",
    [(0.725, 0.99), (0.725, 2.0), (0.725, 0.93, 2.0), (0.725, 0.9, 2.0), (0.725, 2.0, 2.0)],
)
def test_the_mean_of_the_probabilities_decides(
    tmp_path: Path, models, thresholds: tuple[float, ...]
) -> None:
    assert predict(tmp_path, models(*thresholds)) == 0
    mean = np.mean([softmax_of_bright(high) for high in thresholds])
    assert is_bright(tmp_path) == (mean > 0.5)


def test_neither_the_mean_of_the_logits_nor_one_vote_each_decides(tmp_path: Path, models) -> None:
    logits = [20 * (0.95 - high) for high in (0.725, 0.9, 2.0)]
    assert np.mean(logits) < 0 < np.mean([softmax_of_bright(h) for h in (0.725, 0.9, 2.0)]) - 0.5
    assert predict(tmp_path, models(0.725, 0.9, 2.0)) == 0
    assert is_bright(tmp_path)
    assert [softmax_of_bright(high) > 0.5 for high in (0.96, 0.96, 0.725)] == [False, False, True]
    assert predict(tmp_path, models(0.96, 0.96, 0.725)) == 0
    assert is_bright(tmp_path)


def test_the_replicates_of_an_arm_are_found_in_a_study(tmp_path: Path, models, capsys) -> None:
    root = tmp_path / "results"
    write_yaml(root / "config.resolved.yaml", STUDY)
    for number, file in enumerate(models(0.725, 2.0, 2.0, 0.725, 0.725)):  # two of them from before
        place = root / f"finetune/mae/n2/r{number}"
        place.mkdir(parents=True)
        Path(file).rename(place / "model.pt")
    write_nifti(tmp_path / "anna.nii", alone.scan()[0])
    words = ["predict", "--input", str(tmp_path / "anna.nii"), "--output", str(tmp_path / "out")]
    words += ["--study", str(root), "--arm", "mae"]
    assert main([*words, "--labelled", "2"]) == 0
    assert not is_bright(tmp_path)
    for more, said in (
        (["--labelled", "3"], "no arm 'mae' with 3 labelled; there are scratch with 1 and 2, mae"),
        (["--labelled", "1"], "mae/n1/r0/model.pt: not found (3 of 3 models are not made yet)"),
        ([], "--arm and --labelled"),
    ):
        assert main([*words, *more]) == 1
        assert said in capsys.readouterr().err
    (root / "config.resolved.yaml").unlink()
    assert main([*words, "--labelled", "2"]) == 1
    assert "config.resolved.yaml: not found; --study takes" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--arm", "mae"], ["--labelled", "2"]])
def test_an_arm_of_no_study_is_refused(tmp_path: Path, capsys, words) -> None:
    named = ["predict", "--model", "m.pt", "--input", "a.nii", "--output", str(tmp_path)]
    assert main([*named, *words]) == 1
    assert f"{words[0]}: chooses models of a --study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": [16, 16, 16]}, "crop [16, 16, 16] and [16, 16, 8]"),
        ({"classes": {"dark": 3, "light": 7}}, "classes {'dark': 3, 'light': 7} and"),
        ({"spacing": [1.0, 1.0, 2.0]}, "spacing [1.0, 1.0, 2.0] and [1.2, 1.2, 2.0]"),
    ],
)
def test_networks_of_other_plans_are_refused_by_name(
    tmp_path: Path, models, capsys, changes: dict, said: str
) -> None:
    (first,) = models(0.725)
    other = alone.write_model(tmp_path / "other.pt", plan=alone.PLAN | changes)
    assert predict(tmp_path, [first, str(other)]) == 1
    error = capsys.readouterr().err
    assert f"{other} and {first}: made with other plans: {said}" in error
    assert not (tmp_path / "out").exists()


def test_another_pool_and_number_of_threads_make_no_other_plan(tmp_path: Path, models) -> None:
    (first,) = models(0.725)
    seen = {"threads": 2, "fingerprint": {"spacing_range": [[1.0] * 3, [2.0, 2.0, 8.0]]}}
    other = alone.write_model(tmp_path / "other.pt", plan=alone.PLAN | seen)
    assert predict(tmp_path, [first, str(other)]) == 0


def test_an_ensemble_of_a_study_with_a_failed_training_is_none_and_says_which(study) -> None:
    good = alone.write_model(study.folder / "good.pt")
    bad = alone.write_model(study.folder / "bad.pt", status="failed", reason="loss is nan")
    words = ["predict", "--model", str(good), str(bad), "--out", str(study.folder / "out")]
    words += ["--cases", str(study.folder / "cases.csv")]
    assert main([*words, "--splits", str(study.folder / "splits.csv")]) == 0
    manifest = read_json(study.folder / "out/predictions.json")
    assert (manifest["status"], manifest["cases"]) == ("failed", [])
    assert manifest["reason"] == f"{bad}: loss is nan"


def test_uncertainty_is_the_entropy_of_the_mean_on_the_grid_of_the_scan(
    tmp_path: Path, models
) -> None:
    assert predict(tmp_path, models(0.725, 2.0), "--uncertainty") == 0
    image = alone.scan()[0]
    found = read_volume(tmp_path / "out/uncertainty/anna.nii.gz")
    assert found.array.shape == image.array.shape
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
    p = np.mean([softmax_of_bright(high) for high in (0.725, 2.0)])
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p)) / np.log(3)
    assert found.array[0, 12, 11, 6] == pytest.approx(expected, abs=5e-3)
    assert found.array[0, 33, 22, 11] < 0.1  # both see the dark cube


def test_a_scan_is_uncertain_nowhere_unless_asked(tmp_path: Path, models) -> None:
    assert predict(tmp_path, models(0.725, 2.0)) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["anna.nii.gz"]


def test_entropy_goes_from_none_to_one() -> None:
    sure, torn, all_equal = [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]
    p = np.array([sure, torn, all_equal], np.float32).T.reshape(3, 3, 1, 1)
    np.testing.assert_allclose(
        entropy(p).ravel(), [0, np.log(2) / np.log(3), 1], rtol=1e-6, atol=1e-6
    )


def test_values_come_back_to_the_voxels_they_came_from() -> None:
    image = alone.scan()[0]
    prepared = prepare(image, Plan.from_dict(alone.PLAN, where="plan"))
    back = restore_values(prepared.array[0], prepared)
    expected = (image.array[0] + 500) / 1000  # the plan's window
    inside = np.abs(expected - back)[6:18, 7:16, 4:8]  # away from the edges of the bright cube
    assert inside.max() < 0.06
