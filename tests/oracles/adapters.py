"""From a family of oracle files to the public functions that training uses.

A family is a beginning of file names and belongs to an objective, whose module `tests/test_oracles`
looks for: a family of an objective that is not built is skipped, one without an adapter fails. An
adapter takes the arrays of a file as tensors (leaves of the graph where a gradient is stored) and
returns what is expected under the names of the file; the first value is the one differentiated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from oracles import adapters_mil, volumetric
from torch import Tensor, nn

from medcl.contrast.similarity import accuracy, contrast, nt_xent
from medcl.networks.heads import standardise_row
from medcl.objectives.mae import blocks_to_voxels, masked_errors
from medcl.objectives.voco_losses import (
    cell_regulariser,
    next_volume_loss,
    position_logits,
    position_loss,
    rectified,
)
from medcl.segmentation.regularisers import focal_contrast, hard_mixtures
from medcl.training.fit import cached_backward
from medcl.training.schedule import polynomial, warmup_cosine, warmup_cosine_between
from medcl.views.crops import box_at, grid_boxes, overlap_fractions

Arrays = dict[str, Tensor]

# Beginning of the file names -> module below medcl.objectives, or, with a dot, below medcl. The
# longest beginning counts.
OBJECTIVE_OF = {
    "cacr_": "cacr",
    "clip_": "clip",
    "cliprocket_": "clip",
    "coca_": "coca",
    "contrastive_gap_": "clip",
    "coretuning_": "segmentation.regularisers",
    "dcl_": "dcl",
    "dclw_": "dcl",
    "gradcache_": "training.fit",
    "halp_": "halp",
    "hydra_": "hydra",
    "interclr_": "interclr",
    "lightly_": "lightly_losses",
    "lightly_ntxentloss": "contrast.similarity",
    "mae_": "mae",
    "mcl_": "mcl",
    "mindeye_": "mindeye",
    "mochi_": "mochi",
    "monai_": "lightly_losses",
    "monai_contrastive": "contrast.similarity",
    "multiview_": "multiview",
    "nnssl_": "voco",
    "ntxent_": "contrast.similarity",
    "obow_": "obow",
    "pixpro_": "pixpro",
    "pml_": "lightly_losses",
    "protoclip_": "protoclip",
    "schedules": "training.schedule",
    "siglip_": "siglip",
    "slotcon_": "slotcon",
    "swav_": "swav",
    "swinunetr_": "contrast.similarity",
    "tcl_": "tcl",
    "velvet_": "velvet",
    "voco_labels_": "voco",
    "voco_nnssl_": "voco",
    "voco_v0_": "voco",
    "voco_v1_": "voco",
    "voco_v2_": "voco",
    **adapters_mil.OBJECTIVE_OF,
    **volumetric.OBJECTIVE_OF,
}


def voco_labels(arrays: Arrays) -> Arrays:
    """Shares of crops given by their centres in a plane, over the whole depth."""
    side, count = int(arrays["roi"]), int(arrays["num_crops"])
    base, plane = int(arrays["base_roi"]), int(arrays["max_roi"])
    assert base * count == plane
    cells = grid_boxes((0, 0, 0), (base, base, side), (count, count, 1))
    corners = (arrays["centers_xy"].long() - side // 2).tolist()
    crops = [box_at((x, y, 0), (side, side, side)) for x, y in corners]
    return {"labels": torch.from_numpy(overlap_fractions(crops, cells))}


def voco_labels_nnssl(arrays: Arrays) -> Arrays:
    """Shares of crops given by their corners; the given cells have to be our grid's."""
    size, grid = _triple(arrays["crop_size"]), _triple(arrays["grid"])
    boxes = arrays["base_boxes"].long().numpy().reshape(-1, 2, 3)
    cell = tuple(int(n) for n in boxes[0, 1] - boxes[0, 0])
    cells = grid_boxes(_triple(boxes[0, 0]), _triple(cell), grid)
    np.testing.assert_array_equal(np.array(cells), boxes)
    crops = [box_at(corner, size) for corner in arrays["offsets_xyz"].long().tolist()]
    return {"overlaps": torch.from_numpy(overlap_fractions(crops, cells))}


