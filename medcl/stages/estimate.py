"""Say what a study will cost, from a few timed steps on synthetic volumes, before it is run."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medcl import networks, objectives
from medcl.config import Finetune, Pretrain, Study, Training, load_study
from medcl.data.plan import Measured, Plan, make_plan, read_plan
from medcl.data.store import Store, write_case, write_manifest
from medcl.data.strides import BUDGET
from medcl.errors import MedclError
from medcl.files import read_json
from medcl.segmentation.crops import LabelledCrops
from medcl.segmentation.inference import predict_probabilities
from medcl.segmentation.model import Segmentation
from medcl.segmentation.validation import validation_dice
from medcl.stages.pretrain import phases_of
from medcl.study import projection, protocol
from medcl.study.projection import Pace, Projected
from medcl.study.prose import duration
from medcl.training.devices import Place, place
from medcl.training.fit import fit
from medcl.training.pretext import PretextItems
from medcl.training.sampler import Items
from medcl.views.augment import Augment

CASES = 4  # some pretext tasks compare volumes with one another
SIDE = round(BUDGET ** (1 / 3))
SIZE = 1.5  # lengths of a volume whose shape is not known yet, in crops


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", required=True, help="the study's YAML file")
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)), help="as for snakemake"
    )
    parser.add_argument("--gpus", type=int, default=1, help="as `--resources gpu=`, where any is")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after a first")


def run(args: argparse.Namespace) -> None:
    """Print the jobs of each stage and arm, what one takes, and the whole on so many cores."""
    study = load_study(args.study)
    root = Path(study.results) / study.study
    known = (root / "plan/plan.yaml").is_file()
    plan = read_plan(root / "plan/plan.yaml") if known else _assumed(study)
    here = place(plan.threads)
    print(f"estimate: {projection.sentence(study)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pace = _measure(study, plan, root, Path(folder), here, args.steps)
    cuda = here.device.type == "cuda"
    at_a_time = max(1, args.gpus if cuda else args.cores // plan.threads)
    items = projection.project(study, pace)
    _print(items)
    device = f"{args.gpus} GPU" if cuda else f"{args.cores} cores"
    wall = duration(projection.wall_seconds(items, at_a_time))
    whole = duration(math.fsum(item.seconds or 0.0 for item in items))
    print(f"about {wall} on {device} ({at_a_time} jobs at a time); {whole} of jobs in all")
    left_out = ["ingest", "preprocess", "evaluate", "report"]
    left_out += [f"{item.stage} of {item.arm}" for item in items if item.seconds is None]
    print(f"not counted: {', '.join(left_out)}")
    crop = "x".join(map(str, plan.crop))
    if known:
        print(f"measured on this machine as it is now, with crops of {crop} voxels")
    else:
        print(
            f"measured on this machine as it is now, with crops of {crop} voxels: there is no plan "
            "yet. Once `snakemake --until plan` has run, the estimate takes the real crop and shape"
        )


def _assumed(study: Study) -> Plan:
    """The plan of volumes of which nothing is known but the dataset's own keys."""
    keys = study.dataset.plan
    spacing = keys.spacing or (1.0, 1.0, 1.0)
    crop = keys.crop or (SIDE, SIDE, SIDE)
    x, y, z = (max(1, round(SIZE * length)) for length in crop)
    a, b, c = (n * mm for n, mm in zip((x, y, z), spacing, strict=True))
    sample = np.linspace(0, 1, 100, dtype=np.float32)[None]
    return make_plan(
        [Measured("assumed", (x, y, z), spacing, (a, b, c), sample)], study.dataset, cases=1
    )


def _measure(study: Study, plan: Plan, root: Path, folder: Path, here: Place, steps: int) -> Pace:
    store = _synthetic(folder / "store", plan)
    pretrain: dict[str, Sequence[float] | None] = {}
    for start in protocol.pretrainings(study):
        if start.arm not in pretrain:
            settings = study.arms[start.arm].pretrain
            assert settings is not None
            pretrain[start.arm] = _tried(
                f"pretrain of {start.arm}",
                partial(_pretraining, study, settings, plan, store, folder, here, steps),
            )
    finetune: dict[str, float | None] = {}
    validate: dict[str, float] = {}
    timed: dict[str, tuple[float, float] | None] = {}
    for row in protocol.runs(study):
        if row.arm in finetune:
            continue
        if (finished := _finished(study, row.arm, root, here)) is not None:
            finetune[row.arm], validate[row.arm] = finished, 0.0
            continue
        # Arms of equal settings take equal time.
        key = row.settings.model_dump_json(exclude={"steps", "learning_rate"})
        if key not in timed:
            timed[key] = _tried(
                f"finetune of {row.arm}",
                partial(_tuning, study, row.settings, plan, store, folder, here, steps),
            )
        step, once = timed[key] or (None, 0.0)
        finetune[row.arm], validate[row.arm] = step, once
    predict = _tried("predict", partial(_prediction, study, plan, store, here))
    return Pace(pretrain, finetune, validate, predict, _process())


