"""Train an encoder without labels, by the pretext task of one arm."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from medcl import networks, objectives
from medcl.config import Network, Pretrain, load_section
from medcl.data.plan import read_plan
from medcl.data.splits import read_splits
from medcl.data.store import Store
from medcl.errors import TrainingFailed
from medcl.training import checkpoint
from medcl.training.devices import Place, peak_memory_mb, place, relaunch
from medcl.training.diagnosis import diagnose
from medcl.training.fit import Fitted, fit
from medcl.training.pretext import PretextItems
from medcl.training.progress import Progress
from medcl.training.run import seed_of, seeded, work_folder, write_summary

PRETRAINING = 7  # keeps the seeds of pretraining and fine-tuning apart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", required=True, help="an arm's `pretrain` section: YAML or a file"
    )
    parser.add_argument("--network", default="{}", help="the `network` section")
    parser.add_argument("--store", required=True, help="manifest.json of the store")
    parser.add_argument("--splits", required=True, help="splits.csv")
    parser.add_argument("--plan", required=True, help="plan.yaml")
    parser.add_argument("--seed", type=int, default=0, help="number of this pretraining")
    parser.add_argument("--out", required=True, help="folder of encoder.pt, log.csv, summary.json")
    parser.add_argument(
        "--work", required=True, help="folder of the state a killed run resumes from"
    )
    parser.add_argument("--devices", type=int, default=1, help="processes with one device each")


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(Pretrain, args.settings)
    options = load_section(Network, args.network)
    plan, splits, store = read_plan(args.plan), read_splits(args.splits), Store(args.store)
    here = place(plan.threads)
    seed = seed_of(args.seed, PRETRAINING)
    name = settings.objective.name
    key = {"stage": "pretrain", "settings": settings.model_dump(exclude={"save_every_s", "seeds"})}
    key |= {"network": options.model_dump(), "seed": args.seed}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan}
    work = work_folder(args.work, key, files)
    cases = [case for case in splits.cases("pool") if case in store]
    if not cases:
        raise TrainingFailed(f"{args.store}: no pool case is in the store; nothing to pretrain on")
    print(f"pretrain: {name} on {len(cases)} pool cases, {settings.steps} steps", flush=True)
    with seeded(seed):
        network = networks.build(
            options.model_dump(),
            channels_in=plan.channels,
            strides=plan.strides,
            channels_out=plan.channels,
        )
        objective = objectives.build(
            settings.objective.model_dump(), network, crop=plan.crop, spacing=plan.spacing
        )
    objective.begin(settings.steps)
    said = []
    if objective.reads_labels:
        cases = [case for case in cases if store[case].has_label]
        if not cases:
            raise TrainingFailed(
                f"{args.store}: {name} reads voxel labels, and no pool case has any; use another "
                "objective"
            )
        said = [
            f"it read the voxel labels of {len(cases)} pool cases: compare it with arms that had "
            "as many, and not at fewer labels"
        ]
    content: dict[str, Any] = {
        "kind": "encoder",
        "plan": plan.to_dict(),
        "network": options.model_dump(),
        "settings": settings.model_dump(),
        "seed": args.seed,
        "trained": list(objective.trained),
    }
    facts: dict[str, Any] = {
        "device": here.device.type,
        "steps": settings.steps,
        "seed": args.seed,
        "objective": settings.objective.model_dump(),
        "parameters": sum(p.numel() for p in objective.parameters() if p.requires_grad),
        "cases": len(cases),
        "chance": None,
        "diagnosis": [],
    }
    fitted = None
    try:
        fitted = fit(
            objective,
            PretextItems(store, cases, objective.views),
            settings,
            steps=settings.steps,
            seed=seed,
            place=here,
            work=work,
            what=f"pretrain {name} s{args.seed}",
            workers=_workers(here),
        )
    except TrainingFailed as error:
        if here.leads:
            print(f"pretrain: failed: {error}", flush=True)
            _write(
                args.out, {**content, "status": "failed", "reason": str(error)}, None, facts, here
            )
        return
    if here.leads:
        facts["diagnosis"] = said + diagnose(fitted.progress.rows, objective.compared_with_chance)
        facts["chance"] = fitted.progress.rows[-1].get("chance")
        for sentence in facts["diagnosis"]:
            print(f"pretrain: {sentence}", flush=True)
        content |= {
            "status": "ok",
            "reason": None,
            "step": settings.steps,
            "network_weights": _on_cpu(objective.network.state_dict()),
            "objective": _on_cpu(objective.state_dict()),
            "optimiser": fitted.optimiser,
        }
        _write(args.out, content, fitted, facts, here)
        shutil.rmtree(work)


def _workers(here: Place) -> int:
    """Loader processes: a GPU waits for its batches, a CPU computes them itself."""
    cores = len(os.sched_getaffinity(0)) // here.world
    return max(1, min(8, cores - 1)) if here.device.type == "cuda" else 0


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def _write(
    out: str, content: dict[str, Any], fitted: Fitted | None, facts: dict[str, Any], here: Place
) -> None:
    folder = Path(out)
    progress = fitted.progress if fitted else Progress("pretrain", 0)
    progress.write(folder / "log.csv")
    facts["peak_memory_mb"] = round(peak_memory_mb(here.device), 1)
    write_summary(folder, fitted, reason=content["reason"], **facts)
    checkpoint.save(folder / "encoder.pt", content)
    print(f"pretrain: wrote {folder}/encoder.pt, log.csv, summary.json", flush=True)
