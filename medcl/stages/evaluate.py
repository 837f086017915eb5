"""Measure predictions against references, in mm on the original grid."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcl.config import Evaluate, load_section
from medcl.data.cases import read_cases
from medcl.data.plan import read_plan
from medcl.data.volume import SUFFIXES, Volume, read_volume, same_grid
from medcl.errors import MedclError
from medcl.files import read_json, replacing
from medcl.segmentation.metrics import METRICS, Score, class_metrics

COLUMNS = ("case", "subject", "weights", "class", "metric", "value", "note")
EXAMPLE = "--classes liver=1,spleen=2"
SHOWN = 20  # names in a message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`evaluate` section: YAML text or file")
    parser.add_argument(
        "--predictions", required=True, help="predictions.json, or a folder of label maps"
    )
    parser.add_argument("--cases", help="cases.csv, which names the references")
    parser.add_argument("--plan", help="plan.yaml, which names the classes")
    parser.add_argument("--references", help="folder of label maps named as the predictions")
    parser.add_argument("--classes", help="with --references: name=value,name=value")
    parser.add_argument("--out", required=True, help="folder of metrics.csv")


@dataclass(frozen=True)
class Compared:
    """The files of one case: its reference, and a prediction of each kind of weights."""

    case: str
    subject: str
    reference: str
    predictions: dict[str, str]


@dataclass(frozen=True)
class Measured:
    """The scores of one prediction of one case."""

    case: str
    subject: str
    weights: str
    scores: list[Score]


def run(args: argparse.Namespace) -> None:
    """Write metrics.csv; only its header where the prediction reports a failure.

    Raises MedclError, naming all of them, if predictions lie on another grid than their
    references, and if there is nothing to measure.
    """
    settings = load_section(Evaluate, args.settings)
    out = Path(args.out) / "metrics.csv"
    out.unlink(missing_ok=True)  # of an earlier run: an error must not leave its numbers
    if args.references:
        classes, compared = _classes(args.classes), _by_name(args.predictions, args.references)
    elif args.cases and args.plan:
        predicted = read_json(args.predictions)
        if predicted["status"] != "ok":
            _write(out, [])
            print(f"evaluate: the prediction failed: {predicted['reason']}")
            print(f"evaluate: wrote {out} with its header only", flush=True)
            return
        classes = read_plan(args.plan).classes
        compared = _of_study(predicted, args.cases)
    else:
        raise MedclError(
            "say what to compare with: --cases and --plan for the predictions of a study, or "
            f"--references DIR {EXAMPLE} for two folders of label maps"
        )
    if not compared:
        raise MedclError(f"{args.predictions}: no case has both a prediction and a reference")
    measured, problems = [], []
    for number, files in enumerate(compared, 1):
        try:
            measured += _measure(files, classes, settings.nsd_tolerance_mm)
            print(f"evaluate: {files.case} ({number} of {len(compared)})", flush=True)
        except MedclError as error:
            problems.append(f"{files.case}: {error}")
    if problems:
        raise MedclError("\n".join(problems))
    _write(out, measured)
    _say(measured, classes, settings.nsd_tolerance_mm)
    print(f"evaluate: wrote {out}", flush=True)


def _of_study(predicted: dict, cases_file: str) -> list[Compared]:
    cases = {case.case: case for case in read_cases(cases_file)}
    compared = []
    for entry in predicted["cases"]:
        name = entry["case"]
        if name not in cases:
            raise MedclError(
                f"{cases_file}: no case '{name}', which was predicted; run predict again"
            )
        if (label := cases[name].label) is None:
            print(f"evaluate: {name} left out: it has no label")
            continue
        files = {weights: entry[weights] for weights in predicted["weights"]}
        compared.append(Compared(name, entry["subject"], label, files))
    return compared


def _by_name(predictions: str, references: str) -> list[Compared]:
    predicted, known = _label_maps(predictions), _label_maps(references)
    for what, ours, theirs in (
        ("prediction", known, predicted),
        ("reference", predicted, known),
    ):
        if alone := sorted(ours.keys() - theirs.keys()):
            more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
            print(f"evaluate: left out, there is no {what}: {', '.join(alone[:SHOWN])}{more}")
    both = sorted(predicted.keys() & known.keys())
    return [Compared(name, "", known[name], {"": predicted[name]}) for name in both]


def _label_maps(folder: str) -> dict[str, str]:
    """File name without its suffix -> path."""
    if not Path(folder).is_dir():
        raise MedclError(f"{folder}: no such folder; give a folder of label maps")
    found: dict[str, str] = {}
    for path in sorted(Path(folder).iterdir()):
        suffix = next((s for s in reversed(SUFFIXES) if path.name.lower().endswith(s)), None)
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name[: -len(suffix)]
        if name in found:
            raise MedclError(f"{path}: {found[name]} has the same name; remove one of them")
        found[name] = str(path)
    return found


def _classes(text: str | None) -> dict[str, int]:
    """`a=1,b=2` as a mapping."""
    pairs = [part.partition("=") for part in (text or "").split(",")]
    classes = {name.strip(): int(v) for name, _, v in pairs if v.strip().isdecimal()}
    values = set(classes.values())
    if len(values) < len(pairs) or not all(classes) or 0 in values:
        raise MedclError(
            f"--classes: got '{text or ''}', expected different names and values above 0, such as "
            f"{EXAMPLE}"
        )
    return classes


def _measure(files: Compared, classes: dict[str, int], tolerance_mm: float) -> list[Measured]:
    """Score each prediction of a case; an equal one is not measured twice."""
    reference = _read(files.reference)
    known: list[tuple[Volume, list[Score]]] = []
    measured = []
    for weights, path in files.predictions.items():
        prediction = _read(path)
        if not same_grid(prediction, reference):
            raise MedclError(
                f"{path}: {_grid(prediction)} is another grid than that of its reference "
                f"{files.reference}, {_grid(reference)}; predict on the reference's grid"
            )
        scores = next((s for v, s in known if np.array_equal(v.array, prediction.array)), None)
        if scores is None:
            scores = class_metrics(
                prediction.array[0],
                reference.array[0],
                reference.spacing,
                classes,
                nsd_tolerance_mm=tolerance_mm,
            )
            known.append((prediction, scores))
        measured.append(Measured(files.case, files.subject, weights, scores))
    return measured


def _read(path: str) -> Volume:
    volume = read_volume(path, labels=True)
    if len(volume.array) != 1:
        raise MedclError(
            f"{path}: {len(volume.array)} values per voxel; supply a label map with one value each"
        )
    return volume


def _grid(volume: Volume) -> str:
    shape = "x".join(map(str, volume.shape))
    spacing = " x ".join(f"{mm:.4g}" for mm in volume.spacing)
    origin = ", ".join(f"{mm:.4g}" for mm in volume.affine[:3, 3])
    return f"{shape} voxels of {spacing} mm, {volume.orientation}, from ({origin})"


def _write(path: Path, measured: Sequence[Measured]) -> None:
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in measured:
            for score in one.scores:
                value = "" if score.value is None else f"{score.value:.6f}"
                where = (one.case, one.subject, one.weights, score.class_name)
                writer.writerow([*where, score.metric, value, score.note])


def _say(measured: Sequence[Measured], classes: dict[str, int], tolerance_mm: float) -> None:
    """Print the means, over the cases in which a metric is defined, and what was undefined."""
    shown = [metric for metric in METRICS if not metric.endswith("_mm3")]
    width = max(8, *map(len, classes)) + 2
    print(f"means over the cases in which a metric is defined; nsd within {tolerance_mm:g} mm")
    heads = "".join(f"{head:>9}" for head in [*shown, "cases", "empty"])
    print(f"  {'weights':<10}{'class':<{width}}{heads}")
    for weights in dict.fromkeys(one.weights for one in measured):
        of_weights = [score for one in measured if one.weights == weights for score in one.scores]
        for name in classes:
            scores = [score for score in of_weights if score.class_name == name]
            dice = [score for score in scores if score.metric == "dice"]
            cells = [_mean([s.value for s in scores if s.metric == metric]) for metric in shown]
            cells += [str(len(dice)), str(sum(bool(score.note) for score in dice))]
            print(f"  {weights or '-':<10}{name:<{width}}" + "".join(f"{c:>9}" for c in cells))
    for name, value in classes.items():
        volumes = [s for one in measured for s in one.scores if s.metric == "reference_mm3"]
        if not any(score.value for score in volumes if score.class_name == name):
            print(f"  class '{name}' (value {value}) is in no reference: check its value")


def _mean(values: Sequence[float | None]) -> str:
    defined = [value for value in values if value is not None]
    return f"{np.mean(defined):.3f}" if defined else "-"
