"""Write label maps on the original grid: of a study's test cases, or of new scans."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from medcl.config import Predict, load_section
from medcl.data.case_table import MODALITIES
from medcl.data.cases import Case, read_cases
from medcl.data.channels import file_of, read_image
from medcl.data.dicom import Series
from medcl.data.entries import Entry
from medcl.data.new_scans import SPACING_FACTOR, list_scans, read_scan, shown
from medcl.data.origin import series_folders, series_of
from medcl.data.plan import Plan
from medcl.data.preprocess import prepare, restore
from medcl.data.segmentation_object import write_segmentation
from medcl.data.splits import read_splits
from medcl.data.store import inside
from medcl.data.volume import Volume, VolumeError, write_nifti
from medcl.errors import MedclError
from medcl.files import read_json, write_json
from medcl.segmentation.inference import predict_probabilities
from medcl.training import checkpoint
from medcl.training.devices import channels_last, place

Weights = Literal["last", "selected"]
WEIGHTS: tuple[Weights, ...] = ("last", "selected")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`predict` section: YAML text or file")
    parser.add_argument("--model", required=True, help="model.pt of a fine-tuning")
    study = parser.add_argument_group("the test cases of a study")
    study.add_argument("--cases", help="cases.csv")
    study.add_argument("--splits", help="splits.csv")
    study.add_argument("--findings", help="ingest.json; `dicom_seg` needs it")
    study.add_argument("--out", help="folder of predictions.json and the label maps")
    scans = parser.add_argument_group("new scans")
    scans.add_argument(
        "--input",
        help="a volume, a table, a folder in any layout of ingest, or a dataset YAML",
    )
    scans.add_argument(
        "--output",
        help="folder of the label maps, <case>.nii.gz; of DICOM series also <case>.seg.dcm",
    )
    scans.add_argument("--modality", choices=MODALITIES, help="of files that do not say it")
    scans.add_argument("--weights", choices=WEIGHTS, default="last", help="which weights to use")
    scans.add_argument(
        "--force",
        action="store_true",
        help="accept another modality than the model's, and a spacing more than "
        f"{SPACING_FACTOR:g} times finer or coarser than its plan's and its training images'",
    )


@dataclass(frozen=True)
class Model:
    """Networks by weights (one object where the weights are equal) and what they expect."""

    networks: dict[Weights, nn.Module]
    plan: Plan
    settings: Predict

    def segment(self, volume: Volume) -> tuple[dict[Weights, UInt8[np.ndarray, "X Y Z"]], float]:
        """Label maps on the volume's grid by weights, and the seconds of the first of them."""
        started = time.perf_counter()
        seconds = None
        prepared = prepare(volume, self.plan)
        labels: dict[Weights, np.ndarray] = {}
        for weights, network in self.networks.items():
            twin = next((done for done in labels if self.networks[done] is network), None)
            if twin is not None:
                labels[weights] = labels[twin]
                continue
            probabilities = predict_probabilities(
                network,
                prepared.array,
                self.plan.crop,
                fill=prepared.fill,
                overlap=self.settings.overlap,
                batch=self.settings.batch,
            )
            labels[weights] = restore(probabilities, prepared, self.plan.values)
            seconds = seconds or time.perf_counter() - started
        return labels, seconds or 0.0


def run(args: argparse.Namespace) -> None:
    settings = load_section(Predict, args.settings)
    if args.input and args.output:
        _predict_scans(args, settings)
    elif args.cases and args.splits and args.out and not args.input:
        _predict_tests(args, settings)
    else:
        raise MedclError(
            "say what to predict: --input and --output for new scans, or --cases, --splits and "
            "--out for the test cases of a study"
        )


def load(path: str, weights: Sequence[Weights], settings: Predict) -> Model:
    """Load the networks of a model.pt onto this process's device, with the plan's threads."""
    networks: dict[Weights, nn.Module] = {}
    for name in weights:
        network, manifest = checkpoint.load_model(path, name)
        networks[name] = next((n for n in networks.values() if _equal(n, network)), network)
    plan = Plan.from_dict(manifest["plan"], where=path)
    device = place(plan.threads).device
    moved = {name: channels_last(network.to(device)) for name, network in networks.items()}
    return Model(moved, plan, settings)


