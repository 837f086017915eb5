"""How long the parts of a study take here: steps, validations and predictions on noise.

For `medcl estimate`; no command of its own. On the CPU seconds are those of the cores, spread over
the threads in use: other work on the machine hardly changes them. Of several threads not all are
busy all the time, so that they are then a little short.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medcl import networks, objectives
from medcl.config import Finetune, Pretrain, Study, Training
from medcl.data.plan import Plan
from medcl.data.store import Store, write_case, write_manifest
from medcl.data.volume import Volume
from medcl.errors import MedclError
from medcl.segmentation.crops import LabelledCrops
from medcl.segmentation.probe import METHODS, fit_probe
from medcl.segmentation.validation import validation_dice
from medcl.stages.finetune import start
from medcl.stages.pretrain import phases_of
from medcl.training.devices import Place
from medcl.training.ensemble import Ensemble
from medcl.training.fit import fit
from medcl.training.pretext import PretextItems
from medcl.training.sampler import Items
from medcl.views.augment import Augment

CASES = 4  # some pretext tasks compare volumes with one another
WARM_S = 5.0  # a prediction that took less is timed again


def clock(here: Place) -> Callable[[], float]:
    """Seconds since some moment, as they would pass here with nothing else to do."""
    if here.device.type == "cpu":
        return lambda: time.process_time() / torch.get_num_threads()
    return time.perf_counter


def synthetic(folder: Path, plan: Plan) -> Store:
    """Noise with a block of each class, as large as the plan's median body."""
    rng = np.random.default_rng(0)
    shape = tuple(_body(plan, plan.spacing))
    entries = []
    for number in range(CASES):
        image = rng.normal(size=(plan.channels, *shape)).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        for value, part in enumerate(np.array_split(label, len(plan.classes)), 1):
            part[: max(1, len(part) // 2), shape[1] // 4 : shape[1] // 2 + 1] = value
        entries.append(
            write_case(folder, f"s{number}", f"s{number}", image, label, spacing=plan.spacing)
        )
    return Store(write_manifest(folder, entries))


def pretraining(
    study: Study,
    settings: Pretrain,
    plan: Plan,
    store: Store,
    folder: Path,
    here: Place,
    steps: int,
) -> list[float]:
    """Seconds of a step of each phase."""
    network = networks.build(
        study.network.model_dump(),
        channels_in=plan.channels,
        strides=plan.strides,
        channels_out=plan.channels,
        across=plan.across,
    )
    seconds = []
    for phase in phases_of(settings):
        options = phase.objective.model_dump()
        objective = objectives.build(options, network, crop=plan.crop, spacing=plan.spacing)
        if lack := next(filter(None, (objective.lacks(volume) for volume in store)), None):
            raise MedclError(f"it needs {lack}")
        objective.begin(phase.steps, list(store))
        items = PretextItems(store, store.cases, objective.views)
        seconds.append(_step_seconds(objective, items, phase, folder, here, steps))
    return seconds


def tuning(
    study: Study,
    settings: Finetune,
    plan: Plan,
    store: Store,
    folder: Path,
    here: Place,
    steps: int,
) -> tuple[float, float, float]:
    """Seconds of a step, of the validation of a volume, and of the prediction of a scan.

    A probe makes no step: the first number is then that of fitting it to one volume.
    """
    model = start(settings, study.network, plan, None, {"seed": 0})
    if settings.mode in METHODS:
        return _probing(study, settings, model.network.to(here.device), plan, store, here)
    items = LabelledCrops(
        list(store),
        crop=plan.crop,
        spacing=plan.spacing,
        foreground=settings.foreground,
        augment=Augment() if settings.augment else None,
        mixup=settings.mixup,
    )
    step = _step_seconds(model, items, settings, folder, here, steps)
    now = clock(here)
    started = now()
    validation_dice(model.network, [store["s0"]], plan)
    once = now() - started
    return step, once, _prediction(study, model.network, plan, here)


def _probing(
    study: Study, settings: Finetune, network: Any, plan: Plan, store: Store, here: Place
) -> tuple[float, float, float]:
    now = clock(here)
    started = now()
    probe = fit_probe(
        network,
        [store["s0"]],
        method="knn" if settings.mode == "knn" else "linear",
        parts=["down."],
        plan=plan,
        seed=0,
        device=here.device,
    )
    fitted = now() - started
    return fitted, 0.0, _prediction(study, probe, plan, here)


def _step_seconds(
    model: Any, items: Items, settings: Training, folder: Path, here: Place, steps: int
) -> float:
    """Seconds of a step after the first, which sets up memory."""
    now, ends = clock(here), list[float]()

    def passed(_: int) -> dict[str, float]:
        ends.append(now())
        return {}

    with tempfile.TemporaryDirectory(dir=folder) as work:
        fit(
            model,
            items,
            settings.model_copy(update={"save_every_s": math.inf}),
            steps=1 + steps,
            seed=0,
            place=here,
            work=work,
            what="estimate",
            watch=passed,
            watch_every=1,
        )
    return (ends[-1] - ends[0]) / steps


def _prediction(study: Study, network: nn.Module, plan: Plan, here: Place) -> float:
    """Seconds of one scan as large as the plan's median one, without reading and writing it."""
    model, scan = Ensemble({"last": (network,)}, plan, study.predict), _scan(plan)
    now = clock(here)

    def once() -> float:
        started = now()
        model.segment(scan)
        return now() - started

    seconds = once()
    return once() if seconds < WARM_S else seconds  # the first one set up memory


def _scan(plan: Plan) -> Volume:
    """Noise in a box as large as the median body, with air around it."""
    found = plan.fingerprint
    shape, spacing = [round(n) for n in found["shape_median"]], found["spacing_median"]
    rng = np.random.default_rng(0)
    array = np.full((plan.channels, *shape), -1000.0, np.float32)
    inside = tuple(
        slice((n - length) // 2, (n - length) // 2 + length)
        for n, length in zip(shape, _body(plan, spacing), strict=True)
    )
    body = array[(slice(None), *inside)]
    body[:] = rng.normal(40.0, 30.0, body.shape)
    return Volume(array, np.diag([*spacing, 1.0]).astype(float))


def _body(plan: Plan, spacing: Sequence[float]) -> list[int]:
    """Voxels of `spacing` across the median body, which is what networks see of a volume."""
    found = plan.fingerprint
    lengths = found.get("body_mm_median") or np.multiply(
        found["shape_median"], found["spacing_median"]
    )
    whole = np.multiply(found["shape_median"], found["spacing_median"])
    return [
        max(2, round(min(mm, most) / step))
        for mm, most, step in zip(lengths, whole, spacing, strict=True)
    ]
