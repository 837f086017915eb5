"""The one training loop.

Every draw is a function of (seed, step, index), so the state of a run is its weights, its
optimiser and its step: a killed and resumed run equals an uninterrupted one bit for bit on the
CPU at the same number of threads. Another number of threads, device or world size resumes with a
warning and a mark for the report.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from medcl.config import Training
from medcl.errors import MedclError
from medcl.training.devices import Place, channels_last
from medcl.training.progress import Progress
from medcl.training.rates import Rates, hold
from medcl.training.sampler import Batch, Items, loader, step_rng
from medcl.training.state import Diverged, Run, State


@dataclass
class Fitted:
    """What a training leaves behind besides the weights in its model.

    cpu_seconds: what its process used of the cores, which other work of the machine hardly changes.
    """

    progress: Progress
    seconds: float
    optimiser: State
    selected: State | None = None
    selected_step: int | None = None
    resumed: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0


def fit(
    model: nn.Module,
    items: Items,
    settings: Training,
    *,
    steps: int,
    seed: int,
    place: Place,
    work: str | Path,
    what: str,
    validate: Callable[[], float] | None = None,
    validate_every: int = 0,
    workers: int = 0,
    rates: Rates | None = None,
    watch: Callable[[int], Mapping[str, float]] | None = None,
    watch_every: int = 0,
) -> Fitted:
    """Train `model` in place for `steps` optimiser steps.

    `model(batch)` gives (loss, terms); `model.after_step()`, where there is one, follows each
    step. `validate()`, higher is better, runs every `validate_every` steps; the best weights are
    returned beside the last ones. State is kept in `work` and resumed from there. `rates` tells
    parts of the network that learn at their own pace. `watch(step)` gives further numbers for the
    log every `watch_every` steps; it selects nothing, and its seconds are not the training's.

    Raises TrainingFailed for a loss that is not finite or a device out of memory; SystemExit(143)
    after SIGTERM, with the state saved.
    """
    channels_last(model.to(place.device)).train()
    refuse_inexact(model, settings.accumulate)
    rates = rates or Rates(steps, round(settings.warmup * steps))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = rates.groups(trained)
    optimiser = _optimiser(model, settings, groups)
    run = Run(model, optimiser, Path(work) / "state.pt", place, what, steps)
    run.resume(torch.get_num_threads())
    batches = _passes(run, items, settings.batch, seed, workers)
    held: frozenset[str] | None = None
    after_step: Callable[[], None] | None = getattr(model, "after_step", None)
    with _stopping() as stop:
        for items, drawn in batches:
            rate = settings.learning_rate * rates.base(run.step)
            for group, (first, *_) in zip(optimiser.param_groups, _twice(groups), strict=True):
                group["lr"] = rate * rates.share(first, run.step)
            if held != (still := rates.still(trained, run.step)):
                hold(model, trained, still)
                held = still
            rng = step_rng(seed, run.step, place.rank)
            torch.manual_seed(rng.initial_seed())  # for a model that draws, such as dropout
            try:
                batch = {k: v.to(place.device, non_blocking=True) for k, v in drawn.items()}
                batch = items.augment(batch, rng)
                loss, terms = _backward(model, batch, settings, place)
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
                optimiser.step()
            except torch.cuda.OutOfMemoryError as error:
                raise Diverged(
                    f"{what}: the GPU is out of memory at step {run.step + 1} "
                    f"({str(error).splitlines()[0]}); lower `batch` or `crop`, raise `accumulate`",
                    run.progress,
                ) from None
            optimiser.zero_grad(set_to_none=True)
            if after_step is not None:
                after_step()
            run.step += 1
            run.note(loss, terms, rate, settings.batch)
            last = run.step == steps
            if validate is not None and (last or run.step % validate_every == 0):
                run.select(validate())
                model.train()
                held = None  # train() has set every norm going
            if watch is not None and (last or run.step % watch_every == 0):
                run.watched(watch)
            if last or stop["now"] or run.due(settings.save_every_s):
                run.save()
            if stop["now"] and not last:
                print(f"{what}: stopped at step {run.step}, state saved", flush=True)
                raise SystemExit(143)
    run.progress.close()
    return Fitted(
        run.progress,
        run.seconds(),
        optimiser.state_dict(),
        run.selected,
        run.selected_step,
        run.marks,
        run.cpu_seconds(),
    )


def _passes(
    run: Run, items: Items, batch: int, seed: int, workers: int
) -> Iterator[tuple[Items, Batch]]:
    """The batches of all steps that are left, each with the items that augment it.

    Where the model's views change on the way, every pass between two changes has a loader of its
    own: no worker draws a batch of the next pass with the views of this one.
    """
    every = getattr(run.model, "refresh_every", None) or run.steps
    refreshed: Callable[..., Items] | None = getattr(items, "refreshed", None)
    while run.step < run.steps:
        if refreshed is not None:
            items = refreshed(run.model, run.step)
        drawn = loader(
            items,
            seed=seed,
            first=run.step,
            steps=min(run.steps, (run.step // every + 1) * every),
            batch=batch,
            rank=run.place.rank,
            world=run.place.world,
            workers=workers,
            pin=run.place.device.type == "cuda",
        )
        for one in drawn:
            yield items, one


def refuse_inexact(model: nn.Module, parts: int) -> None:
    """Raise MedclError where a batch computed in parts would not equal the whole batch."""
    if parts == 1:
        return
    if not (hasattr(model, "embed") and hasattr(model, "compare")):
        raise MedclError(f"accumulate: {type(model).__name__} has no embed and compare; use 1")
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        drops = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        if batch_norm or drops:
            raise MedclError(
                f"accumulate: {parts} parts would differ from the whole batch, because {name} is "
                f"a {type(module).__name__}; use accumulate: 1, or a network without dropout and "
                "with norm: instance"
            )


def cached_backward(model: nn.Module, batch: Batch, parts: int) -> tuple[Tensor, dict[str, Any]]:
    """Gradients of the whole batch with the memory of one part.

    Embeds the parts without gradient, compares all embeddings once, then embeds each part again
    and passes the gradients of its embeddings on. Source: Gao et al., "Scaling Deep Contrastive
    Learning Batch Size under Memory Limited Setup", 2021, arXiv:2101.06983.
    """
    size = math.ceil(len(next(iter(batch.values()))) / parts)
    pieces = list(zip(*(value.split(size) for value in batch.values()), strict=True))
    chunks = [dict(zip(batch, piece, strict=True)) for piece in pieces]
    with torch.no_grad():
        embedded = [model.embed(chunk) for chunk in chunks]  # type: ignore[operator]
    joined = {key: torch.cat([part[key] for part in embedded]) for key in embedded[0]}
    for value in joined.values():
        value.requires_grad_(value.is_floating_point())
    loss, terms = model.compare(joined, batch)  # type: ignore[operator]
    loss.backward()
    offsets = dict.fromkeys(joined, 0)
    for chunk in chunks:
        outputs, gradients = [], []
        for key, value in model.embed(chunk).items():  # type: ignore[operator]
            start = offsets[key]
            offsets[key] += len(value)
            gradient = joined[key].grad
            if value.requires_grad and gradient is not None:
                outputs.append(value)
                gradients.append(gradient[start : start + len(value)])
        torch.autograd.backward(outputs, gradients)
    return loss.detach(), terms


def _backward(
    model: nn.Module, batch: Batch, settings: Training, place: Place
) -> tuple[Tensor, dict[str, Any]]:
    cuda = place.device.type == "cuda"
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and cuda)
    with torch.autocast(place.device.type, torch.bfloat16, enabled=bf16):
        if settings.accumulate > 1:
            loss, terms = cached_backward(model, batch, settings.accumulate)
        else:
            loss, terms = model(batch)
    if settings.accumulate == 1:
        loss.backward()
    loss = loss.detach()
    if place.world > 1:
        loss = loss.clone()  # every rank must see the same loss, to go on or to fail together
        distributed.all_reduce(loss)
        loss /= place.world
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)
                parameter.grad /= place.world
    return loss, terms


def _optimiser(
    model: nn.Module, settings: Training, groups: Sequence[Sequence[str]]
) -> torch.optim.AdamW:
    """AdamW with two groups for each of `groups`: weights, and norms and biases without decay."""
    named = dict(model.named_parameters())
    decays = [(True, settings.weight_decay), (False, 0.0)]
    return torch.optim.AdamW(
        [
            {"params": [named[n] for n in names if (named[n].ndim > 1) == matrix]}
            | {"weight_decay": decay}
            for names in groups
            for matrix, decay in decays
        ],
        lr=settings.learning_rate,
        fused=None,
    )


def _twice(groups: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The names behind each group of `_optimiser`."""
    return [names for names in groups for _ in range(2)]


@contextmanager
def _stopping() -> Iterator[dict[str, bool]]:
    """Ask the loop to stop at the end of the step when SIGTERM comes."""
    stop = {"now": False}
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.update(now=True))
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
