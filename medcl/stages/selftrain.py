"""Label the pool with the arm's own network, and train anew on both kinds of labels.

A round predicts every pool case that is not in the labelled subset (their own labels, where they
have any, are never opened), keeps the share of cases labelled most confidently, and fine-tunes from
the arm's own start again, with a share of the crops from them. Voxels below the confidence are
ignored by the loss. With several members, further networks are fine-tuned on the same subset with
seeds of their own, and the mean of their probabilities labels. Of several processes each labels its
share of the pool.

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

from medcl.config import UNDECIDING, Finetune, Network, Selftrain, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import read_splits
from medcl.data.store import StoredVolume, inside
from medcl.errors import MedclError, TrainingFailed
from medcl.files import read_json, replacing, write_json
from medcl.segmentation.crops import PseudoLabelled
from medcl.segmentation.inference import mean_probabilities
from medcl.segmentation.model import IGNORED, Segmentation
from medcl.stages.finetune import network_weights, start, train
from medcl.study.matching import tuned_rate
from medcl.training import checkpoint
from medcl.training.devices import Place, place, relaunch
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
        try:
            rate = tuned_rate(args.tuned)
        except TrainingFailed as error:
            outputs.fail(error)
            return
        tuning = tuning.model_copy(update={"learning_rate": rate})
    outputs.facts["learning_rate"] = tuning.learning_rate
    key = {"stage": "selftrain", "settings": settings.model_dump()}
    key |= {"finetune": tuning.model_dump(exclude=UNDECIDING)}
    key |= {"network": options.model_dump(), "labelled": args.labelled, "replicate": args.replicate}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan}
    files |= {"encoder": args.encoder, "model": args.model}
    work = work_folder(args.work, key, files)
    try:
        fitted, weights = _rounds(settings, tuning, options, plan, args, outputs, work)
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
    """The last round's training and its weights; what is done already is read, not repeated.

    Its seconds, by the clock and of the cores, are those of every training and of labelling, also
    before the run was resumed.
    """
    base = checkpoint.load(args.model)
    if base.get("status") == "failed":
        raise TrainingFailed(f"{args.model}: its training failed: {base['reason']}")
    seed = outputs.facts["seed"]
    seconds, cpu_seconds, marks = 0.0, 0.0, list[str]()

    def trained(folder: str, own: int, pseudo: Sequence[PseudoLabelled]) -> Trained:
        nonlocal seconds, cpu_seconds
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
        seconds += fitted.seconds
        cpu_seconds += fitted.cpu_seconds
        marks.extend(fitted.resumed)
        return Trained(model, fitted)

    networks: list[nn.Module] = [checkpoint.load_model(args.model)[0].to(outputs.place.device)]
    done, pseudo = None, list[PseudoLabelled]()
    for number in range(settings.rounds):
        for member in range(len(networks), settings.members):
            name = f"round{number}-member{member}"
            networks.append(trained(name, seed_of(seed, number, member), pseudo).model.network)
        volumes = _pool(args, plan)
        labelled = label_pool(
            networks, volumes, settings, plan, outputs.place, work / f"round{number}"
        )
        pseudo = labelled.chosen
        seconds += labelled.seconds
        cpu_seconds += labelled.cpu_seconds
        outputs.facts["rounds"].append({"cases": len(pseudo), "of": len(volumes)})
        if not pseudo:
            raise TrainingFailed(
                f"round {number + 1}: no pool case was given a class with mean probability "
                f"{settings.confidence:g}; lower `selftrain.confidence`"
            )
        done = trained(f"round{number}-training", seed, pseudo)
        networks = [done.model.network]
    assert done is not None
    done.fitted.seconds, done.fitted.cpu_seconds = seconds, cpu_seconds
    done.fitted.resumed = marks
    last = network_weights(done.model.state_dict())
    selected = network_weights(done.fitted.selected) if done.fitted.selected else last
    return done.fitted, {"last": last, "selected": selected}


@dataclass(frozen=True)
class Trained:
    model: Segmentation
    fitted: Fitted


@dataclass(frozen=True)
class LabelledPool:
    """The cases to learn from, the most confident first, and what labelling all of them took."""

    chosen: list[PseudoLabelled]
    seconds: float
    cpu_seconds: float


def label_pool(
    networks: Sequence[nn.Module],
    volumes: Sequence[StoredVolume],
    settings: Selftrain,
    plan: Plan,
    place: Place,
    folder: Path,
) -> LabelledPool:
    """Label the pool into `folder`: `<case>.npy`, and `<case>.json` once that is there.

    Every process labels its share, so that none waits for another at a barrier for as long as a
    pool takes (NCCL gives up after ten minutes). What is labelled already is not labelled again.
    `seconds`, by the clock and of the cores, are those of the process that took longest.
    """
    shares = [volumes[rank :: place.world] for rank in range(place.world)]
    for number, volume in enumerate(shares[place.rank], 1):
        entry = inside(folder, f"{volume.case}.json")
        if entry.exists():
            continue
        started, cpu_started = time.monotonic(), time.process_time()
        labels, confidence = pseudo_label(networks, volume, plan, settings.confidence)
        with replacing(inside(folder, f"{volume.case}.npy")) as partial:
            np.save(partial, labels, allow_pickle=False)
        took = {
            "seconds": time.monotonic() - started,
            "cpu_seconds": time.process_time() - cpu_started,
        }
        write_json(entry, {"confidence": confidence, **took})
        of = f"{number} of {len(shares[place.rank])}"
        print(f"selftrain: labelled {volume.case} ({of})", flush=True)
    if place.world > 1:
        distributed.barrier()
    entries = {v.case: read_json(inside(folder, f"{v.case}.json")) for v in volumes}
    # A pool that was partly labelled before the seconds of the cores were counted has the clock's.
    cores = {case: entry.get("cpu_seconds", entry["seconds"]) for case, entry in entries.items()}
    sure = [v for v in volumes if entries[v.case]["confidence"] is not None]
    sure.sort(key=lambda volume: (-entries[volume.case]["confidence"], volume.case))
    return LabelledPool(
        [
            PseudoLabelled(volume, inside(folder, f"{volume.case}.npy"))
            for volume in sure[: math.ceil(settings.keep * len(sure))]
        ],
        max(math.fsum(entries[v.case]["seconds"] for v in share) for share in shares),
        max(math.fsum(cores[v.case] for v in share) for share in shares),
    )


def pseudo_label(
    networks: Sequence[nn.Module], volume: StoredVolume, plan: Plan, least: float
) -> tuple[UInt8[np.ndarray, "X Y Z"], float | None]:
    """Classes of a volume, IGNORED where the mean probability is below `least`.

    Also the mean probability of the voxels that are not background; None if there are none left.
    """
    box = ((0, 0, 0), volume.shape)
    image = volume.read(box)
    mean = mean_probabilities(networks, image, plan.crop, fill=volume.fill)
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
