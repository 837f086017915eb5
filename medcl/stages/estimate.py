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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medcl.config import Finetune, Study, load_study
from medcl.config.protocol import PROBES
from medcl.data.plan import Plan, read_plan
from medcl.data.planning import Measured, make_plan
from medcl.data.splits import read_splits
from medcl.data.strides import BUDGET, thick_axis
from medcl.errors import MedclError
from medcl.files import read_json
from medcl.stages.timing import pretraining, synthetic, tuning
from medcl.study import projection, protocol
from medcl.study.cost import jobs_of
from medcl.study.matching import CPU, clock_of
from medcl.study.projection import Pace, Projected
from medcl.study.prose import duration
from medcl.study.results import read_benchmarks
from medcl.training.devices import Place, place

SIDE = round(BUDGET ** (1 / 3))
SIZE = 1.5  # lengths of a volume whose shape is not known yet, in crops
SLICES = 12  # of such a volume across the slices of a 2-D network: those of hearts are 6 to 18
SPLITS = "split/splits.csv"


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
    if pace.pool is None:
        taught = [name for name, arm in study.arms.items() if arm.selftrain]
        left_out += [f"labelling the pool for {arm} (its size is not known yet)" for arm in taught]
    print(f"not counted: {', '.join(left_out)}")
    crop = "x".join(map(str, plan.crop))
    unit = "as it is now" if cuda else "in seconds of its cores, whatever else it does"
    if known:
        print(f"measured on this machine, {unit}, with crops of {crop} voxels")
    else:
        shape = "x".join(str(round(n)) for n in plan.fingerprint["shape_median"])
        print(
            f"measured on this machine, {unit}, with crops of {crop} voxels: there is no plan "
            f"yet, and volumes of {shape} voxels are a guess on which predictions and validations "
            "hang most. Once `snakemake --until plan` has run, the estimate takes the real crop "
            "and shape"
        )


def _assumed(study: Study) -> Plan:
    """The plan of volumes of which nothing is known but the dataset's own keys."""
    keys = study.dataset.plan
    spacing = keys.spacing or (1.0, 1.0, 1.0)
    crop = keys.crop or (SIDE, SIDE, SIDE)
    flat = thick_axis(spacing) if keys.dims == 2 else None
    x, y, z = (
        SLICES if axis == flat or length == 1 else round(SIZE * length)
        for axis, length in enumerate(crop)
    )
    a, b, c = (n * mm for n, mm in zip((x, y, z), spacing, strict=True))
    sample = np.linspace(0, 1, 100, dtype=np.float32)[None]
    return make_plan(
        [Measured("assumed", (x, y, z), spacing, (a, b, c), sample)], study.dataset, cases=1
    )


def _measure(study: Study, plan: Plan, root: Path, folder: Path, here: Place, steps: int) -> Pace:
    store = synthetic(folder / "store", plan)
    process = _process()
    pretrain: dict[str, Sequence[float] | None] = {}
    for origin in protocol.pretrainings(study):
        if origin.arm not in pretrain:
            settings = study.arms[origin.arm].pretrain
            assert settings is not None
            pretrain[origin.arm] = _tried(
                f"pretrain of {origin.arm}",
                partial(pretraining, study, settings, plan, store, folder, here, steps),
            )
    splits = read_splits(root / SPLITS) if (root / SPLITS).is_file() else None
    benchmarks = read_benchmarks(root / "benchmark")
    rows: dict[str, protocol.Row] = {}
    for row in [*protocol.runs(study), *protocol.bound_runs(study)]:
        rows.setdefault(row.arm, row)
    finetune: dict[str, float | None] = {}
    validate: dict[str, float] = {}
    predict: dict[str, float | None] = {}
    timed: dict[str, Any] = {}
    for arm, row in rows.items():
        # Arms of equal settings take equal time.
        key = row.settings.model_dump_json(exclude={"steps", "learning_rate"})
        finished = _finished(study, arm, root, here, plan.threads)
        known = [s for s, _ in jobs_of(benchmarks, "predict", arm) if not math.isnan(s)]
        jobs = known if finished is not None else []
        if (finished is None or not jobs) and key not in timed:
            timed[key] = _tried(
                f"finetune of {arm}",
                partial(tuning, study, row.settings, plan, store, folder, here, steps),
            )
        step, once, one = timed.get(key) or (None, 0.0, None)
        finetune[arm] = step if finished is None else finished
        validate[arm] = once if finished is None else 0.0
        if jobs:
            predict[arm] = max(0.0, math.fsum(jobs) / len(jobs) - process)
        else:
            tests = len(splits.cases("test")) if splits else _count(study.split.test)
            predict[arm] = None if one is None else tests * _sets(row.settings, row) * one
    pool = len(splits.cases("pool")) if splits else None
    candidates = len(splits.candidates(0)) if splits else None
    return Pace(pretrain, finetune, validate, predict, process, validate, pool, candidates)


def _count(given: int | list[str]) -> int:
    return given if isinstance(given, int) else len(given)


def _sets(settings: Finetune, row: protocol.Row) -> float:
    """Sets of weights a model is predicted with: the selected ones are often those of the last
    step, and then predicted once (38 of 45 models of the hippocampus study)."""
    few = settings.mode in PROBES or settings.steps_for(row.labelled or 1) <= (
        settings.validate_every
    )
    return 1.0 if few else 1.5


def _tried(what: str, measure: Callable[[], Any]) -> Any:
    """The measurement, or None where it cannot be made; what trainings print is not shown."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return measure()
    except MedclError as error:
        print(f"estimate: {what} cannot be timed on synthetic volumes: {error}", flush=True)
        return None


def _finished(study: Study, arm: str, root: Path, here: Place, threads: int) -> float | None:
    """Seconds of a step, all else a run does included, in the finished runs on such a device.

    Of a probe, of a labelled volume. Those of the cores, spread over the threads, where all runs
    know them.
    """
    done = []
    for row in protocol.runs(study):
        file = root / row.folder / "summary.json"
        if row.arm != arm or not file.is_file():
            continue
        summary = read_json(file)
        if summary["status"] == "ok" and summary["device"] == here.device.type:
            units = summary["steps"] * projection.networks_of(study, row) or row.labelled
            done.append((summary, units))
    which = clock_of(*(summary for summary, _ in done))
    at_once = threads if which == CPU else 1
    seconds = [summary[which] / units / at_once for summary, units in done]
    return math.fsum(seconds) / len(seconds) if seconds else None


def _process() -> float:
    """Seconds of a core before a training process does anything."""
    before = os.times()
    subprocess.run([sys.executable, "-c", "import medcl.stages.finetune"], check=True)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


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
