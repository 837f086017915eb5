"""Train an encoder without labels, by the pretext task of one arm."""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcl import networks, objectives
from medcl.config import UNDECIDING, Network, Phase, Pretrain, load_section
from medcl.data.plan import Plan, read_plan
from medcl.data.splits import Splits, read_splits
from medcl.data.store import Store, StoredVolume
from medcl.errors import TrainingFailed
from medcl.objectives.base import Objective
from medcl.training.devices import place, relaunch, workers
from medcl.training.diagnosis import diagnose, level
from medcl.training.fit import Fitted, fit
from medcl.training.pretext import PretextItems
from medcl.training.progress import Progress
from medcl.training.run import Outputs, on_cpu, open_store, seeded, work_folder
from medcl.training.run import add_arguments as add_training_arguments
from medcl.training.seeds import seed_of
from medcl.training.state import Diverged

PRETRAINING = 2**31  # no label count: keeps the seeds of pretraining and fine-tuning apart
PROBED = 4  # subjects a probe is fitted to at most, and as many others it is measured on
PROBE_DICE = "probe_dice"

Row = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", required=True, help="an arm's `pretrain` section: YAML or a file"
    )
    parser.add_argument("--seed", type=int, default=0, help="number of this pretraining")
    add_training_arguments(parser, "encoder.pt")


@dataclass
class _Done:
    """What the phases left behind so far."""

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    marks: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    optimiser: dict[str, Any] = field(default_factory=dict)

    def add(self, fitted: Fitted, objective: Objective) -> None:
        self.rows += self.numbered(fitted.progress.rows)
        self.seconds += fitted.seconds
        self.cpu_seconds += fitted.cpu_seconds
        self.marks += fitted.resumed
        self.states.append(on_cpu(objective.state_dict()))
        self.optimiser = fitted.optimiser

    def numbered(self, rows: list[Row]) -> list[Row]:
        """Rows of the next phase, counted on; of one phase the log says nothing of phases."""
        offset, phase = len(self.rows), {"phase": float(len(self.states) + 1)}
        return [row | {"step": row["step"] + offset} | (phase if offset else {}) for row in rows]


def run(args: argparse.Namespace) -> None:
    relaunch(args.devices, sys.argv[1:])
    settings = load_section(Pretrain, args.settings)
    options = load_section(Network, args.network)
    plan = read_plan(args.plan)
    phases = phases_of(settings)
    outputs = Outputs("pretrain", Path(args.out), "encoder.pt", place(plan.threads))
    outputs.content = {
        "kind": "encoder",
        "plan": plan.to_dict(),
        "network": options.model_dump(),
        "settings": settings.model_dump(),
        "seed": args.seed,
    }
    outputs.facts = {
        "steps": sum(phase.steps for phase in phases),
        "seed": args.seed,
        "objective": settings.objective.model_dump(),
        "then": [phase.model_dump() for phase in settings.then],
        "chance": None,
        "phases": [],
        "diagnosis": [],
        "labels_read": 0,
        "parameters": 0,
    }
    aside = {*UNDECIDING, "seeds", "probe_every", "probe"}  # of no matter for the weights
    key = {"stage": "pretrain", "settings": settings.model_dump(exclude=aside)}
    key |= {"network": options.model_dump(), "seed": args.seed}
    files = {"store": args.store, "splits": args.splits, "plan": args.plan}
    work = work_folder(args.work, key, files)
    seed = seed_of(args.seed, PRETRAINING)
    with seeded(seed):
        network = networks.build(
            options.model_dump(),
            channels_in=plan.channels,
            strides=plan.strides,
            channels_out=plan.channels,
            across=plan.across,
        )
        objective = _objective(settings, network, plan)
        # A mistake in a later phase is told before the first is run, and so is what it lacks.
        planned = [_objective(later, copy.deepcopy(network), plan) for later in settings.then]
    parts = [part for one in (objective, *planned) for part in one.trained]
    store, splits = open_store(args.store, plan), read_splits(args.splits)
    cases = [case for case in splits.cases("pool") if case in store]
    done = _Done()
    try:
        for later, phase in zip(planned, phases[1:], strict=True):
            _usable(later, phase, store, cases)
        del planned
        for number, phase in enumerate(phases):
            own, folder = seed, work
            if number:
                own, folder = seed_of(args.seed, PRETRAINING, number), work / f"phase{number + 1}"
                with seeded(own):
                    objective = _objective(phase, network, plan)
            usable = _usable(objective, phase, store, cases)
            _announce(objective, phase, usable, outputs.facts)
            done.trained += [part for part in objective.trained if part not in done.trained]
            watch = _watch(phase, network, parts, (store, splits), plan, own, outputs)
            fitted = fit(
                objective,
                PretextItems(store, usable, objective.views),
                phase,
                steps=phase.steps,
                seed=own,
                place=outputs.place,
                work=folder,
                what=f"pretrain {phase.objective.name} s{args.seed}",
                workers=workers(outputs.place),
                watch=watch,
                watch_every=phase.probe_every,
            )
            _describe(objective, fitted, outputs, number + 1 if len(phases) > 1 else 0)
            done.add(fitted, objective)
        _tell(_probes_words(done.rows, outputs.facts), outputs)
    except TrainingFailed as error:
        rows = done.numbered(error.progress.rows) if isinstance(error, Diverged) else []
        outputs.fail(Diverged(str(error), _progress(done.rows + rows)))
        return
    outputs.finish(
        Fitted(
            _progress(done.rows),
            done.seconds,
            done.optimiser,
            resumed=done.marks,
            cpu_seconds=done.cpu_seconds,
        ),
        step=outputs.facts["steps"],
        trained=done.trained,
        network_weights=on_cpu(network.state_dict()),
        objective=done.states[-1],
        before=done.states[:-1],
        optimiser=done.optimiser,
    )
    if outputs.place.leads:
        shutil.rmtree(work)


