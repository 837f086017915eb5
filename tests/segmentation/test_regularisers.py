"""Core-tuning against a slow loop; its oracles are in tests/test_oracles.py."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medcl.networks.base import Network
from medcl.segmentation.model import Segmentation
from medcl.segmentation.regularisers import CoreTuning, focal_contrast, hard_mixtures


def test_focal_contrast_is_the_sum_over_positives() -> None:
    unit = F.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = [0, 1, 0, 2, 0]
    total, anchors = 0.0, 0
    for i in range(5):
        others = [k for k in range(5) if k != i]
        bottom = sum(math.exp(float(unit[i] @ unit[k]) / 0.1) for k in others)
        positives = [k for k in others if labels[k] == labels[i]]
        anchors += bool(positives)
        for k in positives:
            p = math.exp(float(unit[i] @ unit[k]) / 0.1) / bottom
            total += (1 - p) * -math.log(p) / 5
    found = focal_contrast(unit, torch.tensor(labels), 0.1)
    assert found.item() == pytest.approx(total / anchors, rel=1e-5)


def test_rows_without_any_positive_give_zero_with_a_gradient() -> None:
    unit = torch.eye(3, requires_grad=True)
    loss = focal_contrast(unit, torch.arange(3), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert unit.grad is not None


def test_the_hardest_positive_of_features_above_zero_is_of_the_own_class() -> None:
    features = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    labels = F.one_hot(torch.tensor([0, 0, 0, 1, 1, 1]), 2).float()
    order = torch.arange(6)
    rows, soft = hard_mixtures(features, labels, order, torch.ones(6), torch.ones(6))
    cosine = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T
    for i in range(6):
        mates = [k for k in range(6) if k != i and k // 3 == i // 3]
        hardest = min(mates, key=lambda k: float(cosine[i, k]))
        torch.testing.assert_close(rows[12 + i], features[hardest])
        assert torch.equal(soft[12 + i], labels[i])


class Pointwise(Network):
    """The smallest network: one level of pointwise convolutions."""

    def __init__(self) -> None:
        super().__init__(1, [(1, 1, 1)], [4])
        self.down, self.head = nn.ModuleList([nn.Conv3d(1, 4, 1)]), nn.Conv3d(4, 3, 1)


def test_core_tuning_reaches_the_encoder_and_leaves_ignored_voxels_out() -> None:
    torch.manual_seed(0)
    network = Pointwise()
    model = Segmentation(
        network, classes=2, foreground_weight=1.0, core_tuning=CoreTuning(4), core_weight=1.0
    )
    label = torch.randint(0, 3, (2, 3, 3, 3))
    label[0] = 255
    image = torch.randn(2, 1, 3, 3, 3)
    torch.manual_seed(1)
    loss, terms = model({"image": image, "label": label})
    assert {"core_contrast", "core_mixed"} <= terms.keys()
    loss.backward()
    assert network.down[0].weight.grad.abs().sum() > 0
    other = image.clone()
    other[0] = 100.0
    torch.manual_seed(1)
    again, _ = model({"image": other, "label": label})
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)
