"""Derive spacing, crop, strides and intensity rule from the pool's images."""

from __future__ import annotations

import argparse

import numpy as np

from medcl.config import Dataset, load_section
from medcl.data.cases import Case, read_cases
from medcl.data.parallel import Progress, in_processes
from medcl.data.plan import Measured, Plan, make_plan, measure
from medcl.data.splits import read_splits
from medcl.data.volume import read_volume
from medcl.errors import MedclError
from medcl.files import write_yaml

MOST_IMAGES = 200  # the medians of more no longer move


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", required=True, help="the dataset section, YAML or a file")
    parser.add_argument("--cases", required=True, help="cases.csv")
    parser.add_argument("--splits", required=True, help="splits.csv")
    parser.add_argument("--out", required=True, help="folder of plan.yaml")
    parser.add_argument("--threads", type=int, default=1, help="processes that read images")


def run(args: argparse.Namespace) -> None:
    dataset = load_section(Dataset, args.settings)
    wanted = set(read_splits(args.splits).cases("pool"))
    pool = [case for case in read_cases(args.cases) if case.case in wanted]
    if not pool:
        raise MedclError(f"{args.splits}: no case of {args.cases} is in the pool; split again")
    measured = _measured(_evenly(pool), dataset.modality, args.threads)
    plan = make_plan(measured, dataset, cases=len(pool))
    write_yaml(f"{args.out}/plan.yaml", plan.to_dict())
    _tell(plan)
    print(f"wrote {args.out}/plan.yaml from {len(measured)} of {len(pool)} pool images", flush=True)


def measure_case(task: tuple[Case, str]) -> Measured:
    case, modality = task
    return measure(case.case, read_volume(case.image), modality)


def _measured(cases: list[Case], modality: str, threads: int) -> list[Measured]:
    """One entry per image that can be read, in the order of the cases."""
    progress = Progress("plan: images", len(cases))
    found: dict[str, Measured] = {}
    tasks = [(case, modality) for case in cases]
    for (case, _), result in in_processes(measure_case, tasks, threads):
        progress.step()
        if isinstance(result, Exception):
            print(f"plan: left out {case.case}: {result}", flush=True)
        else:
            found[case.case] = result
    if not found:
        raise MedclError(f"none of {len(cases)} pool images can be read; the reasons stand above")
    return [found[case.case] for case in cases if case.case in found]


def _evenly(cases: list[Case]) -> list[Case]:
    if len(cases) <= MOST_IMAGES:
        return cases
    places = np.linspace(0, len(cases) - 1, MOST_IMAGES).round().astype(int)
    return [cases[place] for place in places]


def _tell(plan: Plan) -> None:
    limits = "" if plan.intensity.low is None else f" {plan.intensity.low} to {plan.intensity.high}"
    slices = "" if plan.across is None else f"2-D slices across axis {plan.across}, "
    print(
        f"plan: {slices}spacing {list(plan.spacing)} mm, crop {list(plan.crop)} voxels, "
        f"{len(plan.strides)} levels, intensity {plan.intensity.rule}{limits}; "
        f"given: {', '.join(plan.given) or 'nothing'}"
    )
    body = [
        mm / step for mm, step in zip(plan.fingerprint["body_mm_median"], plan.spacing, strict=True)
    ]
    if "crop" in plan.given and any(n > b + 1 for n, b in zip(plan.crop, body, strict=True)):
        print(
            f"warning: the given crop {list(plan.crop)} is larger than the median body of "
            f"{[round(length) for length in body]} voxels; what is missing is padded"
        )