def _progress(rows: list[Row]) -> Progress:
    progress = Progress("pretrain", len(rows), rows)
    progress.close()
    return progress


def _objective(phase: Pretrain | Phase, network: networks.Network, plan: Plan) -> Objective:
    options = phase.objective.model_dump()
    return objectives.build(options, network, crop=plan.crop, spacing=plan.spacing)


def phases_of(settings: Pretrain) -> list[Pretrain]:
    """Each phase as a pretraining of its own."""
    alone = settings.model_copy(update={"then": []})
    later = [
        {
            "objective": phase.objective,
            "steps": phase.steps,
            "learning_rate": phase.learning_rate or settings.learning_rate,
        }
        for phase in settings.then
    ]
    return [alone, *(alone.model_copy(update=changes) for changes in later)]


def _usable(objective: Objective, phase: Pretrain, store: Store, cases: list[str]) -> list[str]:
    """The pool cases that have what the objective needs, with which it has begun.

    Raises TrainingFailed where they are too few or hold nothing to learn from.
    """
    name = phase.objective.name
    lacking = {case: lack for case in cases if (lack := objective.lacks(store[case]))}
    usable = [case for case in cases if case not in lacking]
    for lack, count in sorted(Counter(lacking.values()).items()):
        print(f"pretrain: {name}: left out {count} pool cases without {lack}", flush=True)
    if not usable:
        why = f"has {next(iter(lacking.values()))}" if lacking else "is in the store"
        raise TrainingFailed(
            f"{store.path}: {name}: no pool case {why}; add it, or use another objective"
        )
    objective.begin(phase.steps, [store[case] for case in usable])
    rng = np.random.default_rng(0)
    objective.views.for_step(rng, 0).groups(usable, rng)  # fails now or never
    return usable


def _announce(
    objective: Objective, phase: Pretrain, usable: list[str], facts: dict[str, Any]
) -> None:
    """Say what is trained on how many cases, and keep it for the summary."""
    if objective.reads_labels:
        facts["labels_read"] = max(facts["labels_read"], len(usable))
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    facts["parameters"] = max(facts["parameters"], trained)
    facts["cases"] = len(usable)
    name = phase.objective.name
    print(f"pretrain: {name} on {len(usable)} pool cases, {phase.steps} steps", flush=True)