def _tried(what: str, measure: Callable[[], Any]) -> Any:
    """The measurement, or None where it cannot be made; what trainings print is not shown."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return measure()
    except MedclError as error:
        print(f"estimate: {what} cannot be timed on synthetic volumes: {error}", flush=True)
        return None


def _synthetic(folder: Path, plan: Plan) -> Store:
    """Noise with a block of each class, as large as the plan's median volume."""
    rng = np.random.default_rng(0)
    median = plan.fingerprint["shape_median"]
    scale = np.array(plan.fingerprint["spacing_median"]) / np.array(plan.spacing)
    shape = tuple(max(2, round(n * by)) for n, by in zip(median, scale, strict=True))
    entries = []
    for number in range(CASES):
        image = rng.normal(size=(plan.channels, *shape)).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        for value, part in enumerate(np.array_split(label, len(plan.classes)), 1):
            part[: max(1, len(part) // 2), shape[1] // 4 : shape[1] // 2 + 1] = value
        entries.append(
            write_case(folder, f"s{number}", f"s{number}", image, label, spacing=plan.spacing)
        )
    return Store(write_manifest(folder, entries))


def _pretraining(
    study: Study,
    settings: Pretrain,
    plan: Plan,
    store: Store,
    folder: Path,
    here: Place,
    steps: int,
) -> list[float]:
    """Seconds of a step of each phase."""
    network = networks.build(
        study.network.model_dump(),
        channels_in=plan.channels,
        strides=plan.strides,
        channels_out=plan.channels,
        across=plan.across,
    )
    seconds = []
    for phase in phases_of(settings):
        options = phase.objective.model_dump()
        objective = objectives.build(options, network, crop=plan.crop, spacing=plan.spacing)
        objective.begin(phase.steps, list(store))
        if lack := next(filter(None, (objective.lacks(volume) for volume in store)), None):
            raise MedclError(f"it needs {lack}")
        items = PretextItems(store, store.cases, objective.views)
        seconds.append(_step_seconds(objective, items, phase, folder, here, steps))
    return seconds


def _tuning(
    study: Study,
    settings: Finetune,
    plan: Plan,
    store: Store,
    folder: Path,
    here: Place,
    steps: int,
) -> tuple[float, float]:
    """Seconds of a step, and of the validation of a volume."""
    model = _segmentation(study, plan)
    items = LabelledCrops(
        list(store),
        crop=plan.crop,
        spacing=plan.spacing,
        foreground=settings.foreground,
        augment=Augment() if settings.augment else None,
        mixup=settings.mixup,
    )
    step = _step_seconds(model, items, settings, folder, here, steps)
    started = time.perf_counter()
    validation_dice(model.network, [store["s0"]], plan)
    return step, time.perf_counter() - started


def _segmentation(study: Study, plan: Plan) -> Segmentation:
    network = networks.build(
        study.network.model_dump(),
        channels_in=plan.channels,
        strides=plan.strides,
        channels_out=len(plan.classes) + 1,
        across=plan.across,
    )
    return Segmentation(network, classes=len(plan.classes), foreground_weight=1.0)


def _step_seconds(
    model: Any, items: Items, settings: Training, folder: Path, here: Place, steps: int
) -> float:
    """Seconds of a step after the first, which sets up memory."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        done = fit(
            model, items, settings, steps=1 + steps, seed=0, place=here, work=work, what="estimate"
        )
    rows = done.progress.rows
    # The losses of a GPU are read later than it is told to compute them.
    end = done.seconds if here.device.type == "cuda" else rows[-1]["seconds"]
    return (end - rows[0]["seconds"]) / steps


def _prediction(study: Study, plan: Plan, store: Store, here: Place) -> float:
    """Seconds of one volume, without reading and resampling."""
    network = _segmentation(study, plan).network.to(here.device)
    volume = store["s0"]
    image = volume.read(((0, 0, 0), volume.shape))
    started = time.perf_counter()
    predict_probabilities(
        network,
        image,
        plan.crop,
        fill=volume.fill,
        overlap=study.predict.overlap,
        batch=study.predict.batch,
    )
    return time.perf_counter() - started


def _finished(study: Study, arm: str, root: Path, here: Place) -> float | None:
    """Seconds of a step, validations included, in the finished runs of an arm on such a device."""
    seconds = []
    for row in protocol.runs(study):
        file = root / row.folder / "summary.json"
        if row.arm == arm and file.is_file():
            summary = read_json(file)
            trained = summary["status"] == "ok" and summary["steps"]
            if trained and summary["device"] == here.device.type:
                seconds.append(summary["seconds"] / summary["steps"])
    return math.fsum(seconds) / len(seconds) if seconds else None


def _process() -> float:
    """Seconds before a training process does anything."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import medcl.stages.finetune"], check=True)
    return time.perf_counter() - started


def _print(items: Sequence[Projected]) -> None:
    rows = [["stage", "arm", "jobs", "steps of one", "longest", "all"]]
    for item in items:
        ends = [str(item.steps[0]), str(item.steps[-1])] if item.steps else []
        times = [duration(seconds) for seconds in (item.longest, item.seconds)]
        rows.append(
            [item.stage, item.arm, str(item.jobs), " to ".join(dict.fromkeys(ends)), *times]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
