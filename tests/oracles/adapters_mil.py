"""Adapters of the aggregators of slides/mil; see adapters.py.

Weights of a file are put into the public class under its own names; the gradients of its loss are
compared as values. Binary methods of one output become two classes, the first with weights 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medcl.contrast.similarity import mean_over, nt_xent
from medcl.slides.mil.abmil import ABMIL
from medcl.slides.mil.clam import CLAM
from medcl.slides.mil.dsmil import DSMIL
from medcl.slides.mil.ins import INS
from medcl.slides.mil.ins_terms import falling, moved, own_key, same_class, soft_cross_entropy
from medcl.slides.mil.scmil import bag_contrast
from medcl.slides.mil.transmil import TransMIL

Arrays = dict[str, Tensor]
Names = dict[str, str]  # of the file -> of the class

OBJECTIVE_OF = {
    "abmil_": "slides.mil.abmil",
    "clam_": "slides.mil.clam",
    "dsmil_": "slides.mil.dsmil",
    "dsmil_ntxent": "contrast.similarity",
    "ins_": "slides.mil.ins",
    "scmil_": "slides.mil.scmil",
    "transmil_": "slides.mil.transmil",
}


def put(model: nn.Module, arrays: Arrays, names: Names) -> None:
    """Give `model` the weights `w.NAME`; every one of them has to have a place."""
    dtype = next(value.dtype for key, value in arrays.items() if key.startswith("w."))
    model.to(dtype)
    own = dict(model.named_parameters())
    for theirs, ours in names.items():
        assert own[ours].numel() == arrays[f"w.{theirs}"].numel()
        own.pop(ours).data = arrays[f"w.{theirs}"].detach().reshape(model.get_parameter(ours).shape)
    assert not own, f"without weights: {', '.join(own)}"


def gradients(model: nn.Module, names: Names) -> Arrays:
    """Gradients under the names of the file; 0 of what the loss does not use."""
    parameters = {theirs: model.get_parameter(ours) for theirs, ours in names.items()}
    return {
        f"g.{theirs}": torch.zeros_like(own) if own.grad is None else own.grad
        for theirs, own in parameters.items()
    }


def layers(theirs: str, ours: str) -> Names:
    """A layer's weight and bias."""
    return {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}


def one_bag(features: Tensor, label: object) -> Arrays:
    mask = torch.ones(1, features.shape[-2], dtype=torch.bool)
    return {"features": features.detach()[None], "mask": mask, "label": torch.tensor([int(label)])}


def abmil(arrays: Arrays) -> Arrays:
    """One sigmoid is two classes whose first logit is 0."""
    h, gated = arrays["H"], "w.attention_V.0.weight" in arrays
    if gated:
        names = layers("attention_V.0", "attend.value") | layers("attention_U.0", "attend.gate")
        names |= layers("attention_w", "attend.score")
    else:
        names = layers("attention.0", "attend.value") | layers("attention.2", "attend.score")
    width = len(arrays["w.attention_V.0.bias" if gated else "w.attention.0.bias"])
    model = ABMIL(h.shape[1], 2, gated=gated, attention=width, width=None)
    own = layers("classifier.0", "classifier")
    weights = dict(arrays)
    for name in own:
        stored = arrays[f"w.{name}"]
        weights[f"w.{name}"] = torch.cat([torch.zeros_like(stored), stored])
    put(model, weights, names | own)
    loss, _ = model(one_bag(h, 1))
    loss.backward()
    found = gradients(model, names | own)
    for name in own:
        found[f"g.{name}"] = found[f"g.{name}"][1:]
    other, _ = model(one_bag(h, 0))
    bag = one_bag(h, 1)
    prediction = model.predict(bag["features"], bag["mask"], chunk=4)
    prob = prediction.probabilities[:, 1:]
    return {
        "nll_y1": loss[None, None],
        "nll_y0": other[None, None],
        "attention": prediction.attention,
        "bag": model.pooled(bag).bag,
        "prob": prob,
        "y_hat": (prob >= 0.5).float(),
        **found,
    }


