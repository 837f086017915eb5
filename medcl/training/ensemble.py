"""Trained networks that predict a volume together: the mean of their class probabilities.

    p(v, k) = 1/M sum_m softmax(logits_m(v))_k        on the network's grid, M networks
    u(v)    = - sum_k p(v, k) log p(v, k) / log K      K classes with the background

The largest p, brought to the volume's own grid, is the label. The uncertainty u goes from 0, where
all networks are sure of the same class, to 1, where all classes are equally probable.

Source: Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation
using Deep Ensembles", NeurIPS 2017, arXiv:1612.01474.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from medcl.config import Predict
from medcl.data.plan import Plan
from medcl.data.preprocess import prepare, restore, restore_values
from medcl.data.volume import Volume
from medcl.errors import MedclError
from medcl.segmentation.inference import mean_probabilities
from medcl.training import checkpoint
from medcl.training.devices import channels_last, place

Weights = Literal["last", "selected"]
WEIGHTS: tuple[Weights, ...] = ("last", "selected")
UNDECIDING = {"fingerprint", "given", "threads"}  # of a plan: they change no prediction


@dataclass
class Segmented:
    """Label maps on the volume's grid by weights, uncertainties where asked for.

    `seconds` are those of the first weights.
    """

    labels: dict[Weights, UInt8[np.ndarray, "X Y Z"]]
    uncertainty: dict[Weights, Float32[np.ndarray, "X Y Z"]]
    seconds: float = 0.0


@dataclass(frozen=True)
class Ensemble:
    """One network or several by weights, and what they expect.

    A network whose weights are equal is one object, so that it is run once.
    """

    networks: dict[Weights, tuple[nn.Module, ...]]
    plan: Plan
    settings: Predict

    def segment(self, volume: Volume, *, uncertainty: bool = False) -> Segmented:
        started = time.perf_counter()
        found = Segmented({}, {})
        prepared = prepare(volume, self.plan)
        for weights, members in self.networks.items():
            twin = next((done for done in found.labels if self.networks[done] == members), None)
            if twin is not None:
                found.labels[weights] = found.labels[twin]
                if uncertainty:
                    found.uncertainty[weights] = found.uncertainty[twin]
                continue
            probabilities = mean_probabilities(
                members,
                prepared.array,
                self.plan.crop,
                fill=prepared.fill,
                overlap=self.settings.overlap,
                batch=self.settings.batch,
            )
            found.labels[weights] = restore(probabilities, prepared, self.plan.values)
            if uncertainty:
                found.uncertainty[weights] = restore_values(entropy(probabilities), prepared)
            found.seconds = found.seconds or time.perf_counter() - started
        return found


def entropy(
    probabilities: Float32[np.ndarray, "K X Y Z"],
) -> Float32[np.ndarray, "X Y Z"]:
    """Entropy of each voxel's probabilities as a share of the largest there can be."""
    total = np.zeros(probabilities.shape[1:], np.float32)
    for p in probabilities:
        total -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    return total / np.float32(np.log(len(probabilities)))


def load(files: Sequence[str], weights: Sequence[Weights], settings: Predict) -> Ensemble:
    """Load the networks of model.pt files onto this process's device, with the plan's threads.

    Raises MedclError for one whose training failed, and for one of another plan or other classes.
    """
    networks: dict[Weights, list[nn.Module]] = {name: [] for name in weights}
    plans = []
    for file in files:
        own: list[nn.Module] = []
        for name in weights:
            network, manifest = checkpoint.load_model(file, name)
            same = next((n for n in own if _equal(n, network)), network)
            own.append(same)
            networks[name].append(same)
        plans.append(Plan.from_dict(manifest["plan"], where=file))
        _refuse_other(file, plans[-1], files[0], plans[0])
    device = place(plans[0].threads).device
    moved = {
        name: tuple(channels_last(network.to(device)) for network in members)
        for name, members in networks.items()
    }
    return Ensemble(moved, plans[0], settings)


def _refuse_other(file: str, plan: Plan, first: str, expected: Plan) -> None:
    theirs, ours = plan.to_dict(), expected.to_dict()
    keys = [key for key in ours | theirs if key not in UNDECIDING]
    differing = [key for key in keys if theirs.get(key) != ours.get(key)]
    if differing:
        said = "; ".join(
            f"{k} {_shown(theirs.get(k))} and {_shown(ours.get(k))}" for k in differing
        )
        raise MedclError(
            f"{file} and {first}: made with other plans: {said}; only networks of one plan and the "
            "same classes predict together"
        )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
