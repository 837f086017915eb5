"""The chain as a whole: what a kill costs, what a label may change, what a newcomer types."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from micro import CLEAN, MICRO, command, medcl, micro_study, snakemake

from medcl.data.splits import read_splits
from medcl.files import read_json

S = "results/micro"
NETWORK = yaml.safe_dump(MICRO["network"])
READS = ["--store", f"{S}/store/manifest.json", "--splits", f"{S}/split/splits.csv"]
READS += ["--plan", f"{S}/plan/plan.yaml"]


def weights(file: Path) -> dict[str, torch.Tensor]:
    content = torch.load(file, weights_only=True)
    assert content["status"] == "ok"
    return content["weights"]["last"] if "weights" in content else content["network_weights"]


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def kill_when(start: list[str], cwd: Path, ready: Callable[[], bool]) -> None:
    """Start a process, wait until `ready`, and SIGKILL it with all its children."""
    process = subprocess.Popen(
        start, cwd=cwd, env=CLEAN, start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def pretraining(out: str) -> list[str]:
    settings = yaml.safe_dump(MICRO["arms"]["mae"]["pretrain"])
    return [
        *("pretrain", "--settings", settings, "--network", NETWORK, *READS),
        *("--seed", "0", "--out", out, "--work", f"{out}/work"),
    ]


def test_a_killed_pretraining_ends_with_the_same_weights(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "mae"
    start = [sys.executable, "-m", "medcl", *pretraining(str(out))]
    kill_when(start, finished, lambda: bool(list(out.glob("work/*/state.pt"))))
    said = medcl(*pretraining(str(out)), cwd=finished)
    assert "resumed at step" in said
    assert_same_weights(out / "encoder.pt", finished / S / "pretrain/mae/s0/encoder.pt")


@pytest.mark.slow
def test_a_killed_study_goes_on_after_unlock_and_ends_with_the_same_weights(
    finished: Path, tmp_path: Path
) -> None:
    study = ["--configfile", micro_study(tmp_path)]
    work = tmp_path / S / "state/pretrain/mae/s0"
    start = command("--cores", "2", *study)
    kill_when(start, tmp_path, lambda: bool(list(work.glob("*/state.pt"))))
    locked = snakemake("--cores", "2", *study, cwd=tmp_path, check=False)
    assert "--unlock" in locked.stdout + locked.stderr
    snakemake("--unlock", *study, cwd=tmp_path)
    snakemake("--cores", "2", *study, cwd=tmp_path)
    for file in ("pretrain/mae/s0/encoder.pt", "finetune/mae/n1/r0/model.pt"):
        assert_same_weights(tmp_path / S / file, finished / S / file)
    assert not work.exists() or not list(work.iterdir())


def without_labels(folder: Path) -> None:
    """Take away every label outside the subset, validation and test."""
    splits = read_splits(folder / S / "split/splits.csv")
    kept = {*splits.cases("validation"), *splits.cases("test")}
    kept |= set(splits.cases_of(splits.subset(1, 0)))
    change_cases(folder, lambda row: row | ({} if row["case"] in kept else {"label": ""}))


def with_noise_for_test_images(folder: Path) -> None:
    test = read_splits(folder / S / "split/splits.csv").cases("test")
    rng = np.random.default_rng(0)

    def noisy(row: dict[str, str]) -> dict[str, str]:
        if row["case"] not in test:
            return row
        shape = tuple(int(n) for n in row["shape"].split("x"))
        image = folder / f"{row['case']}.nii"
        nib.Nifti1Image(rng.normal(size=shape).astype(np.float32), np.eye(4)).to_filename(image)
        return row | {"image": str(image), "image_sha256": "0", "voxel_sha256": row["case"]}

    change_cases(folder, noisy)


def change_cases(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    file = folder / S / "ingest/cases.csv"
    rows = [change(row) for row in csv.DictReader(file.read_text().splitlines())]
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.slow
@pytest.mark.parametrize("change", [without_labels, with_noise_for_test_images])
def test_what_training_must_not_see_changes_no_weight_bit_and_no_line_of_the_plan(
    finished: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    shutil.copytree(finished / S / "ingest", tmp_path / S / "ingest")
    shutil.copytree(finished / S / "split", tmp_path / S / "split")
    (tmp_path / S / "phantom").symlink_to(finished / S / "phantom")
    change(tmp_path)
    study = yaml.safe_load((finished / S / "config.resolved.yaml").read_text())
    cases = ["--cases", f"{S}/ingest/cases.csv"]
    splits = ["--splits", f"{S}/split/splits.csv"]
    medcl(
        "split",
        "--settings",
        yaml.safe_dump(study["split"]),
        *cases,
        "--out",
        f"{S}/split",
        cwd=tmp_path,
    )
    medcl(
        "plan",
        "--settings",
        yaml.safe_dump(study["dataset"]),
        *cases,
        *splits,
        "--out",
        f"{S}/plan",
        cwd=tmp_path,
    )
    plan = ["--plan", f"{S}/plan/plan.yaml"]
    medcl(
        "preprocess",
        *cases,
        *splits,
        *plan,
        "--out",
        f"{S}/store",
        "--work",
        "w",
        "--threads",
        "1",
        cwd=tmp_path,
    )
    assert (tmp_path / S / "plan/plan.yaml").read_bytes() == (
        finished / S / "plan/plan.yaml"
    ).read_bytes()
    medcl(*pretraining("encoder"), cwd=tmp_path)
    assert_same_weights(
        tmp_path / "encoder/encoder.pt", finished / S / "pretrain/mae/s0/encoder.pt"
    )
    medcl(
        *("finetune", "--settings", yaml.safe_dump(study["finetune"]), "--network", NETWORK),
        *(*READS, "--labelled", "1", "--replicate", "0", "--encoder", "encoder/encoder.pt"),
        *("--out", "model", "--work", "model/work"),
        cwd=tmp_path,
    )
    assert_same_weights(tmp_path / "model/model.pt", finished / S / "finetune/mae/n1/r0/model.pt")


def test_a_finished_model_segments_new_scans(finished: Path, tmp_path: Path) -> None:
    scans = sorted((finished / S / "phantom").rglob("*.nii*"))
    image = next(scan for scan in scans if "label" not in str(scan) and "broken" not in str(scan))
    said = medcl(
        *("predict", "--model", f"{S}/finetune/scratch/n1/r0/model.pt"),
        *("--input", str(image), "--output", str(tmp_path)),
        cwd=finished,
    )
    (written,) = tmp_path.glob("*.nii.gz")
    assert nib.load(written).shape == nib.load(image).shape
    assert np.allclose(nib.load(written).affine, nib.load(image).affine, atol=1e-4)
    assert image.name.partition(".")[0] in said


def test_the_broken_cases_end_with_the_finding_they_were_made_for(finished: Path) -> None:
    found = {case["case"]: case for case in read_json(finished / S / "ingest/ingest.json")["cases"]}
    for case in read_json(finished / S / "phantom/phantom.json")["cases"]:
        codes = [finding["code"] for finding in found[case["case"]]["findings"]]
        if case["code"]:
            assert found[case["case"]]["status"] == "quarantined"
            assert case["code"] in codes
        else:
            assert found[case["case"]]["status"] == "accepted", codes


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    show = (
        "import sys; sys.argv = ['medcl', '--help']\n"
        "from medcl.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'pandas', 'SimpleITK'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", show], check=True, capture_output=True)

    def fastest(*arguments: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest("-m", "medcl", "--help") < 10 * fastest("-c", "pass")


def test_clean_says_what_it_would_remove_and_removes_only_that(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / S, tmp_path / "micro", symlinks=True)
    said = medcl("clean", str(tmp_path / "micro"), cwd=tmp_path)
    assert "nothing removed" in said
    assert (tmp_path / "micro/store").exists()
    medcl("clean", str(tmp_path / "micro"), "--yes", cwd=tmp_path)
    assert not (tmp_path / "micro/store").exists()
    assert (tmp_path / "micro/report.html").exists()