def voco_v1(arrays: Arrays) -> Arrays:
    batch = int(arrays["batch_size"])
    crops, cells, crops_teacher, cells_teacher = (
        arrays[name].unflatten(0, (batch, -1))
        for name in ("x_student", "bases_student", "x_teacher", "bases_teacher")
    )
    p = position_logits(crops, cells, crops_teacher, cells_teacher)
    pos, neg = position_loss(p, arrays["labels"])
    reg = cell_regulariser(cells)
    return {"total": pos + neg + reg, "pos": pos, "neg": neg, "reg": reg}


def voco_v2(arrays: Arrays) -> Arrays:
    batch = int(arrays["batch_size"])
    crops, cells, crops_teacher, cells_teacher = (
        arrays[name].unflatten(0, (batch, -1))
        for name in ("x_student", "bases_student", "x_teacher", "bases_teacher")
    )
    pos, neg = position_loss(rectified(crops, cells_teacher.detach()), arrays["labels"], "v2")
    inter = next_volume_loss(crops, cells, crops_teacher, cells_teacher)
    reg = cell_regulariser(cells, "v2")
    intra = pos + neg
    return {"total": intra + inter + reg, "intra": intra, "inter": inter, "reg": reg}


def voco_v0(arrays: Arrays) -> Arrays:
    crops, cells, labels = (arrays[name][None] for name in ("feats", "bases", "labels"))
    p = rectified(crops, cells.detach())
    pred = sum(position_loss(p, labels, "v0"))
    reg = cell_regulariser(cells, "v0")
    return {"total": pred + reg, "pred": pred, "reg": reg, "logits": p[0]}


def voco_nnssl(arrays: Arrays) -> Arrays:
    crops, cells = arrays["target_embeddings"], arrays["base_embeddings"]
    p = rectified(crops, cells.detach())
    pred = sum(position_loss(p, arrays["gt_overlaps"], "nnssl"))
    reg = cell_regulariser(cells, "nnssl")
    return {"total": pred + reg, "pred": pred, "reg": reg}


def nnssl_norm(arrays: Arrays) -> Arrays:
    y = standardise_row(arrays["x"])
    return {"y": y, "layernorm": y}


def ntxent_libraries(arrays: Arrays) -> Arrays:
    temperature = float(arrays["hp_temperature"])
    loss = nt_xent(arrays["in_z1"], arrays["in_z2"], temperature=temperature)
    others = [name for name in arrays if name.startswith("out_")]
    return {"out_loss": loss, **dict.fromkeys(others, loss)}


def ntxent_nnssl(arrays: Arrays) -> Arrays:
    first, second = arrays["zi"], arrays["zj"]
    loss = nt_xent(first, second, temperature=float(arrays["temperature"]))
    both, places = torch.cat([first, second]), torch.arange(2 * len(first))
    ids = places % len(first)
    return {
        "loss": loss,
        "accuracy": accuracy(
            both, both, places.roll(len(first)), ids=ids, key_ids=ids, ties="right"
        ),
    }


def swinunetr_contrast(arrays: Arrays) -> Arrays:
    first, second = arrays["x"].chunk(2)
    return {"loss": nt_xent(first, second, temperature=float(arrays["temperature"]))}


