"""Train an aggregator on the features of one fold's training slides; predict the others."""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import torch

from medcl.config import UNDECIDING, Mil, load_section
from medcl.config.study import Options
from medcl.errors import MedclError, TrainingFailed
from medcl.files import read_json, replacing
from medcl.slides.mil import build, kind_of
from medcl.slides.mil.bags import Bags, balanced_weights
from medcl.slides.mil.base import Aggregator, BagPrediction
from medcl.slides.mil.stored import Stored
from medcl.slides.table import Dealt, Slide, read_folds
from medcl.training.devices import place
from medcl.training.fit import Fitted, fit
from medcl.training.run import Outputs, on_cpu, seeded, work_folder
from medcl.training.seeds import seed_of

MIL = 2**31 + 1  # keeps these seeds apart from those of encoders
PREDICTIONS, SCORES = "predictions.csv", "scores.h5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="`mil` section: YAML or a file")
    parser.add_argument("--aggregator", required=True, help="name and options: YAML or a file")
    parser.add_argument("--classes", required=True, nargs="+", help="classes of the dataset")
    parser.add_argument("--embedded", required=True, help="embed.json")
    parser.add_argument("--folds", required=True, help="folds.csv")
    parser.add_argument("--fold", type=int, required=True, help="fold that is tested")
    parser.add_argument("--seed", type=int, default=0, help="number of this training")
    parser.add_argument("--out", required=True, help="folder of model.pt, predictions.csv, ...")
    parser.add_argument("--work", required=True, help="folder of the state a killed run resumes")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")


def run(args: argparse.Namespace) -> None:
    """Write model.pt, log.csv, summary.json, predictions.csv and scores.h5 whatever happens."""
    settings = load_section(Mil, args.settings)
    options = load_section(Options, args.aggregator)
    outputs = Outputs("mil", Path(args.out), "model.pt", place(args.threads))
    outputs.content = {
        "kind": "aggregator",
        "aggregator": options.model_dump(),
        "settings": settings.model_dump(),
        "classes": list(args.classes),
        "fold": args.fold,
        "seed": args.seed,
    }
    outputs.facts = {"fold": args.fold, "seed": args.seed, "steps": settings.steps}
    try:
        _run(settings, options, outputs, args)
    except TrainingFailed as error:
        _write(outputs.out, args.classes, [])
        outputs.fail(error)


def _run(settings: Mil, options: Options, outputs: Outputs, args: argparse.Namespace) -> None:
    dealt, embedded = read_folds(args.folds), read_json(args.embedded)
    if embedded["status"] != "ok":
        raise TrainingFailed(embedded["reason"])
    stored = Stored(
        {
            name: (Path(args.embedded).parent / "features" / f"{name}.h5", item["made_from"])
            for name, item in embedded["slides"].items()
            if item["status"] == "ok"
        }
    )
    seed = seed_of(args.seed, MIL, args.fold)
    model, bags = _prepared(settings, options, stored, dealt, seed, args)
    key = {"stage": "mil", "fold": args.fold, "seed": args.seed, **outputs.content}
    key["settings"] = settings.model_dump(exclude=UNDECIDING)
    files = {"folds": args.folds, "embedded": args.embedded}
    fitted = _fitted(model, bags, settings, seed, outputs, work_folder(args.work, key, files))
    predicted = []
    for role in ("validation", "test"):
        for one in dealt.of(role, args.fold):
            if one.label and one.slide in stored.files:
                found = _predict(model, stored, one, settings.chunk, outputs.place.device)
                predicted.append((one, role, found))
    _write(outputs.out, args.classes, predicted)
    outputs.facts |= {"bags": len(bags.names), "instances": bags.instances}
    outputs.finish(
        fitted,
        features=stored.width,
        mean=torch.from_numpy(stored.mean),
        deviation=torch.from_numpy(stored.deviation),
        weights=on_cpu(model.state_dict()),
    )
    shutil.rmtree(args.work, ignore_errors=True)


def _prepared(
    settings: Mil,
    options: Options,
    stored: Stored,
    dealt: Dealt,
    seed: int,
    args: argparse.Namespace,
) -> tuple[Aggregator, Bags]:
    """The aggregator with its first weights, and the bags it is trained on."""
    classes = list(args.classes)
    training = [
        one for one in dealt.of("training", args.fold) if one.label and one.slide in stored.files
    ]
    names = [one.slide for one in training]
    labels = [classes.index(one.label) for one in training]
    if len(set(labels)) < len(classes):
        raise TrainingFailed(f"fold {args.fold}: not every class has a training slide with tiles")
    stored.standardise_over(names)
    weights = None
    if settings.class_weights and not kind_of(options.name).balanced:
        weights = balanced_weights(labels, len(classes))
    with seeded(seed):
        model = build(
            options.model_dump(),
            features=stored.width,
            classes=len(classes),
            class_weights=weights,
        )
    if settings.batch < model.least_batch:
        raise MedclError(
            f"mil.batch: {settings.batch} bags, {options.name} needs {model.least_batch}"
        )
    return model, Bags(names, labels, stored, cap=settings.cap, balanced=model.balanced)


def _fitted(
    model: Aggregator, bags: Bags, settings: Mil, seed: int, outputs: Outputs, work: Path
) -> Fitted:
    model.begin(settings.steps, bags.instances)
    return fit(
        model,
        bags,
        settings,
        steps=settings.steps,
        seed=seed,
        place=outputs.place,
        work=work,
        what=f"mil f{outputs.facts['fold']} s{outputs.facts['seed']}",
    )


def _predict(
    model: Aggregator, stored: Stored, slide: Slide, chunk: int, device: torch.device
) -> BagPrediction:
    features = torch.from_numpy(stored.read(slide.slide))[None].to(device)
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=device)
    return model.predict(features, mask, chunk=chunk if model.chunked else None)


def instance_scores(found: BagPrediction) -> torch.Tensor:
    """How much each tile speaks for the last class, or counts where the method has one attention
    for all classes.
    """
    scores = found.attention if found.instances is None else found.instances
    return (scores[0] if scores.ndim == 2 else scores[0, :, -1]).cpu().float()


def _write(
    out: Path, classes: Sequence[str], predicted: Sequence[tuple[Slide, str, BagPrediction]]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows: list[list[Any]] = []
    with replacing(out / SCORES) as partial, h5py.File(partial, "w") as file:
        for one, role, found in predicted:
            shares = [f"{float(p):.9g}" for p in found.probabilities[0]]
            rows.append([one.slide, one.patient, one.label, role, *shares])
            if role == "test":
                file[one.slide] = instance_scores(found).numpy()
    with (
        replacing(out / PREDICTIONS) as partial,
        open(partial, "w", newline="", encoding="utf-8") as opened,
    ):
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["slide", "patient", "label", "role", *(f"p_{name}" for name in classes)])
        writer.writerows(rows)