def _watch(
    phase: Pretrain,
    network: networks.Network,
    parts: list[str],
    data: tuple[Store, Splits],
    plan: Plan,
    seed: int,
    outputs: Outputs,
) -> Callable[[int], dict[str, float]] | None:
    """Probes of the network for the log, where asked for; the first is made before any phase.

    What hinders them is said and fails no pretraining.
    """
    if not phase.probe_every:
        return None
    from medcl.segmentation.validation import Watch  # MONAI: seconds that others are spared

    fitted, scored = probed(*data)
    facts: dict[str, Any] = {
        "method": phase.probe,
        "fitted_to": len(fitted),
        "measured_on": len(scored),
    }
    watch = Watch(
        network, list(parts), fitted, scored, phase.probe, plan, seed, outputs.place.device
    )

    def say(step: int) -> dict[str, float]:
        dice = watch.dice()
        if outputs.place.leads:
            print(f"pretrain: step {step}, {phase.probe} probe: Dice {100 * dice:.1f}", flush=True)
        return {PROBE_DICE: dice}

    if "probe" not in outputs.facts:
        try:
            if not fitted:
                raise TrainingFailed("the pool has no two labelled subjects in the store")
            facts |= {"before": say(0)[PROBE_DICE]}
        except TrainingFailed as error:
            outputs.facts["diagnosis"].append(f"no probe could be made: {error}")
            facts = {}
        outputs.facts["probe"] = facts
    return say if outputs.facts["probe"] else None


def probed(store: Store, splits: Splits) -> tuple[list[StoredVolume], list[StoredVolume]]:
    """Labelled pool volumes to fit probes to, and those of other subjects to measure them on.

    Subjects are taken from the front of order 0, where those of the fine-tunings come from.
    """
    volumes = {
        subject: [
            store[case]
            for case in splits.cases_of([subject])
            if case in store and store[case].has_label
        ]
        for subject in splits.candidates(0)
    }
    subjects = [subject for subject, own in volumes.items() if own]
    half = min(PROBED, len(subjects) // 2)
    first, others = subjects[:half], subjects[half : 2 * half]
    return [v for s in first for v in volumes[s]], [v for s in others for v in volumes[s]]


def _describe(objective: Objective, fitted: Fitted, outputs: Outputs, phase: int) -> None:
    """Say what the log of a phase shows, in the summary and on the terminal.

    phase: its number, 0 where it is the only one. What the summary says of no phase is of the last.
    """
    rows, compared, facts = fitted.progress.rows, objective.compared_with_chance, outputs.facts
    said = []
    if objective.reads_labels:
        said = [
            f"it read the voxel labels of {facts['cases']} pool cases: compare it with arms that "
            "had as many, and not at fewer labels"
        ]
    said += [*objective.remarks(), *diagnose(rows, compared)]
    of_phase = {
        "compared_with_chance": list(compared),
        "compared": level(rows, compared),
        "chance": level(rows, ["chance"]),
    }
    facts["phases"].append(of_phase)
    facts |= of_phase
    _tell((f"phase {phase}: {words}" if phase else words for words in said), outputs)


def _tell(said: Iterable[str], outputs: Outputs) -> None:
    for sentence in said:
        outputs.facts["diagnosis"].append(sentence)
        if outputs.place.leads:
            print(f"pretrain: {sentence}", flush=True)


def _probes_words(rows: list[Row], facts: dict[str, Any]) -> list[str]:
    """What the probes found, from before the first phase to the end of the last.

    A run that goes on without probes has the rows of those that were made before.
    """
    made = [(row[PROBE_DICE], int(row["step"])) for row in rows if PROBE_DICE in row]
    if not made or not facts.get("probe"):
        return []
    probe, (last, _) = facts["probe"], made[-1]
    best, step = max(made, key=lambda one: (one[0], -one[1]))
    probe |= {"last": last, "best": best, "best_step": step}
    return [
        f"a {probe['method']} probe of its feature maps had Dice {100 * probe['before']:.1f} "
        f"before any step, {100 * last:.1f} at the end and at best {100 * best:.1f} (step {step}); "
        f"of {probe['measured_on']} labelled pool cases, fitted to {probe['fitted_to']} others"
    ]