def _equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def _predict_tests(args: argparse.Namespace, settings: Predict) -> None:
    out = Path(args.out)
    manifest = out / "predictions.json"
    manifest.unlink(missing_ok=True)  # of an earlier run
    content: dict[str, Any] = {"weights": list(WEIGHTS), "cases": [], "failed": {}}
    trained = checkpoint.load(args.model)
    if trained.get("kind") == "segmentation" and trained["status"] == "failed":
        write_json(manifest, {**content, "status": "failed", "reason": trained["reason"]})
        print(f"predict: nothing to do, the training failed: {trained['reason']}", flush=True)
        return
    model = load(args.model, WEIGHTS, settings)
    cases = {case.case: case for case in read_cases(args.cases)}
    tests = read_splits(args.splits).cases("test")
    if settings.dicom_seg and not args.findings:
        raise MedclError("--findings: `dicom_seg` needs ingest.json, which names the series")
    folders = series_folders(read_json(args.findings)) if settings.dicom_seg else {}
    for number, name in enumerate(tests, 1):
        try:
            if name not in cases:
                raise MedclError(f"{args.cases}: no case '{name}'; run split again")
            content["cases"].append(_predict_case(model, cases[name], out, folders.get(name)))
        except MedclError as error:
            content["failed"][name] = str(error)
            print(f"predict: {name} ({number} of {len(tests)}) left out: {error}", flush=True)
        else:
            seconds = content["cases"][-1]["seconds"]
            print(f"predict: {name} ({number} of {len(tests)}), {seconds:.1f} s", flush=True)
    if not content["cases"]:
        raise MedclError(
            f"{args.splits}: none of {len(tests)} test cases could be predicted; see above"
        )
    write_json(manifest, {**content, "status": "ok", "reason": None})
    print(f"predict: wrote {manifest}: {len(content['cases'])} cases", flush=True)


def _predict_case(model: Model, case: Case, out: Path, folder: str | None) -> dict[str, Any]:
    """Write the label maps of a case; return its entry of the manifest.

    `folder`: of the DICOM series to refer to, where objects are wanted.
    """
    volume = read_image(case)
    labels, seconds = model.segment(volume)
    entry = {"case": case.case, "subject": case.subject, "seconds": round(seconds, 3)}
    for weights, array in labels.items():
        file = f"{weights}/{case.case}.nii.gz"
        inside(out, file)
        write_nifti(out / file, Volume(array[None], volume.affine))
        entry[weights] = str(out / file)
    if folder is None:
        return entry
    try:
        series = series_of(case, volume, folder)
    except VolumeError as error:
        print(f"predict: {case.case}: no DICOM-SEG: {error}", flush=True)
        return entry
    for weights, array in labels.items():
        label = Volume(array[None], volume.affine)
        _write_object(case.case, label, series, model.plan, out / weights)
    return entry


def _predict_scans(args: argparse.Namespace, settings: Predict) -> None:
    model = load(args.model, [args.weights], settings)
    entries = list_scans(Path(args.input), model.plan)
    rows = [["case", "modality", "shape", "spacing mm", *model.plan.classes, "seconds"]]
    for entry in entries:
        try:
            row = _predict_scan(model, entry, args)
        except MedclError as error:
            skipped = entry.skipped or getattr(error, "code", "") == "not_an_image"
            word = "skipped" if skipped else "refused"
            print(f"predict: {word} {entry.case}: {error}", flush=True)
        else:
            rows.append(row)
            print(f"predict: wrote {_target(entry, args.output)}", flush=True)
    if len(rows) == 1:
        raise MedclError(f"{args.input}: none of {len(entries)} inputs was predicted; see above")
    _print_table(rows)


def _predict_scan(model: Model, entry: Entry, args: argparse.Namespace) -> list[str]:
    """Write the label map of a scan; return its row of the table. Raises MedclError to refuse."""
    volume, modality, series, told = read_scan(
        entry, model.plan, modality=args.modality, force=args.force
    )
    for finding in told:
        print(f"predict: {entry.case}: {finding}", flush=True)
    target = _target(entry, args.output)
    files = [file_of(part.path)[0] for part in entry.images]
    if target.exists() and any(target.samefile(file) for file in files):
        raise MedclError(f"{target}: is the scan itself; choose another folder for --output")
    labels, seconds = model.segment(volume)
    array = labels[args.weights]
    write_nifti(target, Volume(array[None], volume.affine))
    if series is not None:
        label = Volume(array[None], volume.affine)
        _write_object(entry.case, label, series, model.plan, Path(args.output))
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    sizes = [
        f"{np.count_nonzero(array == value) * voxel_ml:.1f} ml"
        for value in model.plan.classes.values()
    ]
    shape = "x".join(map(str, volume.shape))
    return [entry.case, modality, shape, shown(volume.spacing), *sizes, f"{seconds:.1f}"]


def _write_object(case: str, label: Volume, series: Series, plan: Plan, folder: Path) -> None:
    """The same as DICOM-SEG beside the NIfTI file, where the series allows it."""
    path = folder / f"{case}.seg.dcm"
    path.unlink(missing_ok=True)  # of an earlier run
    try:
        write_segmentation(path, label, series, plan.classes)
    except VolumeError as error:
        print(f"predict: {case}: no DICOM-SEG: {error}", flush=True)
    else:
        print(f"predict: wrote {path}", flush=True)


def _target(entry: Entry, output: str) -> Path:
    return Path(output) / f"{entry.case}.nii.gz"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip(), flush=True)
