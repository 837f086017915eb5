r"""INS: a classifier of instances, learnt from labels of bags by contrast and prototypes.

An instance x of a bag of class b may be of class 0 (the negative one) or of b: candidates Y. Two
changed views x_w, x_s; encoder f, classifier g, projector h with unit output, of which a teacher
with momentum m makes the keys.

    o = g(f(x_w)), q = h(f(x_w)), k = teacher's h(f(x_s)), p = softmax(o) * Y, yhat = argmax p
    r = softmax(q . mu)                                          scores of the prototypes mu_c
    mu_yhat <- 0.9 mu_yhat + 0.1 q, row after row of the batch; then mu <- mu / |mu|
    z = onehot(argmax(r * Y)),  s <- phi s + (1 - phi) z          s is [1, 0] in negative bags
    L_cls = -mean sum_c s_c log softmax(o)_c
    A = [q; k; queue],  P(i) = rows of A other than i with i's argmax p,  tau = 0.07
    L_con = -mean_i 1/|P(i)| sum_{j in P(i)} log( exp(q_i.a_j/tau) / sum_{l != i} exp(q_i.a_l/tau) )
    L     = L_cls + 0.5 L_con + L_bag,   L_bag = CE of the mean of o over a bag's attention

phi goes from 0.95 to 0.8. Pseudo-labels are worth nothing before the classifier tells anything: for
the first `warm_steps` steps every instance is taught its bag's label, L_con has the own key as its
positive and the queue as its negatives, and there is no L_bag. At their end the training fails with
a message if the classifier still calls nearly all instances of positive bags positive and most of
those of negative bags too (or no instance at all): both prototypes would then be the same.

Source: Qu, Ma, Luo, Guo, Wang, Song, "Rethinking Multiple Instance Learning for Whole Slide Image
Classification: A Good Instance Classifier is All You Need", IEEE TCSVT, arXiv:2307.02249. There:
m = 0.999, queue 8192, SGD with momentum 0.9, learning rate 0.01, batches of 64 instances.

Differs from the paper: several classes, of which 0 is negative; views of stored features are those
features with some set to 0; L_bag is part of every step instead of steps of its own.
Differs from the authors' code: the phase of bag labels is given in steps, with the check above,
and by default is half of them, 1000 at most (on features of TCGA theirs is 20 of 45 epochs); in it
the instances of each class weigh equally, because else the negative instances of positive
bags are called positive wherever positive bags are frequent; the queue starts empty and not with
noise; phi is this step's, not the last epoch's; the bag's head pools logits, where theirs takes a
softmax twice. Trained on one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.config import Count, Positive, Share
from medcl.contrast.gather import world
from medcl.contrast.queue import Queue
from medcl.contrast.similarity import full, unit
from medcl.contrast.sphere import alignment, collapse_terms
from medcl.contrast.teacher import Teacher
from medcl.errors import MedclError, TrainingFailed
from medcl.slides.mil.attention import Attention
from medcl.slides.mil.base import (
    Aggregator,
    BagPrediction,
    Batch,
    Terms,
    masked_softmax,
    weighted_sum,
)
from medcl.slides.mil.ins_terms import (
    candidates,
    counts_called,
    equal_shares,
    falling,
    follow,
    moved,
    own_key,
    same_class,
    soft_cross_entropy,
    start,
    uncalibrated,
)

FORGETTING = 0.99  # of the shares of instances called positive, a step
MOST_WARM_STEPS = 1000  # of which `warm_steps: null` is never more


class Seen(NamedTuple):
    """What a step sees of M instances: logits (M, C), queries and keys (M, P), scores p and
    prototype_scores r (M, C).
    """

    logits: Tensor
    queries: Tensor
    keys: Tensor
    scores: Tensor
    prototype_scores: Tensor


class Pending(NamedTuple):
    """What `after_step` remembers of a step; `labels` is None while bag labels are taught."""

    seen: Seen
    called: Tensor
    instance: Tensor
    labels: Tensor | None


class INS(Aggregator):
    """Instance-level weakly supervised contrast; see the module's text.

    width: features of f
    layers: hidden layers of f, each of `width` with a ReLU; 0 is a linear map
    projection: features of q and k
    attention: width of the attention that pools a bag's logits; null takes their mean
    warm_steps: steps in which instances are taught their bag's label; null is half of all steps,
        and 1000 at most
    momentum: of the teacher
    temperature: tau
    queue: keys of earlier steps
    contrast_weight: weight of L_con
    bag_weight: weight of L_bag
    smoothing: phi at the first step and at the last
    view_dropout: share of a view's features that are set to 0
    """

    balanced = True
    labels: Tensor
    prototypes: Tensor
    called: Tensor
    step: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        class_weights: Sequence[float] | None = None,
        *,
        width: Count = 512,
        layers: Annotated[int, Field(ge=0)] = 1,
        projection: Count = 128,
        attention: Count | None = 128,
        warm_steps: Count | None = None,
        momentum: Share = 0.999,
        temperature: Positive = 0.07,
        queue: Count = 8192,
        contrast_weight: Annotated[float, Field(ge=0)] = 0.5,
        bag_weight: Annotated[float, Field(ge=0)] = 1.0,
        smoothing: tuple[Share, Share] = (0.95, 0.8),
        view_dropout: Share = 0.1,
    ) -> None:
        super().__init__(features, classes, class_weights)
        hidden: list[nn.Module] = []
        for layer in range(layers):
            hidden += [nn.Linear(width if layer else features, width), nn.ReLU(inplace=True)]
        self.encoder = nn.Sequential(*hidden, nn.Linear(width if layers else features, width))
        self.classifier = nn.Linear(width, classes)
        self.projector = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, projection)
        )
        self.attend = Attention(width, attention) if attention else None
        self.teacher = Teacher(self.encoder, self.projector, momentum=momentum)
        self.queue = Queue(queue, projection + classes)
        self.register_buffer("prototypes", torch.zeros(classes, projection))
        self.register_buffer("labels", torch.zeros(0, classes))
        self.register_buffer("called", torch.zeros(2, 2))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.given_warm_steps, self.warm_steps = warm_steps, 0
        self.temperature, self.smoothing = temperature, smoothing
        self.contrast_weight, self.bag_weight = contrast_weight, bag_weight
        self.view_dropout = view_dropout
        self.steps = 0
        self.pending: Pending | None = None

    def begin(self, steps: int, instances: int) -> None:
        """Make room for the soft label of every instance."""
        half = max(1, min(MOST_WARM_STEPS, steps // 2))
        self.warm_steps = self.given_warm_steps or half
        if steps <= self.warm_steps:
            raise MedclError(
                f"INS: {steps} steps, of which `warm_steps` {self.warm_steps} teach bag labels: "
                "none is left for pseudo-labels; train longer, or lower `warm_steps`"
            )
        if world() > 1:
            raise MedclError("INS: soft labels are kept in one process; train it on one device")
        self.steps = steps
        self.labels = self.labels.new_full((instances, self.classes), -1.0)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        if not self.steps:
            raise MedclError("INS: call `begin` first: soft labels are kept by instance")
        mask, label = batch["mask"], batch["label"]
        rows = batch["features"][mask].to(self.prototypes.dtype)
        of_bag = label[:, None].expand_as(mask)[mask]
        instance = batch["instance"][mask]
        allowed = candidates(of_bag, self.classes)
        seen = self.see(self._view(rows), self._view(rows), allowed)
        weights = self.class_weights.to(seen.logits)[of_bag]
        warm = int(self.step) < self.warm_steps
        labels = None
        bag_loss = rows.new_zeros(())
        if warm:
            targets = F.one_hot(of_bag, self.classes).to(seen.logits)
            weights = weights * equal_shares(of_bag, self.classes).to(weights)
            contrasted = self.own_key_loss(seen)
        else:
            before = torch.where(self.labels[instance] < 0, start(allowed), self.labels[instance])
            labels = targets = moved(before, seen.prototype_scores, allowed, self.phi())
            contrasted = self.same_class_loss(seen)
            bag_loss = self.bag_loss(batch)
        cls_loss = (weights * soft_cross_entropy(seen.logits, targets)).mean()
        called = torch.stack([seen.logits.argmax(1) > 0, of_bag > 0]).detach()
        self.pending = Pending(Seen(*(value.detach() for value in seen)), called, instance, labels)
        loss = cls_loss + self.contrast_weight * contrasted + self.bag_weight * bag_loss
        return loss, self._terms(seen, warm, cls_loss, contrasted, bag_loss)

    def see(self, weak: Tensor, strong: Tensor, allowed: Tensor) -> Seen:
        """Pass two views (M, D) of instances with candidates (M, C) through student and teacher."""
        h = self.encoder(weak)
        logits, queries = full(self.classifier(h)), unit(self.projector(h))
        encoder, projector = self.teacher.copies
        with torch.no_grad():
            keys = unit(projector(encoder(strong)))
            scores = logits.softmax(1) * allowed
            prototype_scores = (queries @ self.prototypes.T).softmax(1)
        return Seen(logits, queries, keys, scores, prototype_scores)

    def compared(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of A, their scores p, and which of them are there."""
        kept, scores = self.queue.keys.split([seen.queries.shape[1], self.classes], dim=1)
        rows = torch.cat([seen.queries, seen.keys, kept])
        there = torch.ones(2 * len(seen.keys), dtype=torch.bool, device=rows.device)
        return (
            rows,
            torch.cat([seen.scores, seen.scores, scores]),
            torch.cat([there, self.queue.ids >= 0]),
        )

    def same_class_loss(self, seen: Seen) -> Tensor:
        """L_con once there are pseudo-labels."""
        rows, scores, there = self.compared(seen)
        return same_class(rows, scores.argmax(1), there, len(seen.queries), self.temperature)

    def own_key_loss(self, seen: Seen) -> Tensor:
        """L_con before there are."""
        rows, _, there = self.compared(seen)
        return own_key(rows, there, len(seen.queries), self.temperature)

    def phi(self) -> float:
        """Of this step."""
        first, last = self.smoothing
        done = int(self.step) - self.warm_steps
        return falling(done, max(1, self.steps - self.warm_steps), first, last)

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        """Shares (B, N, 1) of the instances of bags in the bag's logits, from f's (B, N, E)."""
        scores = self.attend(h) if self.attend else torch.zeros_like(h[..., :1])
        return masked_softmax(scores, mask)

    def bag_loss(self, batch: Batch) -> Tensor:
        """L_bag, of the unchanged features."""
        (features,) = self.pieces(batch["features"], None)
        h = self.encoder(features)
        logits = self.classifier(weighted_sum(self.pooled(h, batch["mask"]), h)[:, 0])
        return self.cross_entropy(logits, batch["label"])

    def after_step(self) -> None:
        """Remember the step and its soft labels; check the classifier when the others begin."""
        assert self.pending is not None
        seen, called, instance, labels = self.pending
        self.pending = None
        self.remember(seen)
        if labels is not None:
            self.labels = self.labels.index_copy(0, instance, labels.to(self.labels))
        self.called = FORGETTING * self.called + counts_called(*called).to(self.called)
        self.step += 1
        if int(self.step) == self.warm_steps:
            self._check_calibration()

    def remember(self, seen: Seen) -> None:
        """Move the prototypes, fill the queue, and let the teacher follow."""
        classes = seen.scores.argmax(1)
        self.prototypes = follow(self.prototypes, seen.queries.detach(), classes)
        self.queue.push(torch.cat([seen.keys, seen.scores], dim=1), torch.zeros_like(classes))
        self.teacher.update()

    def infer(self, features: Tensor, mask: Tensor, chunk: int | None) -> BagPrediction:
        def scored(x: Tensor) -> Tensor:
            h = self.encoder(x)
            extra = self.attend(h) if self.attend else torch.zeros_like(h[..., :1])
            return torch.cat([self.classifier(h), extra], dim=2)

        logits, scores = self.by_instance(scored, features, chunk).split([self.classes, 1], dim=2)
        attention = masked_softmax(scores, mask)
        bag = weighted_sum(attention, logits)[:, 0]
        return BagPrediction(bag.softmax(1), attention[..., 0], logits.softmax(2))

    def _view(self, rows: Tensor) -> Tensor:
        return F.dropout(rows, self.view_dropout) if self.view_dropout else rows

    def _terms(
        self, seen: Seen, warm: bool, cls_loss: Tensor, contrasted: Tensor, bag_loss: Tensor
    ) -> Terms:
        called = self._shares_called()
        apart = F.cosine_similarity(self.prototypes[0], self.prototypes[1:]).max()
        return {
            "instance_loss": cls_loss.detach(),
            "contrast": contrasted.detach(),
            "bag_loss": bag_loss.detach(),
            "bag_labels": float(warm),
            "called_positive_in_negative_bags": called[0],
            "called_positive_in_positive_bags": called[1],
            "prototype_cosine": apart,
            "alignment": alignment(seen.queries, seen.keys),
            **collapse_terms(seen.queries),
        }

    def _shares_called(self) -> Tensor:
        """Of the instances of negative and of positive bags, those called positive; lately."""
        return self.called[:, 1] / self.called.sum(1).clamp_min(torch.finfo(torch.float32).tiny)

    def _check_calibration(self) -> None:
        in_negative, in_positive = (float(share) for share in self._shares_called())
        if problem := uncalibrated(in_negative, in_positive):
            raise TrainingFailed(
                f"INS: after {self.warm_steps} steps of bag labels the classifier calls "
                f"{in_positive:.0%} of the instances of positive bags positive and "
                f"{in_negative:.0%} of those of negative bags: {problem}; raise `warm_steps`, or "
                "look at the features"
            )

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # There are as many soft labels as the training had instances.
        stored = state.get(f"{prefix}labels")
        if stored is not None:
            self.labels = torch.empty_like(stored, device=self.labels.device)
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[no-untyped-call]
