"""The fine-tuning loss against a slow loop, and what it must not do."""

import math

import pytest
import torch
from torch import nn

from medcl.segmentation.model import IGNORED, Segmentation, dice_loss, one_hot


def slow_loss(logits: torch.Tensor, label: torch.Tensor, weight: float) -> float:
    probabilities = logits.softmax(1)
    total = weights = 0.0
    for b in range(logits.shape[0]):
        for v in range(logits.shape[2]):
            w = weight if label[b, v] > 0 else 1.0
            total -= w * math.log(float(probabilities[b, label[b, v], v]))
            weights += w
    dice = []
    for k in range(1, logits.shape[1]):
        if (label == k).any():
            overlap = sum(
                float(probabilities[b, k, v]) * float(label[b, v] == k)
                for b in range(logits.shape[0])
                for v in range(logits.shape[2])
            )
            size = float(probabilities[:, k].sum()) + float((label == k).sum())
            dice.append(2 * overlap / size)
    return total / weights + (1 - sum(dice) / len(dice) if dice else 0.0)


@pytest.mark.parametrize("classes_there", [[0, 1, 2], [0, 2], [0]])
def test_the_loss_is_dice_and_weighted_cross_entropy(classes_there: list[int]) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=rng)
    picks = torch.randint(len(classes_there), (2, 5), generator=rng)
    label = torch.tensor(classes_there)[picks]
    model = Segmentation(nn.Identity(), classes=2, foreground_weight=5.0)
    loss, terms = model({"image": logits, "label": label})
    assert loss.item() == pytest.approx(slow_loss(logits, label, 5.0), rel=1e-5)
    assert loss.item() == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-6)


def test_a_class_that_is_nowhere_gives_no_dice_gradient() -> None:
    probabilities = torch.full((1, 3, 4), 1 / 3, requires_grad=True)
    label = torch.tensor([[0, 1, 1, 0]])
    target = one_hot(label, probabilities)
    dice_loss(
        probabilities, target, over_batch=True, classes=torch.tensor([True, False])
    ).backward()
    assert probabilities.grad is not None
    assert probabilities.grad[:, 1].abs().sum() > 0
    assert probabilities.grad[:, 2].abs().sum() == 0


def test_a_batch_of_background_alone_is_defined() -> None:
    model = Segmentation(nn.Conv1d(1, 3, 1), classes=2, foreground_weight=5.0)
    loss, _ = model({"image": torch.zeros(1, 1, 4), "label": torch.zeros(1, 4, dtype=torch.uint8)})
    loss.backward()
    assert math.isfinite(loss.item())


def test_what_is_ignored_changes_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=rng)
    label = torch.randint(3, (2, 5), generator=rng)
    label[:, 3:] = IGNORED
    model = Segmentation(nn.Identity(), classes=2, foreground_weight=5.0)
    loss, _ = model({"image": logits, "label": label})
    assert loss.item() == pytest.approx(slow_loss(logits[..., :3], label[:, :3], 5.0), rel=1e-5)


def test_a_mixed_batch_is_measured_against_both_labels() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=rng)
    one, other = (torch.randint(3, (2, 5), generator=rng) for _ in range(2))
    share = torch.tensor([0.9, 0.6])
    model = Segmentation(nn.Identity(), classes=2, foreground_weight=1.0)
    batch = {"image": logits, "label": one, "other_label": other, "share": share}
    _, terms = model(batch)
    log_p = logits.log_softmax(1)
    expected = 0.0
    for b in range(2):
        for v in range(5):
            for weight, label in ((share[b], one), (1 - share[b], other)):
                expected -= float(weight * log_p[b, label[b, v], v]) / 10
    assert terms["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    whole = batch | {"share": torch.ones(2)}
    loss, _ = model(whole)
    assert loss.item() == pytest.approx(slow_loss(logits, one, 1.0), rel=1e-5)
