"""How fast each part of a network learns, step by step.

Everything learns along a warm-up and a half cosine, the encoder at a share of it, 0 for frozen.
With steps `alone` ("sawtooth") all but the encoder learn first, warmed up, and then the whole
network, warmed up again and brought down, so that a pretrained encoder meets no gradients of a
decoder that is still random. Source: Wald et al., "An OpenMind for 3D medical
vision self-supervised learning", 2024, arXiv:2412.17041.

A part that does not learn gets no gradient, and the norms in it keep the statistics they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from medcl.contrast.gather import GatheredNorm
from medcl.training.schedule import warmup_cosine


@dataclass(frozen=True)
class Rates:
    """Factors of the learning rate; `steps` and `warmup` are counted in optimiser steps.

    encoder: beginnings of its parameters' names. encoder_rate: its factor.
    alone: first steps, with a frozen encoder.
    """

    steps: int
    warmup: int
    encoder: tuple[str, ...] = ()
    encoder_rate: float = 1.0
    alone: int = 0

    def base(self, step: int) -> float:
        """Factor of step `step` (the first is 0) before any part's own."""
        if step < self.alone:
            return min(1.0, (step + 1) / max(1, self.warmup))
        return warmup_cosine(step - self.alone + 1, self.steps - self.alone + 1, self.warmup)

    def share(self, name: str, step: int) -> float:
        """Of the base factor, for the parameter called `name`; 0 leaves it as it is."""
        if name.startswith(self.encoder):
            return 0.0 if step < self.alone else self.encoder_rate
        return 1.0

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Names that learn alike at every step, for the optimiser."""
        alike: dict[tuple[float, float], list[str]] = {}
        for name in names:
            alike.setdefault((self.share(name, 0), self.share(name, self.steps)), []).append(name)
        return list(alike.values())

    def still(self, names: Sequence[str], step: int) -> frozenset[str]:
        """Names that do not learn at step `step`."""
        return frozenset(name for name in names if self.share(name, step) == 0)


def hold(model: nn.Module, names: Sequence[str], still: frozenset[str]) -> None:
    """Let the parameters `names` learn but for `still`, whose norms keep their statistics."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=prefix, recurse=False):
            if name in names:
                parameter.requires_grad_(name not in still)
                if isinstance(module, GatheredNorm):
                    module.train(model.training and name not in still)
