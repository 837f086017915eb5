"""Adapters of global and local contrast, SepCLR, ProViCNet and Alice; see adapters.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from medcl.objectives.global_contrast import FORMS, Rows, contrast, pairs
from medcl.segmentation.model import dice_loss
from medcl.views.slices import partition_slices

Arrays = dict[str, Tensor]

OBJECTIVE_OF = {
    "dscl_batch_layouts": "global_contrast",
    "dscl_dice_": "global_contrast",  # the loss of the fine-tuning that follows it
    "dscl_g": "global_contrast",
}

GLOBAL_FORMS = {0: "gr", 1: "gd-", 2: "gd", 4: "gd-alt"}


def global_loss(arrays: Arrays) -> Arrays:
    """Rows in the batch order of the authors' code; the stride of 4 where it differs from P."""
    form = GLOBAL_FORMS[int(arrays["global_loss_exp_no"])]
    z, parts = arrays["z"], int(arrays["n_parts"])
    views, row = FORMS[form][0], torch.arange(len(z))
    images = len(z) // views
    if form == "gr":
        image, view = row // views, row % views
    elif form == "gd-":
        image, view = row % images, row // images
    else:
        block = row // parts
        image, view = block // views * parts + row % parts, block % views
    rows = Rows(torch.zeros_like(row), image // parts, image % parts, view)
    odd = form == "gd-" and (parts != 4 or images % parts != 0)
    terms = pairs(rows, form, compat="stride4" if odd else None)
    loss, _, _ = contrast(z, terms, float(arrays["temperature"]))
    return {"loss": loss, "loss_tf_graph_float64": loss}


def batch_layouts(arrays: Arrays) -> Arrays:
    """Where the code draws from S slices of 4 partitions, for S that 4 divides; ours has no blanks.

    For other S the last slices, which the code never draws, belong to a partition too.
    """
    found = {}
    for count in (4, 5, 8, 9, 10, 11):
        ranges = partition_slices(count, 4)
        assert [s for part in ranges for s in part] == list(range(count))
        for name, slices in (
            ("min", [part[0] for part in ranges]),
            ("max", [part[-1] for part in ranges]),
        ):
            stored = arrays[f"sampler_S{count}_{name}"]
            ours = torch.tensor(slices).repeat(len(stored) // 4).to(stored)
            if count % 4 == 0:
                found[f"sampler_S{count}_{name}"] = torch.where(stored < 0, stored, ours)
    return found


def dice(arrays: Arrays) -> Arrays:
    logits = arrays["logits_nhwc"].movedim(-1, 1)
    label = arrays["labels_onehot_nhwc"].argmax(-1)
    p = logits.softmax(1)
    return {
        "dice_with_bg": dice_loss(p, label, background=True),
        "dice_without_bg": dice_loss(p, label),
        "ce": F.cross_entropy(logits, label),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "dscl_batch_layouts": batch_layouts,
    "dscl_dice_": dice,
    "dscl_g": global_loss,
}