def clam(arrays: Arrays) -> Arrays:
    h, label, classes = arrays["h"], int(arrays["label"]), int(arrays["n_classes"])
    multi = "w.classifiers.0.weight" in arrays
    names = layers("attention_net.0", "embed.0")
    parts = {"attention_a.0": "value", "attention_b.0": "gate", "attention_c": "score"}
    for theirs, ours in parts.items():
        names |= layers(f"attention_net.3.{theirs}", f"attend.{ours}")
    for c in range(classes):
        names |= layers(f"instance_classifiers.{c}", f"instance_classifiers.{c}")
    weights = dict(arrays)
    if multi:
        for part in ("weight", "bias"):
            each = [arrays[f"w.classifiers.{c}.{part}"] for c in range(classes)]
            weights[f"w.classifiers.{part}"] = torch.cat(each)
    model = CLAM(
        h.shape[1],
        classes,
        branches="multi" if multi else "single",
        subtyping=bool(arrays["subtyping"]),
        instances=int(arrays["k_sample"]),
        bag_weight=float(arrays["bag_weight"]),
        width=len(arrays["w.attention_net.0.bias"]),
        attention=len(arrays["w.attention_net.3.attention_a.0.bias"]),
        dropout=0.0,
    )
    names |= layers("classifiers", "classifier")
    put(model, weights, names)
    batch = one_bag(h, label)
    loss, terms = model(batch)
    loss.backward()
    found = gradients(model, names)
    if multi:
        for part in ("weight", "bias"):
            joined = found.pop(f"g.classifiers.{part}")
            found |= {f"g.classifiers.{c}.{part}": joined[c : c + 1] for c in range(classes)}
    embedded = model.embed(h)
    scores = model.attend(embedded[None])[0]
    chosen = model.choose(embedded, scores, label)
    prediction = model.predict(batch["features"], batch["mask"], chunk=4)
    bag = scores.softmax(0).T @ embedded
    return {
        "total_loss": loss,
        "bag_loss": terms["bag_loss"],
        "instance_loss": terms["instance_loss"],
        "logits": model.bag_logits(bag[None]),
        "prob": prediction.probabilities,
        "y_hat": prediction.probabilities.argmax(1, keepdim=True),
        "attention_raw": scores.T,
        "bag_features": bag,
        "inst_labels": torch.cat([targets for _, targets in chosen]),
        "inst_preds": torch.cat([logits.argmax(1) for logits, _ in chosen]),
        **found,
    }


def dsmil(arrays: Arrays) -> Arrays:
    h, targets = arrays["feats"], arrays["label"]
    outputs, value = targets.shape[1], "w.b_classifier.v.1.weight" in arrays
    nonlinear = "w.b_classifier.q.2.weight" in arrays
    query = len(arrays["w.b_classifier.q.0.bias" if nonlinear else "w.b_classifier.q.bias"])
    model = DSMIL(
        h.shape[1],
        max(2, outputs),
        negative_class=outputs == 1,
        query=query,
        nonlinear=nonlinear,
        value=value,
    )
    names = layers("i_classifier.fc.0", "instance_classifier")
    names |= layers("b_classifier.fcc", "bag_classifier")
    if nonlinear:
        names |= layers("b_classifier.q.0", "query.0") | layers("b_classifier.q.2", "query.2")
    else:
        names |= layers("b_classifier.q", "query")
    if value:
        names |= layers("b_classifier.v.1", "value.1")
    put(model, arrays, names)
    bag = one_bag(h, targets.argmax(1) + (outputs == 1))
    streams = model.streams(bag["features"], bag["mask"])
    bag_loss, max_loss = model.losses(streams, targets)
    loss, _ = model(bag)
    if float(targets.sum()) == 1:  # one class, as forward takes it
        torch.testing.assert_close(loss, (bag_loss + max_loss)[0] / 2)
    total = (bag_loss + max_loss)[0] / 2
    total.backward()
    found = gradients(model, names)
    kernel = "g.b_classifier.fcc.weight"
    found[kernel] = found[kernel].view(outputs, outputs, -1)
    return {
        "total_loss": total,
        "bag_loss": bag_loss[0],
        "max_loss": max_loss[0],
        "instance_logits": streams.instance_logits[0],
        "critical_index": streams.critical[0],
        "max_logits": streams.max_logits[0],
        "attention": streams.attention[0],
        "bag_repr": streams.bag,
        "bag_logits": streams.bag_logits,
        **found,
    }


def dsmil_ntxent(arrays: Arrays) -> Arrays:
    temperature = float(arrays["temperature"])
    return {"loss": nt_xent(arrays["zis"], arrays["zjs"], temperature=temperature)}


def transmil(arrays: Arrays) -> Arrays:
    """The weights of all files of the family lie in one of them."""
    data = arrays["data"]
    with np.load(Path(__file__).with_name("transmil_n10.npz")) as stored:
        weights = {
            name: torch.from_numpy(stored[name]).to(data)
            for name in stored.files
            if name.startswith("w.")
        }
    dim = int(arrays["dim"])
    model = TransMIL(
        data.shape[2],
        len(weights["w._fc2.bias"]),
        width=dim,
        heads=int(arrays["heads"]),
        landmarks=int(arrays["num_landmarks"]),
    ).eval()
    names = {"cls_token": "token"}
    names |= layers("_fc1.0", "embed.0") | layers("_fc2", "classifier")
    for place, kernel in enumerate(("proj", "proj1", "proj2")):
        names |= layers(f"pos_layer.{kernel}", f"position.{place}")
    for place, norm in enumerate(("layer1.norm", "layer2.norm", "norm")):
        names |= layers(norm, f"norms.{place}")
    for place in (0, 1):
        theirs, ours = f"layer{place + 1}.attn", f"layers.{place}"
        names[f"{theirs}.to_qkv.weight"] = f"{ours}.project.weight"
        names[f"{theirs}.res_conv.weight"] = f"{ours}.values.weight"
        names |= layers(f"{theirs}.to_out.0", f"{ours}.merge.0")
    put(model, weights, names)
    mask = torch.ones(data.shape[:2], dtype=torch.bool)
    return {
        "logits": model.bag(data[0])[0][None],
        "prob": model.predict(data, mask).probabilities,
    }


