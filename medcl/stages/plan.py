"""Derive spacing, crop, strides and intensity rule from the pool's images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from medcl.config import Dataset, Intensity, load_section
from medcl.data.cases import Case, read_cases
from medcl.data.channels import read_image
from medcl.data.parallel import Progress, in_processes
from medcl.data.plan import Plan
from medcl.data.planning import Measured, make_plan, measure
from medcl.data.splits import read_splits
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
    # Of this dataset alone: others it is pretrained on must not move the control without them.
    pool = [
        case
        for case in read_cases(args.cases)
        if case.case in wanted and case.dataset in ("", dataset.name)
    ]
    if not pool:
        raise MedclError(f"{args.splits}: no case of {args.cases} is in the pool; split again")
    names = _channel_names(pool)
    modalities = [dataset.modality_of(name) for name in names] or [dataset.modality]
    measured = _measured(_evenly(pool), modalities, args.threads)
    plan = make_plan(measured, dataset, cases=len(pool), names=names)
    write_yaml(f"{args.out}/plan.yaml", plan.to_dict())
    _tell(plan)
    print(f"wrote {args.out}/plan.yaml from {len(measured)} of {len(pool)} pool images", flush=True)


def _channel_names(pool: list[Case]) -> tuple[str, ...]:
    """Those all cases share; raises MedclError where they differ."""
    first = {case.channel_names: case.case for case in reversed(pool)}
    if len(first) > 1:
        listed = "; ".join(
            f"{', '.join(names) or 'no names'}: {case}" for names, case in first.items()
        )
        raise MedclError(
            f"the pool's cases differ in the names of their channels ({listed}); list `channels` "
            "in the dataset"
        )
    return next(iter(first))


def measure_case(task: tuple[Case, Sequence[str]]) -> Measured:
    case, modalities = task
    return measure(case.case, read_image(case), *modalities)


def _measured(cases: list[Case], modalities: Sequence[str], threads: int) -> list[Measured]:
    """One entry per image that can be read, in the order of the cases."""
    progress = Progress("plan: images", len(cases))
    found: dict[str, Measured] = {}
    tasks = [(case, modalities) for case in cases]
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
    slices = "" if plan.across is None else f"2-D slices across axis {plan.across}, "
    rules = [f"{channel.name} {_shown(channel.intensity)}" for channel in plan.inputs]
    print(
        f"plan: {slices}spacing {list(plan.spacing)} mm, crop {list(plan.crop)} voxels, "
        f"{len(plan.strides)} levels, intensity {', '.join(rules) or _shown(plan.intensity)}; "
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


def _shown(intensity: Intensity) -> str:
    limits = "" if intensity.low is None else f" {intensity.low} to {intensity.high}"
    return f"{intensity.rule}{limits}"
