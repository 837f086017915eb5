"""Prepare the volumes of the pool and of the validation subjects and store them."""

from __future__ import annotations

import argparse
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nibabel.orientations import axcodes2ornt

from medcl.data.cases import Case, read_cases
from medcl.data.channels import read_image
from medcl.data.parallel import Progress, in_processes
from medcl.data.plan import Plan, read_plan
from medcl.data.preprocess import prepare, prepare_label
from medcl.data.splits import read_splits
from medcl.data.store import FORMAT, inside, is_complete, write_case, write_manifest
from medcl.data.volume import read_volume
from medcl.errors import MedclError
from medcl.files import read_json, sha256_of, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", required=True, help="cases.csv")
    parser.add_argument("--splits", required=True, help="splits.csv")
    parser.add_argument("--plan", required=True, help="plan.yaml")
    parser.add_argument("--out", required=True, help="folder of the store and its manifest.json")
    parser.add_argument("--work", required=True, help="folder of what a later run can go on from")
    parser.add_argument("--threads", type=int, default=1, help="processes")


@dataclass(frozen=True)
class Task:
    """One case to prepare. `key` is the hash of all that decides its files."""

    case: Case
    plan: Plan
    store: Path
    work: Path
    key: str

    @property
    def sidecar(self) -> Path:
        return inside(self.work, f"{self.case.case}.json")


def run(args: argparse.Namespace) -> None:
    plan = read_plan(args.plan)
    store, work = Path(args.out), Path(args.work)
    splits = read_splits(args.splits)
    wanted = {*splits.cases("pool"), *splits.cases("validation")}
    cases = [case for case in read_cases(args.cases) if case.case in wanted]
    if not cases:
        raise MedclError(f"{args.splits}: no case of {args.cases} is pool or validation")
    for folder in (store, work):
        folder.mkdir(parents=True, exist_ok=True)
    tasks = [Task(case, plan, store, work, _key(case, plan)) for case in cases]
    _remove_stale(tasks, store, work)
    entries = {task.case.case: entry for task in tasks if (entry := _done(task)) is not None}
    left = [task for task in tasks if task.case.case not in entries]
    if entries:
        print(f"preprocess: {len(entries)} of {len(tasks)} cases are done already", flush=True)
    _tell_size([task.case for task in left], plan, store)
    failed: dict[str, str] = {}
    progress = Progress("preprocess: cases", len(left))
    for task, result in in_processes(prepare_case, left, args.threads):
        progress.step()
        if isinstance(result, Exception):
            failed[task.case.case] = str(result)
            print(f"preprocess: left out {task.case.case}: {result}", flush=True)
        else:
            entries[task.case.case] = result
    if not entries:
        raise MedclError(f"none of {len(tasks)} cases could be prepared; the reasons stand above")
    path = write_manifest(
        store,
        # A changed column makes no volume again.
        [{**entries[case.case], "extra": case.extra} for case in cases if case.case in entries],
        plan_sha256=plan.preparation_sha256(),
        failed=failed,
    )
    print(f"wrote {path}: {len(entries)} cases, {len(failed)} left out", flush=True)


def prepare_case(task: Task) -> dict[str, Any]:
    """Write the files of a case, then its sidecar; return its entry of the manifest."""
    case, plan = task.case, task.plan
    prepared = prepare(read_image(case), plan)
    label = None
    if case.label is not None:
        label, outside = prepare_label(read_volume(case.label, labels=True), prepared, plan)
        if outside:
            print(
                f"preprocess: {case.case}: {outside} labelled voxels lie outside the body found "
                "by intensity and are not in the store",
                flush=True,
            )
    entry = write_case(
        task.store,
        case.case,
        case.subject,
        prepared.array,
        label,
        spacing=prepared.spacing,
        affine=prepared.affine,
        body=prepared.body,
        fill=prepared.fill,
    )
    entry["made_from"] = task.key  # mended voxels or labels make another manifest
    write_json(task.sidecar, {"key": task.key, "entry": entry})
    return entry


def _key(case: Case, plan: Plan) -> str:
    return sha256_of(
        {
            "format": FORMAT,
            "case": case.case,
            "subject": case.subject,
            "image": case.image_sha256,
            "label": case.label_sha256,
            "plan": plan.preparation_sha256(),
        }
    )


def _done(task: Task) -> dict[str, Any] | None:
    """The entry of a case whose files are there and were made from the same inputs."""
    try:
        content = read_json(task.sidecar)
    except (FileNotFoundError, ValueError):
        return None
    if content["key"] != task.key or not is_complete(task.store, content["entry"]):
        return None
    entry: dict[str, Any] = content["entry"]
    return entry


def _remove_stale(tasks: list[Task], store: Path, work: Path) -> None:
    """Remove files of cases that are no longer wanted, and what a killed run left half written."""
    wanted = {task.sidecar.name for task in tasks}
    for task in tasks:
        wanted.add(f"{task.case.case}.image.npy")
        if task.case.label is not None:
            wanted.add(f"{task.case.case}.label.npy")
    patterns = [(store, "*.npy"), (store, ".part-*"), (work, "*.json"), (work, ".part-*")]
    found = {path for folder, pattern in patterns for path in folder.glob(pattern)}
    stale = [path for path in found if path.name not in wanted]
    for path in stale:
        path.unlink()
    if stale:
        print(f"preprocess: removed {len(stale)} files that are no longer wanted", flush=True)


def _canonical_spacing(case: Case) -> tuple[float, float, float]:
    """Spacing (mm) along the axes of the RAS volume."""
    found = dict(zip(axcodes2ornt(tuple(case.orientation))[:, 0], case.spacing, strict=True))
    return found[0], found[1], found[2]


def _tell_size(cases: list[Case], plan: Plan, store: Path) -> None:
    size = 0.0
    for case in cases:
        old = _canonical_spacing(case)
        voxels = math.prod(case.shape) * math.prod(old) / math.prod(plan.spacing_of(old))
        size += voxels * (2 * plan.channels + (case.label is not None))
    free = shutil.disk_usage(store).free
    print(
        f"preprocess: {len(cases)} cases to write, at most {size / 1e6:.1f} MB; "
        f"{free / 1e9:.0f} GB are free in {store}",
        flush=True,
    )
    if size > free:
        raise MedclError(
            f"{store}: up to {size / 1e9:.1f} GB are to be written and {free / 1e9:.1f} GB are "
            "free; make room, or choose a coarser plan.spacing"
        )
