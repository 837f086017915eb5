"""Dice on prepared volumes while a network is trained: its own, or that of a probe of its maps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medcl.data.plan import Plan
from medcl.data.store import StoredVolume
from medcl.networks.base import Network
from medcl.segmentation.inference import predict_probabilities
from medcl.segmentation.probe import Method, fit_probe


def validation_dice(network: nn.Module, volumes: Sequence[StoredVolume], plan: Plan) -> float:
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


@dataclass(frozen=True)
class Watch:
    """What the maps of a network in pretraining know of the classes, for its log alone.

    `fitted` are the labelled volumes a probe is fitted to, `scored` those of other subjects it is
    measured on. Both are of the pool, where the labels of the fine-tunings are: who chooses a
    pretext task by this number has chosen it with those labels, and never with those of a
    validation or test subject. The network is copied first, and no generator of others is moved,
    so that a watched training ends as one that is not. `parts` as for a probe.
    """

    network: Network
    parts: Sequence[str]
    fitted: Sequence[StoredVolume]
    scored: Sequence[StoredVolume]
    method: Method
    plan: Plan
    seed: int
    device: torch.device

    def dice(self) -> float:
        """Dice of a probe fitted now. Raises TrainingFailed if `fitted` hold no two classes."""
        with torch.random.fork_rng(devices=[]):
            probe = fit_probe(
                copy.deepcopy(self.network).to(self.device).eval(),
                self.fitted,
                method=self.method,
                parts=self.parts,
                plan=self.plan,
                seed=self.seed,
                device=self.device,
            )
        return validation_dice(probe, self.scored, self.plan)
