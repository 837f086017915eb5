"""Train an encoder without labels, by the pretext task of one arm."""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcl import networks, objectives
from medcl.config import Network, Phase, Pretrain, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import read_splits
from medcl.data.store import Store
from medcl.errors import TrainingFailed
from medcl.networks.unet import UNet
from medcl.objectives.base import Objective
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


@dataclass
class _Done:
    """What the phases left behind so far."""

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    marks: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    parameters: int = 0
    labels_read: int = 0
    chance: float | None = None
    states: list[dict[str, Any]] = field(default_factory=list)
    optimiser: dict[str, Any] = field(default_factory=dict)


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(Pretrain, args.settings)
    options = load_section(Network, args.network)
    plan, splits, store = read_plan(args.plan), read_splits(args.splits), Store(args.store)
    here = place(plan.threads)
    seed = seed_of(args.seed, PRETRAINING)
    key = {"stage": "pretrain", "settings": settings.model_dump(exclude={"save_every_s", "seeds"})}
    key |= {"network": options.model_dump(), "seed": args.seed}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan}
    work = work_folder(args.work, key, files)
    cases = [case for case in splits.cases("pool") if case in store]
    if not cases:
        raise TrainingFailed(f"{args.store}: no pool case is in the store; nothing to pretrain on")
    with seeded(seed):
        network = networks.build(
            options.model_dump(),
            channels_in=plan.channels,
            strides=plan.strides,
            channels_out=plan.channels,
        )
        objective = _objective(settings, network, plan)
        for later in settings.then:  # a mistake in a later phase is told before the first is run
            _objective(later, copy.deepcopy(network), plan)
    done = _Done()
    reason = None
    try:
        for number, phase in enumerate(_phases(settings)):
            own, folder = seed, work
            if number:
                own, folder = seed_of(args.seed, PRETRAINING, number), work / f"phase{number + 1}"
                with seeded(own):
                    objective = _objective(phase, network, plan)
            name = f"pretrain {phase.objective.name} s{args.seed}"
            _train(objective, phase, (store, cases), own, here, folder, name, done)
    except TrainingFailed as error:
        reason = str(error)
        if here.leads:
            print(f"pretrain: failed: {reason}", flush=True)
    if not here.leads:
        return
    content: dict[str, Any] = {
        "kind": "encoder",
        "plan": plan.to_dict(),
        "network": options.model_dump(),
        "settings": settings.model_dump(),
        "seed": args.seed,
        "trained": done.trained,
        "status": "failed" if reason else "ok",
        "reason": reason,
    }
    facts: dict[str, Any] = {
        "device": here.device.type,
        "steps": sum(phase.steps for phase in _phases(settings)),
        "seed": args.seed,
        "objective": settings.objective.model_dump(),
        "then": [phase.model_dump() for phase in settings.then],
        "parameters": done.parameters,
        "cases": len(cases),
        "labels_read": done.labels_read,
        "chance": done.chance,
        "diagnosis": done.said,
    }
    if not reason:
        content |= {
            "step": facts["steps"],
            "network_weights": _on_cpu(network.state_dict()),
            "objective": done.states[-1],
            "before": done.states[:-1],
            "optimiser": done.optimiser,
        }
    _write(args.out, content, done, facts, here)
    if not reason:
        shutil.rmtree(work)


def _objective(phase: Pretrain | Phase, network: UNet, plan: Plan) -> Objective:
    options = phase.objective.model_dump()
    return objectives.build(options, network, crop=plan.crop, spacing=plan.spacing)


def _phases(settings: Pretrain) -> list[Pretrain]:
    """Each phase as a pretraining of its own."""
    alone = settings.model_copy(update={"then": []})
    return [
        alone,
        *(
            alone.model_copy(
                update={
                    "objective": phase.objective,
                    "steps": phase.steps,
                    "learning_rate": phase.learning_rate or settings.learning_rate,
                }
            )
            for phase in settings.then
        ),
    ]


def _train(
    objective: Objective,
    phase: Pretrain,
    data: tuple[Store, list[str]],
    seed: int,
    here: Place,
    work: Path,
    name: str,
    done: _Done,
) -> None:
    """Train one phase and add what it leaves behind to `done`."""
    store, cases = data
    objective.begin(phase.steps)
    lacking = {case: lack for case in cases if (lack := objective.lacks(store[case]))}
    cases = [case for case in cases if case not in lacking]
    for lack in sorted(set(lacking.values())):
        count = sum(reason == lack for reason in lacking.values())
        print(f"pretrain: left out {count} pool cases without {lack}", flush=True)
    if not cases:
        raise TrainingFailed(
            f"{store.path}: {phase.objective.name}: no pool case has "
            f"{next(iter(lacking.values()))}; add it, or use another objective"
        )
    said = []
    if objective.reads_labels:
        done.labels_read = max(done.labels_read, len(cases))
        said = [
            f"it read the voxel labels of {len(cases)} pool cases: compare it with arms that had "
            "as many, and not at fewer labels"
        ]
    print(
        f"pretrain: {phase.objective.name} on {len(cases)} pool cases, {phase.steps} steps",
        flush=True,
    )
    done.trained += [part for part in objective.trained if part not in done.trained]
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    done.parameters = max(done.parameters, trained)
    fitted = fit(
        objective,
        PretextItems(store, cases, objective.views),
        phase,
        steps=phase.steps,
        seed=seed,
        place=here,
        work=work,
        what=name,
        workers=_workers(here),
    )
    if not here.leads:
        return
    said += diagnose(fitted.progress.rows, objective.compared_with_chance)
    for sentence in said:
        print(f"pretrain: {phase.objective.name}: {sentence}", flush=True)
    offset, number = len(done.rows), len(done.states) + 1
    # Of one phase the log is as it always was.
    done.rows += [
        {**row, "step": row["step"] + offset, **({"phase": number} if offset else {})}
        for row in fitted.progress.rows
    ]
    done.said += [f"phase {number}: {sentence}" for sentence in said] if offset else said
    done.seconds += fitted.seconds
    done.marks += fitted.resumed
    done.chance = fitted.progress.rows[-1].get("chance")
    done.states.append(_on_cpu(objective.state_dict()))
    done.optimiser = fitted.optimiser


def _workers(here: Place) -> int:
    """Loader processes: a GPU waits for its batches, a CPU computes them itself."""
    cores = len(os.sched_getaffinity(0)) // here.world
    return max(1, min(8, cores - 1)) if here.device.type == "cuda" else 0


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def _write(
    out: str, content: dict[str, Any], done: _Done, facts: dict[str, Any], here: Place
) -> None:
    folder = Path(out)
    progress = Progress("pretrain", facts["steps"], done.rows)
    progress.close()
    progress.write(folder / "log.csv")
    facts["peak_memory_mb"] = round(peak_memory_mb(here.device), 1)
    fitted = Fitted(progress, done.seconds, done.optimiser, resumed=done.marks)
    write_summary(folder, fitted if done.rows else None, reason=content["reason"], **facts)
    checkpoint.save(folder / "encoder.pt", content)
    print(f"pretrain: wrote {folder}/encoder.pt, log.csv, summary.json", flush=True)
