"""Weights from one network into another, with a report of what was taken and what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from medcl.errors import MedclError

LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Transfer:
    """taken: names of tensors. not_taken: name -> why. share: of the parameters asked for."""

    taken: list[str]
    not_taken: dict[str, str]
    share: float

    def to_dict(self) -> dict[str, Any]:
        rows = [{"name": name, "why": why} for name, why in self.not_taken.items()]
        return {**asdict(self), "not_taken": rows}

    def sentence(self) -> str:
        return (
            f"{len(self.taken)} tensors taken, {len(self.not_taken)} not; "
            f"{100 * self.share:.0f} % of the pretrained parameters are in the network"
        )


def transfer(network: nn.Module, weights: Mapping[str, Tensor], trained: Sequence[str]) -> Transfer:
    """Copy the tensors of `weights` whose name starts with one of `trained` into `network`.

    Raises MedclError if less than half of the parameters that should be taken fit: a network left
    random by mistake would be reported as pretrained.
    """
    own = network.state_dict()
    taken: list[str] = []
    not_taken: dict[str, str] = {}
    asked = fitted = 0
    for name, tensor in own.items():
        wanted = any(name.startswith(prefix) for prefix in trained)
        asked += tensor.numel() if wanted else 0
        if not wanted:
            not_taken[name] = "not trained by the pretext task"
        elif name not in weights:
            not_taken[name] = "not in the checkpoint"
        elif weights[name].shape != tensor.shape:
            sizes = f"{tuple(weights[name].shape)}, the network has {tuple(tensor.shape)}"
            not_taken[name] = f"shape {sizes}"
        else:
            tensor.copy_(weights[name])
            taken.append(name)
            fitted += tensor.numel()
    for name in weights:
        if name not in own and any(name.startswith(prefix) for prefix in trained):
            not_taken[name] = "not in the network"
    share = fitted / asked if asked else 0.0
    if share < LEAST_SHARE:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(not_taken.items())[:5])
        raise MedclError(
            f"only {100 * share:.0f} % of the parameters fit the checkpoint ({reasons}); "
            "use the network and plan the encoder was pretrained with"
        )
    return Transfer(taken, not_taken, share)
