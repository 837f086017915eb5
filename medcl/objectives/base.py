"""What every pretext task offers to the training loop.

`views` says which voxels are compared and holds no weights, so that a loader worker pickles a few
hundred bytes. `embed` maps each sample by itself, so that a batch may be embedded in parts;
`compare` sees all embeddings at once. Every value of a batch and of the embeddings has the samples
as its first axis.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medcl.data.store import StoredVolume
from medcl.errors import MedclError
from medcl.networks.base import Network

Batch = dict[str, Tensor]
Embeddings = dict[str, Tensor]
Terms = dict[str, Tensor | float]  # 0-dim and detached: the loop reads them when it likes


@dataclass(frozen=True)
class Views(ABC):
    """Which voxels are compared; no weights."""

    def for_step(self, rng: np.random.Generator, index: int) -> Views:
        """These views for item `index` of a step whose items share `rng`; the same by default."""
        return self

    def groups(self, cases: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        """Draw the cases of one item; one, unless the task compares several."""
        return (cases[int(rng.integers(len(cases)))],)

    @abstractmethod
    def crop(self, volumes: tuple[StoredVolume, ...], rng: np.random.Generator) -> Batch:
        """Read one item from its volumes, without a batch axis; runs in a loader worker."""

    @abstractmethod
    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change a batch on its device; `generator` lives on the CPU."""


class Objective(nn.Module, ABC):
    """A pretext task.

    The constructor takes the whole network and the spacing of its voxels (mm), then keyword-only
    arguments: those are the options of a configuration, described by the `name: text` lines of
    the class docstring. `crop`, where an option, is None for the plan's crop.

    trained: the beginnings of the names of the network's tensors that this task trains; the
    others are left as they are and are not worth transferring.
    reads_labels: whether voxel labels of the pool are read.
    refresh_every: steps after which the views change; None if never.
    compared_with_chance: the terms, or `loss`, whose sum the term `chance` belongs to.
    """

    trained: tuple[str, ...]
    reads_labels: ClassVar[bool] = False
    refresh_every: int | None = None
    compared_with_chance: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, network: Network, views: Views) -> None:
        super().__init__()
        self.network = network
        self.views = views
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(self.trained))

    @property
    def encoder(self) -> Network:
        return self.network

    @abstractmethod
    def embed(self, batch: Batch) -> Embeddings:
        """Embed each sample by itself."""

    @abstractmethod
    def compare(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        """Loss of all embeddings and what to log, collapse and chance level included."""

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        return self.compare(self.embed(batch), batch)

    def lacks(self, volume: StoredVolume) -> str | None:
        """What this case lacks to be trained on, such as "a voxel label"; None if nothing."""
        return None

    def begin(self, steps: int, volumes: Sequence[StoredVolume]) -> None:
        """Called before the state of a run is loaded, with all cases it is trained on.

        For schedules over all `steps`, and to make room for tables of the cases. Raises
        TrainingFailed where what can be known of the cases says that nothing would be learnt.
        """

    def refresh(self, volumes: Sequence[StoredVolume], step: int) -> Views:
        """The views of the steps from `step` on; called before the first step, after a resume, and
        every `refresh_every` steps.

        A table is computed anew at a multiple of `refresh_every` and kept in a buffer otherwise,
        so that a resumed run goes on with the table it was stopped with.
        """
        return self.views

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def remarks(self) -> list[str]:
        """Sentences for the summary of a run that its log cannot tell; asked for at its end."""
        return []


def refuse_slices(network: Network, name: str) -> None:
    """Raise MedclError for a 2-D network, where the task `name` is one of volumes."""
    if network.dims != 3:
        raise MedclError(
            f"{name}: needs a network in 3-D; set `plan.dims: 3`, or use an objective that takes "
            "slices, such as dense, global_contrast or mae"
        )


Compare = Callable[[Any, Embeddings, Batch], tuple[Tensor, Terms]]


def in_float32(compare: Compare) -> Compare:
    """Decorate a `compare`, so that autocast and half-precision embeddings do not reach it."""

    @functools.wraps(compare)
    def exact(self: Any, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, Terms]:
        half = (torch.float16, torch.bfloat16)
        full = {k: v.float() if v.dtype in half else v for k, v in embeddings.items()}
        device = next(iter(full.values())).device.type
        with torch.autocast(device, enabled=False):
            return compare(self, full, batch)

    return exact
