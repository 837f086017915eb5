"""Checkpoints: plain tensors, numbers and strings, written to a temporary name and moved.

They load with `weights_only=True`, so opening a stranger's file runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medcl import networks
from medcl.errors import MedclError
from medcl.files import replacing
from medcl.segmentation.probe import Probe

FORMAT = 1


def save(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `content` (tensors, numbers, strings, None, lists, dicts) under `path`."""
    with replacing(path) as partial:
        torch.save({"format": FORMAT, **content}, partial)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; MedclError if it is none of ours."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MedclError(f"{path}: no such file") from None
    except Exception as error:  # whatever a file that is no checkpoint makes the reader raise
        raise MedclError(
            f"{path}: not a checkpoint of medcl ({type(error).__name__}); "
            "give an encoder.pt or a model.pt"
        ) from None
    if not isinstance(content, dict) or "format" not in content:
        raise MedclError(f"{path}: not a checkpoint of medcl; give an encoder.pt or a model.pt")
    if content["format"] != FORMAT:
        raise MedclError(
            f"{path}: format {content['format']}, this medcl reads {FORMAT}; train it again"
        )
    return content


def load_model(
    path: str | Path, weights: Literal["last", "selected"] = "last"
) -> tuple[nn.Module, dict[str, Any]]:
    """The segmentation network of a `model.pt` in evaluation mode, and the rest of the file.

    Raises MedclError for a file without a segmentation model, or one whose training failed.
    """
    content = load(path)
    if content.get("kind") != "segmentation":
        raise MedclError(f"{path}: holds no segmentation model; give the model.pt of a fine-tuning")
    if content["status"] != "ok":
        raise MedclError(f"{path}: its training failed: {content['reason']}")
    plan = content["plan"]
    network = networks.build(
        content["network"],
        channels_in=plan["channels"],
        strides=plan["strides"],
        channels_out=len(content["classes"]) + 1,
        across=plan.get("across"),
    )
    model: nn.Module = network
    if (probe := content.get("probe")) is not None:
        method, parts = probe["method"], probe["parts"]
        model = Probe(network, method=method, parts=parts, classes=len(content["classes"]) + 1)
    model.load_state_dict(content["weights"][weights])
    return model.eval(), {key: value for key, value in content.items() if key != "weights"}