def scmil(arrays: Arrays) -> Arrays:
    """Both means of the same sum, at each temperature of the file."""
    found = {}
    for name in arrays:
        if name.startswith("n_valid_tau"):
            tau = name.removeprefix("n_valid_tau")
            losses, counted = bag_contrast(arrays["z"], arrays["y"], float(tau))
            found[f"loss_mean_over_valid_tau{tau}"] = mean_over(losses, counted)
            found[f"loss_mean_over_all_tau{tau}"] = losses.mean()
            found[name] = counted.sum()
    return found


def ins_supcon(arrays: Arrays) -> Arrays:
    classes, queries = arrays["pseudo_label_all"], int(arrays["batch_size"])
    there = torch.ones_like(classes, dtype=torch.bool)
    tau, found = float(arrays["temperature"]), {}
    for name in ("supcon", "moco"):
        rows = arrays["features"].clone().requires_grad_()
        if name == "supcon":
            loss = same_class(rows, classes, there, queries, tau)
        else:
            loss = own_key(rows, there, queries, tau)
        (found[f"grad_{name}"],) = torch.autograd.grad(loss, rows)
        found[f"loss_{name}"] = loss
    return found


def ins_pseudolabel(arrays: Arrays) -> Arrays:
    """phi as the authors' code uses it: of the epoch before, and its last value at first."""
    first, last = float(arrays["phi_start"]), float(arrays["phi_end"])
    labels, phi = arrays["conf_init"], last
    used, after, losses = [], [], []
    for epoch in arrays["epochs_called"].tolist():
        losses.append(soft_cross_entropy(arrays["logits"], labels).mean())
        labels = moved(labels, arrays["score_prot"], arrays["candidate_Y"], phi)
        used.append(phi)
        after.append(labels)
        phi = falling(epoch, int(arrays["total_epochs"]), first, last)
    return {
        "conf_after": torch.stack(after),
        "ce_loss_before_update": torch.stack(losses),
        "phi_used": torch.tensor(used, dtype=torch.float64),
        "phi_final": torch.tensor(phi, dtype=torch.float64),
    }


INS_LAYERS = {"encoder": "encoder.0", "head.0": "projector.0", "head.2": "projector.2"}


def ins_step(arrays: Arrays) -> Arrays:
    """Three steps of a student at rest; the teacher moves before the keys of each."""
    features, width = arrays["encq.encoder.weight"].shape[::-1]
    queue, projection = arrays["queue0"].shape
    model = INS(
        features,
        2,
        width=width,
        layers=0,
        projection=projection,
        momentum=float(arrays["moco_m"]),
        temperature=float(arrays["temperature"]),
        queue=queue,
    ).to(arrays["queue0"].dtype)
    parts = {f"{a}.{p}": f"{b}.{p}" for a, b in INS_LAYERS.items() for p in ("weight", "bias")}
    for theirs, ours in (parts | layers("fc", "classifier")).items():
        model.get_parameter(ours).data = arrays[f"encq.{theirs}"].clone()
    for theirs, ours in parts.items():
        place = {"encoder": "copies.0", "projector": "copies.1"}[ours.split(".")[0]]
        name = f"teacher.{place}.{ours.split('.', 1)[1]}"
        model.get_parameter(name).data = arrays[f"enck.{theirs}"].clone()
    model.queue.keys = torch.cat([arrays["queue0"], arrays["queue_pseudo0"]], dim=1)
    model.queue.ids.zero_()
    model.prototypes = arrays["prototypes0"]
    found = {}
    model.teacher.update()
    for step in range(sum(name.endswith(".x_query") for name in arrays)):
        views = arrays[f"s{step}.x_query"], arrays[f"s{step}.x_key"]
        seen = model.see(*views, arrays[f"s{step}.Y"])
        rows, scores, _ = model.compared(seen)
        weight = model.get_parameter("teacher.copies.1.2.weight").clone()
        losses = model.same_class_loss(seen), model.own_key_loss(seen)
        model.remember(seen)
        keys, kept = model.queue.keys.split([projection, 2], dim=1)
        values = {
            "loss_supcon": losses[0],
            "loss_moco": losses[1],
            "logits": seen.logits,
            "features": rows,
            "pseudo_scores": scores,
            "score_prot": seen.prototype_scores,
            "prototypes_after": model.prototypes,
            "queue_after": keys,
            "queue_pseudo_after": kept,
            "queue_ptr_after": model.queue.place[None],
            "key_head2_weight_after": weight,
        }
        found |= {f"s{step}.{name}": value for name, value in values.items()}
    return found


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "abmil_": abmil,
    "clam_": clam,
    "dsmil_c": dsmil,
    "dsmil_ntxent": dsmil_ntxent,
    "ins_pseudolabel": ins_pseudolabel,
    "ins_step": ins_step,
    "ins_supcon": ins_supcon,
    "scmil_": scmil,
    "transmil_": transmil,
}
