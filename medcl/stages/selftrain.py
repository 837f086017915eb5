"""Label the pool with the arm's own network, and train anew on both kinds of labels.

A round predicts every pool case that is not in the labelled subset (their own labels, where they
have any, are never opened), keeps the share of cases labelled most confidently, and fine-tunes from
the arm's own start again, with a share of the crops from them. Voxels below the confidence are
ignored by the loss. With several members, further networks are fine-tuned on the same subset with
seeds of their own, and the mean of their probabilities labels.

Source: Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
Networks", ICML workshop 2013.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import distributed, nn

from medcl.config import Finetune, Network, Selftrain, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import read_splits
from medcl.data.store import StoredVolume, inside
from medcl.errors import MedclError, TrainingFailed
from medcl.files import read_json, replacing, write_json
from medcl.segmentation.crops import PseudoLabelled
from medcl.segmentation.inference import predict_probabilities
from medcl.segmentation.model import IGNORED, Segmentation
from medcl.stages.finetune import network_weights, start, train
from medcl.study.matching import tuned_rate
from medcl.training import checkpoint
from medcl.training.devices import place, relaunch
from medcl.training.fit import Fitted
from medcl.training.run import Outputs, open_store, work_folder
from medcl.training.run import add_arguments as add_training_arguments
from medcl.training.seeds import seed_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="the `selftrain` section: YAML or a file")
    parser.add_argument("--finetune", default="{}", help="the `finetune` section: YAML or a file")
    parser.add_argument("--labelled", type=int, required=True, help="number of labelled subjects")
    parser.add_argument(
        "--replicate", type=int, required=True, help="order the subset is taken from"
    )
    parser.add_argument("--model", required=True, help="model.pt of the arm's fine-tuning")
    parser.add_argument("--encoder", help="encoder.pt the arm starts from; absent: from scratch")
    parser.add_argument("--tuned", help="tuned.yaml with the learning rate; absent: the section's")
    add_training_arguments(parser, "model.pt")


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings, tuning = load_section(Selftrain, args.settings), load_section(Finetune, args.finetune)
    options, plan = load_section(Network, args.network), read_plan(args.plan)
    started = time.monotonic()
    outputs = Outputs("selftrain", Path(args.out), "model.pt", place(plan.threads))
    outputs.content = {
        "kind": "segmentation",
        "plan": plan.to_dict(),
        "classes": dict(plan.classes),
        "network": options.model_dump(),
    }
    outputs.facts = {
        "steps": tuning.steps_for(args.labelled),
        "seed": seed_of(args.replicate, args.labelled),
        "labelled": args.labelled,
        "replicate": args.replicate,
        "encoder": args.encoder,
        "model": args.model,
        "transfer": None,
        "rounds": [],
    }
    if args.tuned:
        rate = tuned_rate(args.tuned)
        tuning = tuning.model_copy(update={"learning_rate": rate})
    outputs.facts["learning_rate"] = tuning.learning_rate
    key = {"stage": "selftrain", "settings": settings.model_dump()}
    key |= {"finetune": tuning.model_dump(exclude={"save_every_s"})}
    key |= {"network": options.model_dump(), "labelled": args.labelled, "replicate": args.replicate}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan}
    files |= {"encoder": args.encoder, "model": args.model}
    work = work_folder(args.work, key, files)
    try:
        fitted, weights = _rounds(settings, tuning, options, plan, args, outputs, work)
        fitted.seconds = max(fitted.seconds, time.monotonic() - started)  # of labelling too
    except TrainingFailed as error:
        outputs.fail(error)
        return
    outputs.finish(fitted, weights=weights)
    if outputs.place.leads:
        shutil.rmtree(work)


def _rounds(
    settings: Selftrain,
    tuning: Finetune,
    options: Network,
    plan: Plan,
    args: argparse.Namespace,
    outputs: Outputs,
    work: Path,
) -> tuple[Fitted, dict[str, dict[str, torch.Tensor]]]:
    """The last round's training and its weights; what is done already is read, not repeated."""
    base = checkpoint.load(args.model)
    if base.get("status") == "failed":
        raise TrainingFailed(f"{args.model}: its training failed: {base['reason']}")
    seed = outputs.facts["seed"]

    def trained(folder: str, own: int, pseudo: Sequence[PseudoLabelled]) -> Trained:
        outputs.facts["seed"] = own
        model = start(tuning, options, plan, args.encoder, outputs.facts)
        (work / folder).mkdir(parents=True, exist_ok=True)
        fitted = train(
            model,
            tuning,
            plan,
            (args.store, read_splits(args.splits)),
            outputs.facts,
            outputs.place,
            work / folder,
            what="selftrain",
            pseudo=pseudo,
            share=settings.share,
        )
        outputs.facts["seed"] = seed
        return Trained(model, fitted)

    networks: list[nn.Module] = [checkpoint.load_model(args.model)[0].to(outputs.place.device)]
    done = None
    for number in range(settings.rounds):
        for member in range(len(networks), settings.members):
            name = f"round{number}-member{member}"
            pseudo = _labelled_pool(work, number - 1, args, plan) if number else []
            networks.append(trained(name, seed_of(seed, number, member), pseudo).model.network)
        _label_pool(networks, settings, plan, args, outputs, work / f"round{number}")
        pseudo = _labelled_pool(work, number, args, plan)
        if not pseudo:
            raise TrainingFailed(
                f"round {number + 1}: no pool case was given a class with mean probability "
                f"{settings.confidence:g}; lower `selftrain.confidence`"
            )
        done = trained(f"round{number}-training", seed, pseudo)
        networks = [done.model.network]
    assert done is not None
    last = network_weights(done.model.state_dict())
    selected = network_weights(done.fitted.selected) if done.fitted.selected else last
    return done.fitted, {"last": last, "selected": selected}


