"""Adapters of global and local contrast, SepCLR, ProViCNet and Alice; see adapters.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from medcl.networks.attention import CrossAttention
from medcl.objectives.alice import alice_terms, moved_centre, teacher_temperature
from medcl.objectives.global_contrast import FORMS, Rows, contrast, pairs
from medcl.objectives.lesion_patches import lesion_shares, margin_losses, mine_pairs
from medcl.objectives.local_contrast import local_loss
from medcl.objectives.local_regions import cut, published_regions
from medcl.objectives.sepclr import (
    align,
    attribute_alignment,
    joint_entropy,
    separation,
    total,
    uniform,
)
from medcl.segmentation.model import dice_loss, one_hot
from medcl.views.slices import partition_slices

Arrays = dict[str, Tensor]

OBJECTIVE_OF = {
    "alice_b": "alice",
    "alice_casa_": "alice",
    "dscl_batch_layouts": "global_contrast",
    "dscl_dice_": "global_contrast",  # the loss of the fine-tuning that follows it
    "dscl_g": "global_contrast",
    "dscl_l": "local_contrast",
    "provicnet_cosine_": "lesion_patches",
    "provicnet_pairs_": "lesion_patches",
    "sepclr_": "sepclr",
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


def local(arrays: Arrays) -> Arrays:
    """Maps with the channels last; 12 slices are 3 volumes of 4 partitions."""
    maps = arrays["y"].movedim(-1, 1)
    regions = published_regions(
        maps.shape[2],
        region=3 if int(arrays["local_reg_size"]) else 1,
        negatives=int(arrays["n_neg_used"]),
        centres=int(arrays["no_of_local_regions"]) == 13,
    )
    vectors = cut(maps, regions)
    if arrays["W"].numel():
        vectors = vectors @ arrays["W"]
    row = torch.arange(len(maps))
    none = torch.zeros_like(row)
    if int(arrays["local_loss_exp_no"]) == 0:
        rows = Rows(row // 2, none, none, row % 2)
        loss, _ = local_loss(vectors, rows, regions.near, "lr", float(arrays["temperature"]))
    else:
        rows = Rows(none, row % 12 // 4, row % 4, row // 12)
        loss, _ = local_loss(vectors, rows, regions.near, "ld", float(arrays["temperature"]))
    corners = regions.corners
    points, near = corners[: len(regions.near)], corners[regions.near]
    return {
        "loss": loss,
        "loss_tf_graph_float64": loss,
        "im": points.max(),
        "pos_xy": points,
        # The files store all 5 neighbours of a point, also where fewer are used.
        "neg_xy": torch.cat([near, arrays["neg_xy"][:, near.shape[1] :]], 1),
    }


def sepclr(arrays: Arrays) -> Arrays:
    """A term without rows is 0 here and NaN there, and so is the total; the others are compared."""
    tau, target = float(arrays["tau"]), arrays["labels"] > 0
    terms = separation(
        (arrays["common1"], arrays["common2"]),
        (arrays["salient1"], arrays["salient2"]),
        target,
        tau,
    )
    weights = {
        "salient": "salient_term_beta",
        "null": "salient_reg_beta",
        "joint": "jem_lambda",
    }
    loss = total(terms, **{name: float(arrays[key]) for name, key in weights.items()})
    found = {"total": loss, **terms}
    found["salient_reg"], found["jem"] = found.pop("salient_null"), found.pop("joint")
    if target.all() or not target.any():
        empty = "salient_reg" if target.all() else "salient_align"
        assert float(found.pop(empty)) == 0
        assert torch.isfinite(found.pop("total"))
    return found


def sepclr_term(function: Callable[..., Tensor], *inputs: str) -> Callable[[Arrays], Arrays]:
    def call(arrays: Arrays) -> Arrays:
        return {"out_loss": function(*(arrays[name] for name in inputs), float(arrays["hp_tau"]))}

    return call


def margin(arrays: Arrays) -> Arrays:
    first, second = arrays["feature1"], arrays["feature2"]
    return {
        f"loss_{name}": margin_losses(
            first, second, torch.full((len(first),), kind), float(arrays["margin"])
        )
        for name, kind in (("positive", True), ("negative", False))
    }


def mining(arrays: Arrays) -> Arrays:
    """8x8 pixels a patch, thresholds in pixels, neighbours in the plane."""
    shares = lesion_shares(arrays["label_csPCa"].numpy() > 0, (1, 8, 8))
    thresholds = {name: float(arrays[name]) / 64 for name in ("upper", "lower")}
    found = {}
    for ending, distant in (("", False), ("_distant", True)):
        pairs_found = mine_pairs(shares, distant=distant, axes=(1, 2), **thresholds)
        names = ("anchors", "comparisons", "pair_labels")
        for name, values in zip(names, pairs_found, strict=True):
            found[name + ending] = torch.from_numpy(values)
    return found


def alice(arrays: Arrays) -> Arrays:
    """The same inputs in every step; only the centres move."""
    names = ("student_cls", "student_patch", "student_recon", "teacher_cls", "teacher_patch")
    given = {name: arrays[name].unflatten(0, (2, -1)) for name in names}
    student = {name: given[f"student_{name}"] for name in ("cls", "patch", "recon")}
    teacher = {name: given[f"teacher_{name}"] for name in ("cls", "patch")}
    images = torch.stack([arrays["images0"], arrays["images1"]])
    width = student["cls"].shape[-1]
    centres = {
        "cls": student["cls"].new_zeros(1, width),
        "patch": student["cls"].new_zeros(1, 1, width),
    }
    warm = float(arrays["teacher_temp"])
    if 0.008 <= warm <= 0.01:  # two files have a teacher of another temperature
        assert abs(teacher_temperature(int(arrays["epoch"]), 30) - warm) < 1e-9
    rows = []
    for _ in range(int(arrays["steps"])):
        temperatures = (float(arrays["student_temp"]), warm)
        terms = alice_terms(student, teacher, images, centres, temperatures)
        total_loss = terms["cls"] + terms["patch"] + terms["recon"]
        rows.append(torch.stack([terms["cls"], terms["patch"], terms["recon"], total_loss]))
        centres = {name: moved_centre(centre, teacher[name]) for name, centre in centres.items()}
    return {
        "outputs_cls_patch_recon_total_per_step": torch.stack(rows),
        "center_after": centres["cls"],
        "center2_after": centres["patch"],
    }


CASA_NAMES = {
    "query": "MH_attn__w_qs",
    "key": "MH_attn__w_ks",
    "value": "MH_attn__w_vs",
    "merge": "MH_attn__fc",
    "norm": "MH_attn__layer_norm",
    "widen": "pos_ffn__w_1",
    "narrow": "pos_ffn__w_2",
    "norm_out": "pos_ffn__layer_norm",
}


def casa(arrays: Arrays) -> Arrays:
    query = arrays["query"]
    hidden = len(arrays["w__Cross_Att__pos_ffn__w_1__weight"])
    block = CrossAttention(
        query.shape[-1], heads=int(arrays["n_head"]), size=int(arrays["d_k"]), hidden=hidden
    ).to(query.dtype)
    weights = {}
    for name in block.state_dict():
        module, part = name.rsplit(".", 1)
        weights[name] = arrays[f"w__Cross_Att__{CASA_NAMES[module]}__{part}"]
    block.load_state_dict(weights)
    return {
        "out_student": block(query, arrays["student_dec"]),
        "out_teacher": block(query, arrays["teacher_dec"]),
    }


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
    p, target = logits.softmax(1), one_hot(label, logits)
    return {
        "dice_with_bg": dice_loss(p, target, background=True),
        "dice_without_bg": dice_loss(p, target),
        "ce": F.cross_entropy(logits, label),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "alice_b": alice,
    "alice_casa_": casa,
    "dscl_batch_layouts": batch_layouts,
    "dscl_dice_": dice,
    "dscl_g": global_loss,
    "dscl_l": local,
    "provicnet_cosine_": margin,
    "provicnet_pairs_": mining,
    "sepclr_": sepclr,
    "sepclr_align": sepclr_term(align, "in_x", "in_y"),
    "sepclr_jem": sepclr_term(joint_entropy, "in_c", "in_s"),
    "sepclr_sup_align": sepclr_term(attribute_alignment, "in_x", "in_y"),
    "sepclr_uniform": sepclr_term(uniform, "in_x"),
}
