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
from oracles import volumetric
from torch import Tensor

from medcl.objectives.mae import blocks_to_voxels, masked_errors
from medcl.objectives.voco import cell_regulariser, position_logits, position_loss
from medcl.views.crops import box_at, grid_boxes, overlap_fractions

Arrays = dict[str, Tensor]

# Beginning of the file names -> module of the objective below medcl.objectives. The longest counts.
OBJECTIVE_OF = {
    "abmil_": "abmil",
    "cacr_": "cacr",
    "clam_": "clam",
    "clip_": "clip",
    "cliprocket_": "clip",
    "coca_": "coca",
    "contrastive_gap_": "clip",
    "coretuning_": "coretuning",
    "dcl_": "dcl",
    "dclw_": "dcl",
    "dsmil_": "dsmil",
    "gradcache_": "clip",
    "halp_": "halp",
    "hydra_": "hydra",
    "ins_": "ins",
    "interclr_": "interclr",
    "lightly_": "lightly_losses",
    "mae_": "mae",
    "mcl_": "mcl",
    "mindeye_": "mindeye",
    "mochi_": "mochi",
    "monai_": "lightly_losses",
    "multiview_": "multiview",
    "nnssl_": "voco_nnssl",
    "ntxent_": "ntxent",
    "obow_": "obow",
    "pixpro_": "pixpro",
    "pml_": "lightly_losses",
    "protoclip_": "protoclip",
    "schedules": "voco_v2",
    "scmil_": "scmil",
    "siglip_": "siglip",
    "slotcon_": "slotcon",
    "swav_": "swav",
    "swinunetr_": "swinunetr",
    "tcl_": "tcl",
    "transmil_": "transmil",
    "velvet_": "velvet",
    "voco_labels_": "voco",
    "voco_nnssl_": "voco_nnssl",
    "voco_v0_": "voco_v0",
    "voco_v1_": "voco",
    "voco_v2_": "voco_v2",
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


def mae(arrays: Arrays) -> Arrays:
    shape = _triple(arrays["target"].shape[2:])
    blocks = arrays["mask_small"][:, 0] > 0
    block = _triple([n // m for n, m in zip(shape, blocks.shape[1:], strict=True)])
    visible = blocks_to_voxels(blocks, block, shape)
    mse, l1 = masked_errors(arrays["prediction"], arrays["target"], ~visible)
    return {"mse": mse, "l1": l1, "spark": mse, "mask": visible.to(mse)}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "mae_": mae,
    "voco_labels_": voco_labels,
    "voco_labels_nnssl_": voco_labels_nnssl,
    "voco_v1_": voco_v1,
    **volumetric.ADAPTERS,
}


def longest(name: str, beginnings: dict[str, object]) -> str | None:
    """The longest of `beginnings` that `name` starts with."""
    return max((b for b in beginnings if name.startswith(b)), key=len, default=None)


def _triple(values: object) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)  # type: ignore[attr-defined]
    return x, y, z