def gradcache(arrays: Arrays) -> Arrays:
    """One linear layer for both sides, compared in one direction, its batch in parts."""
    model = Sides(arrays["in_W"], float(arrays["hp_temperature"]))
    batch = {"x": arrays["in_X"], "y": arrays["in_Y"]}
    loss, _ = cached_backward(model, batch, -(-len(batch["x"]) // int(arrays["hp_chunk"])))
    assert model.weight.grad is not None
    return {"out_loss": loss, "out_grad_W": model.weight.grad}


class Sides(nn.Module):
    def __init__(self, weight: Tensor, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = nn.Parameter(weight.clone()), temperature

    def embed(self, batch: Arrays) -> Arrays:
        return {name: x @ self.weight.T for name, x in batch.items()}

    def compare(self, embeddings: Arrays, batch: Arrays) -> tuple[Tensor, Arrays]:
        places = torch.arange(len(batch["x"]))
        who = {"ids": places, "key_ids": places, "temperature": self.temperature}
        return contrast(embeddings["x"], embeddings["y"], places, **who).mean(), {}


def focal_contrast_of(arrays: Arrays) -> Arrays:
    labels = arrays["in_soft"] if "in_soft" in arrays else arrays["in_labels"]
    return {"out_loss": focal_contrast(arrays["in_feat"], labels, float(arrays["hp_temperature"]))}


def core_tuning_mixtures(arrays: Arrays) -> Arrays:
    """The published mining takes any row with a cosine of 0 for the hardest positive.

    Of features that are nowhere negative it so mixes rows of other classes; those rows have to
    differ, and are left out of the comparison.
    """
    features, order = arrays["in_feat"], arrays["in_order"].long()
    labels = nn.functional.one_hot(arrays["in_labels"].long(), int(arrays["hp_num_classes"]))
    shares = arrays["in_lam_neg"].to(features), arrays["in_lam_pos"].to(features)
    rows, soft = hard_mixtures(features, labels.to(features), order, *shares)
    if bool((features >= 0).all()):
        n = 2 * len(features)
        assert (rows[n:] - arrays["out_feat"][n:]).abs().max() > 0.01
        rows = torch.cat([rows[:n], arrays["out_feat"][n:]])
        soft = torch.cat([soft[:n], arrays["out_soft"][n:]])
    return {"out_feat": rows, "out_soft": soft}


def schedules(arrays: Arrays) -> Arrays:
    total, warmup = int(arrays["voco_t_total"]), int(arrays["voco_warmup_steps"])
    epoch = int(arrays["alice_niter"])
    epochs, warm = int(arrays["alice_epochs"]), int(arrays["alice_warmup_epochs"])
    base, final = float(arrays["alice_base"]), float(arrays["alice_final"])
    nnssl, rate = int(arrays["nnssl_max_epochs"]), float(arrays["nnssl_initial_lr"])
    steps = [int(step) for step in arrays["voco_steps"]]
    factors = {
        "voco_lr_factor": [warmup_cosine(step, total, warmup) for step in steps],
        "alice_schedule": [
            warmup_cosine_between(step, epochs * epoch, warm * epoch, base, final)
            for step in range(epochs * epoch)
        ],
        "nnssl_poly_lr": [rate * polynomial(step, nnssl) for step in range(nnssl)],
    }
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in factors.items()}


def mae(arrays: Arrays) -> Arrays:
    shape = _triple(arrays["target"].shape[2:])
    blocks = arrays["mask_small"][:, 0] > 0
    block = _triple([n // m for n, m in zip(shape, blocks.shape[1:], strict=True)])
    visible = blocks_to_voxels(blocks, block, shape)
    mse, l1 = masked_errors(arrays["prediction"], arrays["target"], ~visible)
    return {"mse": mse, "l1": l1, "spark": mse, "mask": visible.to(mse)}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "coretuning_focal_": focal_contrast_of,
    "coretuning_mixup_": core_tuning_mixtures,
    "gradcache_": gradcache,
    "lightly_ntxentloss": ntxent_libraries,
    "mae_": mae,
    "monai_contrastive": ntxent_libraries,
    "nnssl_": nnssl_norm,
    "ntxent_": ntxent_libraries,
    "ntxent_nnssl_": ntxent_nnssl,
    "schedules": schedules,
    "swinunetr_": swinunetr_contrast,
    "voco_labels_": voco_labels,
    "voco_labels_nnssl_": voco_labels_nnssl,
    "voco_nnssl_": voco_nnssl,
    "voco_v0_": voco_v0,
    "voco_v1_": voco_v1,
    "voco_v2_": voco_v2,
    **adapters_mil.ADAPTERS,
    **volumetric.ADAPTERS,
}


def module_of(objective: str) -> str:
    """Full name of the module a family belongs to."""
    return f"medcl.{objective}" if "." in objective else f"medcl.objectives.{objective}"


def longest(name: str, beginnings: dict[str, object]) -> str | None:
    """The longest of `beginnings` that `name` starts with."""
    return max((b for b in beginnings if name.startswith(b)), key=len, default=None)


def _triple(values: object) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)  # type: ignore[attr-defined]
    return x, y, z
