"""The shipped cardiac studies on drawn volumes of their shapes: every stage, two steps each."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medcl.cli import main
from medcl.config import load_study
from medcl.files import read_json, read_yaml

ROOT = Path(__file__).resolve().parents[2]
SLICES = {"patient001": 6, "patient002": 10, "patient003": 18, "patient004": 9, "patient005": 8}


def heart(shape: tuple[int, int, int], classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A chest in air with nested shells off its middle; intensities and labels."""
    rng = np.random.default_rng(seed)
    x, y, z = (np.linspace(-1, 1, n) for n in shape)
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    chest = (x / 0.9) ** 2 + (y / 0.8) ** 2 + (0.3 * z) ** 2 < 1
    away = np.hypot(np.hypot(x - rng.uniform(-0.1, 0.1), y - 0.1), 0.4 * z)
    labels = np.zeros(shape, np.uint8)
    for number, radius in enumerate((0.45, 0.32, 0.2)[:classes], start=1):
        labels[away < radius] = number
    values = 60.0 * chest + 40.0 * labels + rng.normal(0, 4, shape)
    return ndimage.gaussian_filter(values, (0.7, 0.7, 0)).astype(np.float32), labels


def write(folder: Path, name: str, arrays: tuple[np.ndarray, np.ndarray], mm: list[float]) -> None:
    # As scanners write them: axes to left, posterior, superior.
    affine = np.diag([-mm[0], -mm[1], mm[2], 1.0])
    for kind, array in zip(("images", "labels"), arrays, strict=True):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), folder / kind / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def acdc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patients of 6 to 18 slices, one with both frames; slices of 5 and of 10 mm."""
    folder = tmp_path_factory.mktemp("acdc")
    for seed, (name, slices) in enumerate(SLICES.items()):
        frames = ("frame01", "frame12") if seed == 1 else ("frame01",)
        for frame in frames:
            arrays = heart((256, 216, slices), 3, seed)
            write(folder, f"{name}_{frame}", arrays, [1.4, 1.4, 5.0 if slices == 18 else 10.0])
    return folder


@pytest.fixture(scope="module")
def la2018(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("la2018")
    for seed in range(4):
        write(folder, f"p{seed}", heart((190, 142, 88), 1, seed), [1.0, 1.0, 1.0])
    return folder


def text(section: Any) -> str:
    return json.dumps(section.model_dump(mode="json"))


def stages(study: Any, out: Path, arm: str) -> Iterator[list[str]]:
    """Command lines of all stages of one run with one labelled subject."""
    cases, splits = ["--cases", f"{out}/cases.csv"], ["--splits", f"{out}/splits.csv"]
    plan, dataset = ["--plan", f"{out}/plan.yaml"], text(study.dataset)
    yield ["ingest", "--settings", dataset, "--out", str(out)]
    yield ["split", "--settings", text(study.split), *cases, "--out", str(out)]
    yield ["plan", "--settings", dataset, *cases, *splits, "--out", str(out)]
    store = ["--out", f"{out}/store", "--work", f"{out}/work"]
    yield ["preprocess", *cases, *splits, *plan, *store]
    reads = ["--store", f"{out}/store/manifest.json", *splits, *plan]
    reads += ["--network", text(study.network)]
    own = ["--out", f"{out}/encoder", "--work", f"{out}/state/pretrain"]
    yield ["pretrain", "--settings", text(study.arms[arm].pretrain), *reads, *own]
    own = ["--labelled", "1", "--replicate", "0", "--encoder", f"{out}/encoder/encoder.pt"]
    own += ["--out", f"{out}/model", "--work", f"{out}/state/finetune"]
    yield ["finetune", "--settings", text(study.finetune), *reads, *own]
    model = ["--model", f"{out}/model/model.pt", "--settings", text(study.predict)]
    yield ["predict", *model, *cases, *splits, "--out", f"{out}/predictions"]
    made = ["--predictions", f"{out}/predictions/predictions.json", *cases, *plan]
    yield ["evaluate", "--settings", text(study.evaluate), *made, "--out", str(out)]


def run(
    name: str, root: Path, out: Path, arm: str, *, skipped: tuple[str, ...] = (), **network: Any
) -> Any:
    """Run the shipped study with a small network, two steps and few subjects."""
    raw = read_yaml(ROOT / "config" / "studies" / f"{name}.yaml")
    raw |= {"root": str(root), "split": {"test": 1, "validation": 1}}
    raw["network"] |= network
    raw["arms"][arm]["pretrain"] |= {"steps": 2, "batch": 2}
    raw["finetune"] |= {"steps": 2, "batch": 2, "validate_every": 2}
    raw["predict"] = {"overlap": 0.0, "batch": 8}
    study = load_study(raw)
    for arguments in stages(study, out, arm):
        if arguments[0] in skipped:
            continue
        assert main(arguments) == 0, arguments[0]
    return read_yaml(out / "plan.yaml")


def assert_predicted(out: Path) -> None:
    """The run succeeded, and the predictions lie on the grids of their scans."""
    for summary in ("encoder", "model"):
        assert read_json(out / summary / "summary.json")["status"] == "ok"
    assert read_json(out / "model/summary.json")["transfer"]["share"] == 1
    manifest = read_json(out / "predictions/predictions.json")
    assert manifest["cases"]
    assert manifest["failed"] == {}
    references = {row["case"]: row for row in rows(out / "cases.csv")}
    for entry in manifest["cases"]:
        predicted, image = nib.load(entry["last"]), nib.load(references[entry["case"]]["image"])
        assert predicted.shape == image.shape
        np.testing.assert_allclose(predicted.affine, image.affine, atol=1e-5)


def assert_measured(out: Path, classes: set[str]) -> None:
    assert_predicted(out)
    measured = rows(out / "metrics.csv")
    assert {row["class"] for row in measured} == classes
    assert all(row["value"] for row in measured if row["metric"] == "dice")


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_acdc_slice_by_slice(acdc: Path, tmp_path: Path) -> None:
    plan = run("acdc_2d", acdc, tmp_path, "dense", width=2, width_max=8)
    assert (plan["dims"], plan["across"], plan["crop"]) == (2, 2, [192, 192, 1])
    assert plan["given"] == ["crop", "dims", "spacing", "strides"]
    assert_measured(tmp_path, {"right_ventricle", "myocardium", "left_ventricle"})
    spacings = {
        entry["case"]: entry["spacing"][2]
        for entry in read_json(tmp_path / "store/manifest.json")["cases"]
    }
    assert len(spacings) >= 4
    assert all(mm == (5.0 if "003" in case else 10.0) for case, mm in spacings.items())
    subjects = {row["case"]: row["subject"] for row in rows(tmp_path / "cases.csv")}
    frames = [case for case, subject in subjects.items() if subject == "patient002"]
    assert frames == ["patient002_frame01", "patient002_frame12"]
    new = ["--input", str(acdc / "images/patient001_frame01.nii.gz"), "--output"]
    model = ["--model", str(tmp_path / "model/model.pt")]
    assert main(["predict", *model, *new, str(tmp_path / "new")]) == 0
    made = nib.load(tmp_path / "new/patient001_frame01.nii.gz")
    assert made.shape == (256, 216, 6)


def test_acdc_in_small_slices(acdc: Path, tmp_path: Path) -> None:
    plan = run("acdc_2d_small", acdc, tmp_path, "mae", skipped=("evaluate",), width=2)
    assert (plan["spacing"][:2], plan["crop"]) == ([2.0, 2.0], [96, 96, 1])
    assert_predicted(tmp_path)


def test_acdc_as_volumes_of_thick_slices(acdc: Path, tmp_path: Path) -> None:
    plan = run("acdc_3d", acdc, tmp_path, "mae", width=2)
    assert (plan["dims"], plan["crop"]) == (3, [160, 160, 8])
    # Slices are seven times as thick as their pixels: they are halved late or never.
    assert plan["strides"][:3] == [[1, 1, 1], [2, 2, 1], [2, 2, 1]]
    assert_measured(tmp_path, {"right_ventricle", "myocardium", "left_ventricle"})


def test_la2018_as_volumes(la2018: Path, tmp_path: Path) -> None:
    # The surface of what two steps predict is all noise, and takes longest to measure.
    plan = run("la2018", la2018, tmp_path, "dense", skipped=("evaluate",), width=2, blocks=1)
    assert (plan["dims"], plan["crop"]) == (3, [96, 96, 64])
    assert plan["strides"][1] == [2, 2, 2]
    assert plan["classes"] == {"left_atrium": 1}
    assert_predicted(tmp_path)
