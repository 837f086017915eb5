"""Train an encoder without labels, by the pretext task of one arm."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from medcl import networks, objectives
from medcl.config import Network, Pretrain, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import read_splits
from medcl.errors import TrainingFailed
from medcl.objectives.base import Objective
from medcl.training.devices import place, relaunch, workers
from medcl.training.diagnosis import diagnose, level
from medcl.training.fit import Fitted, fit
from medcl.training.pretext import PretextItems
from medcl.training.run import Outputs, on_cpu, open_store, seed_of, seeded, work_folder
from medcl.training.run import add_arguments as add_training_arguments

PRETRAINING = 2**31  # no label count: keeps the seeds of pretraining and fine-tuning apart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", required=True, help="an arm's `pretrain` section: YAML or a file"
    )
    parser.add_argument("--seed", type=int, default=0, help="number of this pretraining")
    add_training_arguments(parser, "encoder.pt")


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(Pretrain, args.settings)
    options = load_section(Network, args.network)
    plan = read_plan(args.plan)
    outputs = Outputs("pretrain", Path(args.out), "encoder.pt", place(plan.threads))
    outputs.content = {
        "kind": "encoder",
        "plan": plan.to_dict(),
        "network": options.model_dump(),
        "settings": settings.model_dump(),
        "seed": args.seed,
    }
    outputs.facts = {
        "steps": settings.steps,
        "seed": args.seed,
        "objective": settings.objective.model_dump(),
        "chance": None,
        "diagnosis": [],
    }
    key = {"stage": "pretrain", "settings": settings.model_dump(exclude={"save_every_s", "seeds"})}
    key |= {"network": options.model_dump(), "seed": args.seed}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan}
    work = work_folder(args.work, key, files)
    try:
        objective = _objective(settings, options, plan, args.seed)
        fitted = _train(objective, settings, plan, args, outputs, work)
    except TrainingFailed as error:
        outputs.fail(error)
        return
    _describe(objective, fitted, outputs.facts)
    outputs.finish(
        fitted,
        step=settings.steps,
        trained=list(objective.trained),
        network_weights=on_cpu(objective.network.state_dict()),
        objective=on_cpu(objective.state_dict()),
        optimiser=fitted.optimiser,
    )
    if outputs.place.leads:
        shutil.rmtree(work)


def _objective(settings: Pretrain, options: Network, plan: Plan, seed: int) -> Objective:
    with seeded(seed_of(seed, PRETRAINING)):
        network = networks.build(
            options.model_dump(),
            channels_in=plan.channels,
            strides=plan.strides,
            channels_out=plan.channels,
        )
        return objectives.build(
            settings.objective.model_dump(), network, crop=plan.crop, spacing=plan.spacing
        )


def _train(
    objective: Objective,
    settings: Pretrain,
    plan: Plan,
    args: argparse.Namespace,
    outputs: Outputs,
    work: Path,
) -> Fitted:
    store, splits = open_store(args.store, plan), read_splits(args.splits)
    cases = [case for case in splits.cases("pool") if case in store]
    if not cases:
        raise TrainingFailed(f"{args.store}: no pool case is in the store; nothing to pretrain on")
    name = settings.objective.name
    print(f"pretrain: {name} on {len(cases)} pool cases, {settings.steps} steps", flush=True)
    outputs.facts["cases"] = len(cases)
    return fit(
        objective,
        PretextItems(store, cases, objective.views),
        settings,
        steps=settings.steps,
        seed=seed_of(args.seed, PRETRAINING),
        place=outputs.place,
        work=work,
        what=f"pretrain {name} s{args.seed}",
        workers=workers(outputs.place),
    )


def _describe(objective: Objective, fitted: Fitted, facts: dict[str, Any]) -> None:
    """Say what the log shows, in the summary and on the terminal."""
    rows, compared = fitted.progress.rows, objective.compared_with_chance
    facts["parameters"] = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    facts["diagnosis"] = diagnose(rows, compared)
    facts["compared_with_chance"] = list(compared)
    facts["compared"], facts["chance"] = level(rows, compared), level(rows, ["chance"])
    for sentence in facts["diagnosis"]:
        print(f"pretrain: {sentence}", flush=True)
