"""Train a segmentation on few labels, from an encoder or from scratch."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcl import networks
from medcl.config import Finetune, Network, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import read_splits
from medcl.data.store import Store, StoredVolume
from medcl.errors import MedclError, TrainingFailed
from medcl.networks.transfer import Transfer, transfer
from medcl.segmentation.crops import LabelledCrops
from medcl.segmentation.inference import predict_probabilities
from medcl.segmentation.model import Segmentation
from medcl.training import checkpoint
from medcl.training.devices import place, relaunch, workers
from medcl.training.fit import Fitted, fit
from medcl.training.run import Outputs, on_cpu, open_store, seeded, work_folder
from medcl.training.run import add_arguments as add_training_arguments
from medcl.training.seeds import seed_of
from medcl.views.augment import Augment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="the `finetune` section: YAML or a file")
    parser.add_argument("--labelled", type=int, required=True, help="number of labelled subjects")
    parser.add_argument(
        "--replicate", type=int, required=True, help="order the subset is taken from"
    )
    parser.add_argument("--encoder", help="encoder.pt of a pretraining; absent: from scratch")
    add_training_arguments(parser, "model.pt")


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(Finetune, args.settings)
    options = load_section(Network, args.network)
    plan = read_plan(args.plan)
    outputs = Outputs("finetune", Path(args.out), "model.pt", place(plan.threads))
    outputs.content = {
        "kind": "segmentation",
        "plan": plan.to_dict(),
        "classes": dict(plan.classes),
        "network": options.model_dump(),
    }
    outputs.facts = {
        "steps": settings.steps_for(args.labelled),
        "seed": seed_of(args.replicate, args.labelled),
        "labelled": args.labelled,
        "replicate": args.replicate,
        "encoder": args.encoder,
        "transfer": None,
    }
    key = {"stage": "finetune", "settings": settings.model_dump(exclude={"save_every_s"})}
    key |= {"network": options.model_dump(), "labelled": args.labelled, "replicate": args.replicate}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan, "encoder": args.encoder}
    work = work_folder(args.work, key, files)
    try:
        model = _model(settings, options, plan, args.encoder, outputs.facts)
        fitted = _train(model, settings, plan, args, outputs, work)
    except TrainingFailed as error:
        outputs.fail(error)
        return
    last = _network_weights(model.state_dict())
    selected = _network_weights(fitted.selected) if fitted.selected else last
    outputs.finish(fitted, weights={"last": last, "selected": selected})
    if outputs.place.leads:
        shutil.rmtree(work)


def _model(
    settings: Finetune, options: Network, plan: Plan, encoder: str | None, facts: dict[str, Any]
) -> Segmentation:
    """The network every arm starts with, and over it the pretrained tensors, if any."""
    with seeded(facts["seed"]):
        network = networks.build(
            options.model_dump(),
            channels_in=plan.channels,
            strides=plan.strides,
            channels_out=len(plan.classes) + 1,
        )
    facts["parameters"] = sum(p.numel() for p in network.parameters())
    if encoder:
        taken = _start_from(encoder, network)
        facts["transfer"] = taken.to_dict()
        print(f"finetune: {encoder}: {taken.sentence()}", flush=True)
    weight = settings.foreground_weight
    return Segmentation(network, classes=len(plan.classes), foreground_weight=weight)


def _train(
    model: Segmentation,
    settings: Finetune,
    plan: Plan,
    args: argparse.Namespace,
    outputs: Outputs,
    work: Path,
) -> Fitted:
    store, splits = open_store(args.store, plan), read_splits(args.splits)
    try:
        subset = splits.subset(args.labelled, args.replicate)
    except MedclError as error:
        raise TrainingFailed(str(error)) from None
    validation = splits.validation(args.labelled, args.replicate)
    outputs.facts |= {"subset": subset, "validation": validation}
    items = LabelledCrops(
        store,
        _prepared(splits.cases_of(subset), store, "subset"),
        crop=plan.crop,
        spacing=plan.spacing,
        foreground=settings.foreground,
        augment=Augment() if settings.augment else None,
    )
    held = [store[case] for case in _prepared(splits.cases_of(validation), store, "validation")]
    held = [volume for volume in held if volume.has_label]
    return fit(
        model,
        items,
        settings,
        steps=outputs.facts["steps"],
        seed=outputs.facts["seed"],
        place=outputs.place,
        work=work,
        what=f"finetune n={args.labelled} r={args.replicate}",
        validate=(lambda: validation_dice(model.network, held, plan)) if held else None,
        validate_every=settings.validate_every,
        workers=workers(outputs.place),
    )


def _prepared(cases: Sequence[str], store: Store, what: str) -> list[str]:
    """The cases, all of them: one label fewer than asked for would be another study."""
    for case in cases:
        if case in store.failed:
            raise TrainingFailed(
                f"{case} of the {what} could not be prepared: {store.failed[case]}; "
                "mend it, or put it into `exclude`"
            )
    return list(cases)


def validation_dice(network: torch.nn.Module, volumes: list[StoredVolume], plan: Plan) -> float:
    """Mean Dice of classes and volumes on the store's grid; absent from both is left out."""
    network.eval()
    scores = []
    for volume in volumes:
        box = ((0, 0, 0), volume.shape)
        probabilities = predict_probabilities(
            network, volume.read(box), plan.crop, fill=volume.fill
        )
        predicted = probabilities.argmax(0)
        reference = volume.read_label(box)
        for value in range(1, len(plan.classes) + 1):
            total = int((predicted == value).sum()) + int((reference == value).sum())
            if total:
                overlap = int(((predicted == value) & (reference == value)).sum())
                scores.append(2 * overlap / total)
    return float(np.mean(scores)) if scores else 0.0


def _start_from(file: str, network: torch.nn.Module) -> Transfer:
    """Take the pretrained tensors; a pretraining that failed is a failure of this run."""
    content = checkpoint.load(file)
    if content.get("status") == "failed":
        raise TrainingFailed(f"{file}: its pretraining failed: {content['reason']}")
    return transfer(network, content["network_weights"], content["trained"])


def _network_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return on_cpu(weights)
