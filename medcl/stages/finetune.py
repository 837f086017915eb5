"""Train a segmentation on few labels, from an encoder or from scratch."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medcl import networks
from medcl.config import UNDECIDING, Finetune, Network, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import Splits, read_splits
from medcl.data.store import Store
from medcl.errors import MedclError, TrainingFailed
from medcl.networks.transfer import Transfer, transfer
from medcl.segmentation.crops import Labelled, LabelledCrops, PseudoLabelled, SharedCrops
from medcl.segmentation.model import Segmentation
from medcl.segmentation.probe import METHODS, fit_probe
from medcl.segmentation.regularisers import CoreTuning
from medcl.segmentation.validation import validation_dice
from medcl.study.matching import match, tuned_rate, words_of
from medcl.training import checkpoint
from medcl.training.devices import Place, place, relaunch, workers
from medcl.training.fit import Fitted, fit
from medcl.training.progress import Progress
from medcl.training.rates import Rates
from medcl.training.run import Outputs, on_cpu, open_store, seeded, work_folder
from medcl.training.run import add_arguments as add_training_arguments
from medcl.training.sampler import Items
from medcl.training.seeds import seed_of
from medcl.views.augment import Augment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", default="{}", help="the `finetune` section: YAML or a file")
    parser.add_argument(
        "--labelled", required=True, help="number of labelled subjects, or all: every candidate"
    )
    parser.add_argument(
        "--replicate", type=int, required=True, help="order the subset is taken from"
    )
    parser.add_argument(
        "--encoder", help="encoder.pt, or a model.pt, to start from; absent: from scratch"
    )
    parser.add_argument("--tuned", help="tuned.yaml, which says the learning rate")
    matched = parser.add_argument_group("a cost-matched control")
    matched.add_argument("--cost-of", help="summary.json of the pretraining it matches")
    matched.add_argument("--pace", help="summary.json of the same run from scratch")
    add_training_arguments(parser, "model.pt")


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(Finetune, args.settings)
    options = load_section(Network, args.network)
    plan, splits = read_plan(args.plan), read_splits(args.splits)
    labelled = _count(args.labelled, splits, args.replicate)
    outputs = Outputs("finetune", Path(args.out), "model.pt", place(plan.threads))
    outputs.content = {
        "kind": "segmentation",
        "plan": plan.to_dict(),
        "classes": dict(plan.classes),
        "network": options.model_dump(),
    }
    outputs.facts = {
        "steps": settings.steps_for(labelled),
        "learning_rate": settings.learning_rate,
        "seed": seed_of(args.replicate, labelled),
        "labelled": labelled,
        "replicate": args.replicate,
        "encoder": args.encoder,
        "tuned": args.tuned or None,
        "matched": None,
        "transfer": None,
    }
    try:
        settings = _settled(settings, args, outputs.facts)
        key: dict[str, Any] = {"stage": "finetune", "network": options.model_dump()}
        key |= {"settings": settings.model_dump(exclude=UNDECIDING)}
        key |= {"labelled": labelled, "replicate": args.replicate}
        files = {"store": args.store, "splits": args.splits, "plan": args.plan}
        work = work_folder(args.work, key, files | {"encoder": args.encoder})
        data = (args.store, splits)
        if settings.mode in METHODS:
            _probe(settings, options, plan, data, outputs)
            return
        model = start(settings, options, plan, args.encoder, outputs.facts)
        fitted = train(model, settings, plan, data, outputs.facts, outputs.place, work)
    except TrainingFailed as error:
        outputs.fail(error)
        return
    last = network_weights(model.state_dict())
    selected = network_weights(fitted.selected) if fitted.selected else last
    outputs.finish(fitted, weights={"last": last, "selected": selected})
    if outputs.place.leads:
        shutil.rmtree(work)


def _count(labelled: str, splits: Splits, replicate: int) -> int:
    if labelled == "all":
        return len(splits.candidates(replicate))
    if not labelled.isdecimal():
        raise MedclError(f"--labelled: got '{labelled}', expected a number of subjects, or all")
    return int(labelled)


def _settled(settings: Finetune, args: argparse.Namespace, facts: dict[str, Any]) -> Finetune:
    """The settings with the learning rate and the number of steps that other runs decided."""
    changes: dict[str, Any] = {"steps": facts["steps"]}
    if args.tuned:
        changes["learning_rate"] = facts["learning_rate"] = tuned_rate(args.tuned)
    if args.cost_of:
        facts["matched"] = match(args.cost_of, args.pace, facts["steps"])
        changes["steps"] = facts["steps"] = facts["matched"]["steps"]
        print(f"finetune: {words_of(facts['matched'])}", flush=True)
    return settings.model_copy(update=changes)


def start(
    settings: Finetune, options: Network, plan: Plan, encoder: str | None, facts: dict[str, Any]
) -> Segmentation:
    """The network every arm starts with, and over it the pretrained tensors, if any."""
    with seeded(facts["seed"]):
        network = networks.build(
            options.model_dump(),
            channels_in=plan.channels,
            strides=plan.strides,
            channels_out=len(plan.classes) + 1,
            across=plan.across,
        )
        core = CoreTuning(network.channels[0]) if settings.core_tuning else None
    facts["parameters"] = sum(p.numel() for p in network.parameters())
    if encoder:
        taken, differing = _start_from(encoder, network, plan)
        facts["transfer"] = taken.to_dict() | {"differing": differing}
        for sentence in (taken.sentence(), *differing):
            print(f"finetune: {encoder}: {sentence}", flush=True)
    return Segmentation(
        network,
        classes=len(plan.classes),
        foreground_weight=settings.foreground_weight,
        core_tuning=core,
        core_weight=settings.core_tuning,
    )


def train(
    model: Segmentation,
    settings: Finetune,
    plan: Plan,
    data: tuple[str, Splits],
    facts: dict[str, Any],
    place: Place,
    work: Path,
    *,
    what: str = "finetune",
    pseudo: Sequence[PseudoLabelled] = (),
    share: float = 0.0,
    validation: Sequence[str] | None = None,
) -> Fitted:
    """Fit on the subset of `facts` (labelled, replicate, seed, steps) and note who was in it.

    data: the store's manifest.json, and the splits. pseudo: cases for `share` of the crops.
    validation: subjects; absent: those of the replicate, as many as there are labels.
    """
    store, splits = open_store(data[0], plan), data[1]
    labelled, replicate = facts["labelled"], facts["replicate"]
    try:
        subset = splits.subset(labelled, replicate)
    except MedclError as error:
        raise TrainingFailed(str(error)) from None
    if validation is None:
        validation = splits.validation(labelled, replicate)
    facts |= {"subset": subset, "validation": validation}

    def crops(volumes: Sequence[Labelled]) -> LabelledCrops:
        return LabelledCrops(
            volumes,
            crop=plan.crop,
            spacing=plan.spacing,
            foreground=settings.foreground,
            augment=Augment() if settings.augment else None,
            mixup=settings.mixup,
        )

    own = crops([store[case] for case in _prepared(splits.cases_of(subset), store, "subset")])
    items: Items = SharedCrops(own, crops(pseudo), share) if pseudo else own
    held = [store[case] for case in _prepared(splits.cases_of(validation), store, "validation")]
    held = [volume for volume in held if volume.has_label]
    return fit(
        model,
        items,
        settings,
        steps=facts["steps"],
        seed=facts["seed"],
        place=place,
        work=work,
        what=f"{what} n={labelled} r={replicate}",
        validate=(lambda: validation_dice(model.network, held, plan)) if held else None,
        validate_every=settings.validate_every,
        workers=workers(place),
        rates=rates_of(settings, facts["steps"]),
    )


def _probe(
    settings: Finetune,
    options: Network,
    plan: Plan,
    data: tuple[str, Splits],
    outputs: Outputs,
) -> None:
    """Fit a probe to the subset instead of training, and write it as a model like any other."""
    started = time.monotonic()
    store, splits = open_store(data[0], plan), data[1]
    facts = outputs.facts
    try:
        subset = splits.subset(facts["labelled"], facts["replicate"])
    except MedclError as error:
        raise TrainingFailed(str(error)) from None
    facts |= {"subset": subset, "validation": [], "steps": 0}
    segmentation = start(settings, options, plan, facts["encoder"], facts)
    parts = _parts_of(facts["encoder"])
    volumes = [store[case] for case in _prepared(splits.cases_of(subset), store, "subset")]
    volumes = [volume for volume in volumes if volume.has_label]
    network = segmentation.network
    assert isinstance(network, networks.Network)
    probe = fit_probe(
        network,
        volumes,
        method="knn" if settings.mode == "knn" else "linear",
        parts=parts,
        plan=plan,
        seed=facts["seed"],
        device=outputs.place.device,
    )
    outputs.content["probe"] = {"method": probe.method, "parts": list(parts)}
    weights = on_cpu(probe.state_dict())
    fitted = Fitted(Progress(outputs.what, 0), time.monotonic() - started, {})
    outputs.finish(fitted, weights={"last": weights, "selected": weights})


def _parts_of(encoder: str | None) -> list[str]:
    """Parts whose feature maps a probe looks at: what was pretrained, or the encoder."""
    content = checkpoint.load(encoder) if encoder else {}
    return list(content.get("trained", ["down."]))


def rates_of(settings: Finetune, steps: int) -> Rates:
    """The pace of encoder, decoder and head."""
    alone = round(settings.encoder_frozen * steps) if settings.mode == "sawtooth" else 0
    return Rates(
        steps,
        round(settings.warmup * (steps - alone)),
        encoder=("network.down.",),
        encoder_rate=settings.encoder_rate,
        alone=alone,
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


def _start_from(file: str, network: torch.nn.Module, plan: Plan) -> tuple[Transfer, list[str]]:
    """Take the tensors of an encoder.pt or model.pt; also what its plan says otherwise.

    A training that failed is a failure of this run.
    """
    content = checkpoint.load(file)
    if content.get("status") == "failed":
        of = "pretraining" if content.get("kind") == "encoder" else "training"
        raise TrainingFailed(f"{file}: its {of} failed: {content['reason']}")
    if content.get("kind") == "segmentation":
        weights, trained = content["weights"]["last"], [""]
    elif content.get("kind") == "encoder":
        weights, trained = content["network_weights"], content["trained"]
    else:
        raise MedclError(f"{file}: holds no encoder and no model; give an encoder.pt or a model.pt")
    theirs, ours = content["plan"], plan.to_dict()
    differing = [
        f"{key}: made with {theirs.get(key)}, here {ours[key]}"
        for key in ("modality", "spacing", "intensity")
        if theirs.get(key) != ours[key]
    ]
    return transfer(network, weights, trained), differing


def network_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return on_cpu(weights)
