"""Choose the learning rate of an arm, on the validation subjects and labels nobody reports.

A trial run is judged once, after its last step, on all validation subjects: two of them, as many
as a run with few labels selects its weights on, would leave the choice to chance.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from medcl.config import UNDECIDING, Finetune, Network, Tune, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import Splits, read_splits
from medcl.errors import TrainingFailed
from medcl.files import write_yaml
from medcl.stages.finetune import start, train
from medcl.training.devices import Place, place, relaunch
from medcl.training.run import add_arguments as add_training_arguments
from medcl.training.run import work_folder
from medcl.training.seeds import seed_of

FORMAT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="the `finetune` section: YAML or a file")
    parser.add_argument("--tune", required=True, help="the `tune` section: YAML or a file")
    parser.add_argument("--encoder", help="encoder.pt or model.pt to start from; absent: scratch")
    add_training_arguments(parser, "tuned.yaml")


def run(args: argparse.Namespace) -> None:
    """Train once with each learning rate; write all of their scores, and the best rate.

    A rate whose run fails leaves the others; only if all of them fail has the tuning failed.
    """
    relaunch(args.devices, sys.argv[1:])
    settings, tune = load_section(Finetune, args.settings), load_section(Tune, args.tune)
    options = load_section(Network, args.network)
    if tune.steps:
        settings = settings.model_copy(update={"steps": tune.steps})
    plan, splits = read_plan(args.plan), read_splits(args.splits)
    here, out = place(plan.threads), Path(args.out) / "tuned.yaml"
    tried = []
    for rate in tune.learning_rates:
        fixed = settings.model_copy(update={"learning_rate": rate})
        tried.append(_try(fixed, tune, options, plan, splits, args, here))
        if here.leads:
            print(f"tune: {_said(tried[-1])}", flush=True)
    chosen = choose(tried)
    chosen |= {
        "labelled": tune.labelled,
        "replicate": tune.replicate,
        "steps": settings.steps_for(tune.labelled),
        "validation": len(held_out(splits, tune)),
        "device": here.device.type,
        "encoder": args.encoder or None,
    }
    if here.leads:
        write_yaml(out, {"format": FORMAT, **chosen, "tried": tried})
        shutil.rmtree(args.work, ignore_errors=True)
        print(f"tune: {chosen['reason'] or _choice(chosen)}; wrote {out}", flush=True)


def held_out(splits: Splits, tune: Tune) -> list[str]:
    """Every validation subject with a label."""
    return splits.validation(len(splits.rows), tune.replicate)


def choose(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The rate with the highest score, the lower one of equals.

    border: it is an end of the list and not one of its only two, so that one beyond may be better.
    margin: by how much its score exceeds the next best, that of `runner_up`; None for a lone one.
    """
    scored = [trial for trial in tried if trial["validation_dice"] is not None]
    if not scored:
        reasons = "; ".join(f"{t['learning_rate']:g}: {t['reason']}" for t in tried)
        reason = f"no learning rate could be tried to the end: {reasons}"
        lost = {"status": "failed", "reason": reason, "learning_rate": None, "border": False}
        return lost | {"runner_up": None, "margin": None}
    best, *others = sorted(
        scored, key=lambda trial: (-trial["validation_dice"], trial["learning_rate"])
    )
    margin = best["validation_dice"] - others[0]["validation_dice"] if others else None
    rates = [trial["learning_rate"] for trial in tried]
    border = len(rates) > 2 and best["learning_rate"] in (min(rates), max(rates))
    return {
        "status": "ok",
        "reason": None,
        "learning_rate": best["learning_rate"],
        "border": border,
        "runner_up": others[0]["learning_rate"] if others else None,
        "margin": None if margin is None else round(margin, 6),
    }


def _try(
    settings: Finetune,
    tune: Tune,
    options: Network,
    plan: Plan,
    splits: Splits,
    args: argparse.Namespace,
    here: Place,
) -> dict[str, Any]:
    """One run; its state stays until all are done, so that a killed tuning repeats none.

    Only the last weights are judged, so that nothing is validated on the way.
    """
    steps = settings.steps_for(tune.labelled)
    settings = settings.model_copy(update={"validate_every": steps})
    validation = held_out(splits, tune)
    facts: dict[str, Any] = {
        "steps": steps,
        "seed": seed_of(tune.replicate, tune.labelled),
        "labelled": tune.labelled,
        "replicate": tune.replicate,
    }
    key = {"stage": "tune", "settings": settings.model_dump(exclude=UNDECIDING)}
    key |= {"network": options.model_dump(), **facts}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan}
    base = Path(args.work) / f"{settings.learning_rate:g}"
    outcome = {"learning_rate": settings.learning_rate, "validation_dice": None, "seconds": None}
    try:
        work = work_folder(base, key, files | {"encoder": args.encoder})
        model = start(settings, options, plan, args.encoder, facts)
        data = (args.store, splits)
        fitted = train(model, settings, plan, data, facts, here, work, validation=validation)
    except TrainingFailed as error:
        return outcome | {"status": "failed", "reason": str(error)}
    score = fitted.progress.rows[-1].get("validation_dice")
    if score is None:
        reason = "no validation subject has a label; raise `split.validation`"
        return outcome | {"status": "failed", "reason": reason}
    scored = {
        "validation_dice": round(score, 6),
        "seconds": round(fitted.seconds, 3),
        "cpu_seconds": round(fitted.cpu_seconds, 3),
    }
    return outcome | scored | {"status": "ok", "reason": None}


def _said(trial: dict[str, Any]) -> str:
    if trial["reason"]:
        return f"learning rate {trial['learning_rate']:g} failed: {trial['reason']}"
    score = 100 * trial["validation_dice"]
    return f"learning rate {trial['learning_rate']:g}: validation Dice {score:.1f}"


def _choice(chosen: dict[str, Any]) -> str:
    text = f"chose {chosen['learning_rate']:g}"
    if chosen["margin"] is not None:
        text += f", {100 * chosen['margin']:.1f} points before {chosen['runner_up']:g}"
    return text + (", an end of the list: try further ones" if chosen["border"] else "")
