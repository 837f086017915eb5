"""Write label maps on the original grid: of a study's test cases, or of new scans.

Several models predict together, by the mean of their class probabilities: the replicates of an arm
are such an ensemble, and have seen as many labelled subjects as lie in all of their subsets.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcl.config import Predict, load_section, load_study
from medcl.data.case_table import MODALITIES
from medcl.data.cases import Case, read_cases
from medcl.data.channels import file_of, read_image
from medcl.data.dicom import Series
from medcl.data.entries import Entry
from medcl.data.new_scans import SPACING_FACTOR, list_scans, read_scan, shown
from medcl.data.origin import series_folders, series_of
from medcl.data.plan import Plan
from medcl.data.segmentation_object import write_segmentation
from medcl.data.splits import read_splits
from medcl.data.store import inside
from medcl.data.volume import Volume, VolumeError, write_nifti
from medcl.errors import MedclError
from medcl.files import read_json, write_json
from medcl.study.prose import listed
from medcl.study.protocol import ensemble
from medcl.training import checkpoint
from medcl.training.ensemble import WEIGHTS, Ensemble, load

RESOLVED = "config.resolved.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`predict` section: YAML text or file")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write where the model is not sure, from 0 to 1, into a folder `uncertainty`",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--model", nargs="+", help="model.pt of a fine-tuning; of several the mean is taken"
    )
    which.add_argument("--study", help="results/<study>: every replicate of an arm, their mean")
    parser.add_argument("--arm", help="arm of --study")
    parser.add_argument("--labelled", type=int, help="number of labelled subjects in --study")
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


def _files(args: argparse.Namespace) -> list[str]:
    """The models of the command line: named, or those of every replicate of a study's arm."""
    if args.model:
        for key in ("arm", "labelled"):
            if getattr(args, key) is not None:
                raise MedclError(
                    f"--{key}: chooses models of a --study, but --model names them; leave out one"
                )
        return list(args.model)
    if not (args.arm and args.labelled):
        raise MedclError("--study: say which models by --arm and --labelled, or name them: --model")
    root = Path(args.study)
    if not (root / RESOLVED).is_file():
        raise MedclError(f"{root / RESOLVED}: not found; --study takes a folder results/<study>")
    study = load_study(root / RESOLVED)
    if args.arm not in study.arms or args.labelled not in study.counts(args.arm):
        runs = ", ".join(f"{arm} with {listed(study.counts(arm))}" for arm in study.arms)
        raise MedclError(
            f"{root}: no arm '{args.arm}' with {args.labelled} labelled; there are {runs}"
        )
    # Not whatever lies there: an earlier study of this folder may have had more replicates.
    members = ensemble(study, args.arm, args.labelled).members
    files = [root / member / "model.pt" for member in members]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise MedclError(
            f"{missing[0]}: not found ({len(missing)} of {len(files)} models are not made yet); "
            "run the study to its end, or name the models: --model"
        )
    return [str(file) for file in files]


def _predict_tests(args: argparse.Namespace, settings: Predict) -> None:
    out = Path(args.out)
    manifest = out / "predictions.json"
    manifest.unlink(missing_ok=True)  # of an earlier run
    content: dict[str, Any] = {"weights": list(WEIGHTS), "cases": [], "failed": {}}
    files = _files(args)
    if reason := _failed(files):
        write_json(manifest, {**content, "status": "failed", "reason": reason})
        print(f"predict: nothing to do, the training failed: {reason}", flush=True)
        return
    model = load(files, WEIGHTS, settings)
    cases = {case.case: case for case in read_cases(args.cases)}
    tests = read_splits(args.splits).cases("test")
    if settings.dicom_seg and not args.findings:
        raise MedclError("--findings: `dicom_seg` needs ingest.json, which names the series")
    folders = series_folders(read_json(args.findings)) if settings.dicom_seg else {}
    for number, name in enumerate(tests, 1):
        try:
            if name not in cases:
                raise MedclError(f"{args.cases}: no case '{name}'; run split again")
            entry = _predict_case(model, cases[name], out, folders.get(name), args.uncertainty)
            content["cases"].append(entry)
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


def _failed(files: Sequence[str]) -> str | None:
    """Why there is nothing to predict with: fewer than all of an ensemble would be another one."""
    for file in files:
        trained = checkpoint.load(file)
        if trained.get("kind") == "segmentation" and trained["status"] == "failed":
            return trained["reason"] if len(files) == 1 else f"{file}: {trained['reason']}"
    return None


def _predict_case(
    model: Ensemble, case: Case, out: Path, folder: str | None, uncertainty: bool
) -> dict[str, Any]:
    """Write the label maps of a case; return its entry of the manifest.

    `folder`: of the DICOM series to refer to, where objects are wanted.
    """
    volume = read_image(case)
    found = model.segment(volume, uncertainty=uncertainty)
    entry = {"case": case.case, "subject": case.subject, "seconds": round(found.seconds, 3)}
    for weights, values in found.uncertainty.items():
        file = f"{weights}/uncertainty/{case.case}.nii.gz"
        inside(out, file)
        write_nifti(out / file, Volume(values[None], volume.affine))
    for weights, array in found.labels.items():
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
    for weights, array in found.labels.items():
        label = Volume(array[None], volume.affine)
        _write_object(case.case, label, series, model.plan, out / weights)
    return entry


def _predict_scans(args: argparse.Namespace, settings: Predict) -> None:
    model = load(_files(args), [args.weights], settings)
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


def _predict_scan(model: Ensemble, entry: Entry, args: argparse.Namespace) -> list[str]:
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
    found = model.segment(volume, uncertainty=args.uncertainty)
    array = found.labels[args.weights]
    write_nifti(target, Volume(array[None], volume.affine))
    for values in found.uncertainty.values():
        beside = target.parent / "uncertainty" / target.name
        write_nifti(beside, Volume(values[None], volume.affine))
    if series is not None:
        label = Volume(array[None], volume.affine)
        _write_object(entry.case, label, series, model.plan, Path(args.output))
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    sizes = [
        f"{np.count_nonzero(array == value) * voxel_ml:.1f} ml"
        for value in model.plan.classes.values()
    ]
    shape = "x".join(map(str, volume.shape))
    return [entry.case, modality, shape, shown(volume.spacing), *sizes, f"{found.seconds:.1f}"]


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