@dataclass(frozen=True)
class Trained:
    model: Segmentation
    fitted: Fitted


def _label_pool(
    networks: Sequence[nn.Module],
    settings: Selftrain,
    plan: Plan,
    args: argparse.Namespace,
    outputs: Outputs,
    folder: Path,
) -> None:
    """Write the labels of the pool, and `chosen.json`: the cases to learn from."""
    manifest = folder / "chosen.json"
    if outputs.place.leads and not manifest.exists():
        volumes = _pool(args, plan)
        confidences = {}
        for number, volume in enumerate(volumes, 1):
            labels, confidence = pseudo_label(networks, volume, plan, settings.confidence)
            with replacing(inside(folder, f"{volume.case}.npy")) as partial:
                np.save(partial, labels, allow_pickle=False)
            if confidence is not None:
                confidences[volume.case] = confidence
            print(f"selftrain: labelled {volume.case} ({number} of {len(volumes)})", flush=True)
        kept = math.ceil(settings.keep * len(confidences))
        best = sorted(confidences, key=lambda case: (-confidences[case], case))[:kept]
        write_json(
            manifest,
            {"cases": best, "of": len(volumes), "confidence": {c: confidences[c] for c in best}},
        )
    if outputs.place.world > 1:
        distributed.barrier()
    chosen = read_json(manifest)
    outputs.facts["rounds"].append({"cases": len(chosen["cases"]), "of": chosen["of"]})


def pseudo_label(
    networks: Sequence[nn.Module], volume: StoredVolume, plan: Plan, least: float
) -> tuple[UInt8[np.ndarray, "X Y Z"], float | None]:
    """Classes of a volume, IGNORED where the mean probability is below `least`.

    Also the mean probability of the voxels that are not background; None if there are none left.
    """
    box = ((0, 0, 0), volume.shape)
    image = volume.read(box)
    total = sum(
        predict_probabilities(network, image, plan.crop, fill=volume.fill) for network in networks
    )
    mean = np.asarray(total) / len(networks)
    labels = mean.argmax(0).astype(np.uint8)
    highest = mean.max(0)
    found = labels > 0
    sure = highest >= least
    confidence = float(highest[found].mean()) if (found & sure).any() else None
    labels[~sure] = IGNORED
    return labels, confidence


def _pool(args: argparse.Namespace, plan: Plan) -> list[StoredVolume]:
    """Prepared pool cases of every subject outside the labelled subset."""
    store, splits = open_store(args.store, plan), read_splits(args.splits)
    try:
        subset = set(splits.subset(args.labelled, args.replicate))
    except MedclError as error:
        raise TrainingFailed(str(error)) from None
    subjects = [subject for subject in splits.subjects("pool") if subject not in subset]
    volumes = [store[case] for case in splits.cases_of(subjects) if case in store]
    if not volumes:
        raise TrainingFailed("the pool has no case outside the labelled subset to label")
    return volumes


def _labelled_pool(
    work: Path, number: int, args: argparse.Namespace, plan: Plan
) -> list[PseudoLabelled]:
    """The cases chosen in a round, with the labels written then."""
    folder = work / f"round{number}"
    store = open_store(args.store, plan)
    cases: list[str] = read_json(folder / "chosen.json")["cases"]
    return [PseudoLabelled(store[case], inside(folder, f"{case}.npy")) for case in cases]
