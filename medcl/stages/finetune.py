"""Train a segmentation on few labels, from an encoder or from scratch."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcl import networks
from medcl.config import Finetune, Network, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import read_splits
from medcl.data.store import Store, StoredVolume
from medcl.errors import TrainingFailed
from medcl.networks.transfer import Transfer, transfer
from medcl.segmentation.crops import LabelledCrops
from medcl.segmentation.inference import predict_probabilities
from medcl.segmentation.model import Segmentation
from medcl.training import checkpoint
from medcl.training.devices import peak_memory_mb, place, relaunch
from medcl.training.fit import Fitted, fit
from medcl.training.progress import Progress
from medcl.training.run import seed_of, seeded, work_folder, write_summary
from medcl.views.augment import Augment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="the `finetune` section: YAML or a file")
    parser.add_argument("--network", default="{}", help="the `network` section")
    parser.add_argument("--store", required=True, help="manifest.json of the store")
    parser.add_argument("--splits", required=True, help="splits.csv")
    parser.add_argument("--plan", required=True, help="plan.yaml")
    parser.add_argument("--labelled", type=int, required=True, help="number of labelled subjects")
    parser.add_argument(
        "--replicate", type=int, required=True, help="order the subset is taken from"
    )
    parser.add_argument("--encoder", help="encoder.pt of a pretraining; absent: from scratch")
    parser.add_argument("--out", required=True, help="folder of model.pt, log.csv, summary.json")
    parser.add_argument(
        "--work", required=True, help="folder of the state a killed run resumes from"
    )
    parser.add_argument("--devices", type=int, default=1, help="processes with one device each")


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(Finetune, args.settings)
    options = load_section(Network, args.network)
    plan, splits, store = read_plan(args.plan), read_splits(args.splits), Store(args.store)
    subset = splits.subset(args.labelled, args.replicate)
    validation = splits.validation(args.labelled, args.replicate)
    steps = settings.steps_for(args.labelled)
    seed = seed_of(args.replicate, args.labelled)
    here = place(plan.threads)
    files = {"store": args.store, "splits": args.splits, "plan": args.plan, "encoder": args.encoder}
    key = {"stage": "finetune", "settings": settings.model_dump(exclude={"save_every_s"})}
    key |= {"network": options.model_dump(), "labelled": args.labelled, "replicate": args.replicate}
    work = work_folder(args.work, key, files)
    facts: dict[str, Any] = {
        "device": here.device.type,
        "steps": steps,
        "seed": seed,
        "labelled": args.labelled,
        "replicate": args.replicate,
        "subset": subset,
        "validation": validation,
        "encoder": args.encoder,
        "transfer": None,
    }
    content: dict[str, Any] = {
        "kind": "segmentation",
        "plan": plan.to_dict(),
        "classes": dict(plan.classes),
        "network": options.model_dump(),
    }
    out = Path(args.out)
    fitted = None
    try:
        with seeded(seed):
            model = Segmentation(
                networks.build(
                    options.model_dump(),
                    channels_in=plan.channels,
                    strides=plan.strides,
                    channels_out=len(plan.classes) + 1,
                ),
                classes=len(plan.classes),
                foreground_weight=settings.foreground_weight,
            )
        facts["parameters"] = sum(p.numel() for p in model.network.parameters())
        if args.encoder:
            taken = _start_from(args.encoder, model)
            facts["transfer"] = taken.to_dict()
            print(f"finetune: {args.encoder}: {taken.sentence()}", flush=True)
        items = LabelledCrops(
            store,
            [case for case in splits.cases_of(subset) if case in store],
            crop=plan.crop,
            spacing=plan.spacing,
            foreground=settings.foreground,
            augment=Augment() if settings.augment else None,
        )
        held = [store[case] for case in splits.cases_of(validation) if case in store]
        held = [volume for volume in held if volume.has_label]
        fitted = fit(
            model,
            items,
            settings,
            steps=steps,
            seed=seed,
            place=here,
            work=work,
            what=f"finetune n={args.labelled} r={args.replicate}",
            validate=(lambda: validation_dice(model.network, held, plan)) if held else None,
            validate_every=settings.validate_every,
        )
    except TrainingFailed as error:
        if here.leads:
            print(f"finetune: failed: {error}", flush=True)
            _write(out, {**content, "status": "failed", "reason": str(error)}, fitted, facts, here)
        return
    if here.leads:
        last = _network_weights(model.state_dict())
        selected = _network_weights(fitted.selected) if fitted.selected else last
        content |= {"status": "ok", "reason": None, "weights": {"last": last, "selected": selected}}
        _write(out, content, fitted, facts, here)
        shutil.rmtree(work)


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


def _start_from(file: str, model: Segmentation) -> Transfer:
    """Take the pretrained tensors; a pretraining that failed is a failure of this run."""
    content = checkpoint.load(file)
    if content.get("status") == "failed":
        raise TrainingFailed(f"{file}: its pretraining failed: {content['reason']}")
    return transfer(model.network, content["network_weights"], content["trained"])


def _network_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    prefix = "network."
    return {
        key.removeprefix(prefix): value.detach().cpu().clone()
        for key, value in state.items()
        if key.startswith(prefix)
    }


def _write(out: Path, content: dict[str, Any], fitted: Fitted | None, facts: dict, here) -> None:
    out.mkdir(parents=True, exist_ok=True)
    progress = fitted.progress if fitted else Progress("finetune", 0)
    progress.write(out / "log.csv")
    facts["peak_memory_mb"] = round(peak_memory_mb(here.device), 1)
    write_summary(out, fitted, reason=content["reason"], **facts)
    checkpoint.save(out / "model.pt", content)
    print(f"finetune: wrote {out}/model.pt, log.csv, summary.json", flush=True)
