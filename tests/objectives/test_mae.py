import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives.small import network, stored

from medcl.errors import MedclError
from medcl.objectives import mae
from medcl.objectives.mae import (
    MAE,
    MAEViews,
    blocks_to_voxels,
    draw_blocks,
    hidden_variance,
    masked_errors,
)

CROP = (8, 8, 8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(objective, volume, items=2, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [objective.views.crop((volume,), rng) for _ in range(items)]
    batch = {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}
    return objective.views.augment(batch, seeded(seed))


def small_mae(**options):
    torch.manual_seed(0)
    return MAE(network(), crop=CROP, **options)


def test_errors_and_variance_equal_their_slow_loops():
    prediction, target = torch.randn(2, 2, 2, 3, 2, 3, generator=seeded())
    counted = torch.rand(2, 1, 3, 2, 3, generator=seeded(1)) < 0.5
    squares, sizes, spreads = [], [], []
    for b, c in itertools.product(range(2), range(2)):
        values = [
            (float(prediction[b, c, x, y, z]), float(target[b, c, x, y, z]))
            for x, y, z in itertools.product(range(3), range(2), range(3))
            if counted[b, 0, x, y, z]
        ]
        mean = sum(t for _, t in values) / len(values)
        squares += [(p - t) ** 2 for p, t in values]
        sizes += [abs(p - t) for p, t in values]
        spreads += [(t - mean) ** 2 for _, t in values]
    squared, absolute = masked_errors(prediction, target, counted)
    assert float(squared) == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert float(absolute) == pytest.approx(sum(sizes) / len(sizes), rel=1e-5)
    variance = hidden_variance(target, counted)
    assert float(variance) == pytest.approx(sum(spreads) / len(spreads), rel=1e-5)


def test_only_counted_voxels_receive_a_gradient():
    prediction = torch.randn(1, 1, 4, 4, 4, requires_grad=True)
    counted = torch.rand(1, 1, 4, 4, 4, generator=seeded()) < 0.5
    masked_errors(prediction, torch.zeros(1, 1, 4, 4, 4), counted)[0].backward()
    assert torch.equal(prediction.grad != 0, counted)


def test_nothing_counted_is_a_loss_of_zero():
    prediction = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    loss, _ = masked_errors(
        prediction, torch.zeros_like(prediction), torch.zeros(1, 1, 2, 2, 2) > 0
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize(("hidden", "count"), [(0.75, 48), (0.5, 32), (0.0, 1), (1.0, 63)])
def test_exactly_the_share_of_blocks_is_hidden(hidden, count):
    visible = draw_blocks(5, (4, 4, 4), hidden, seeded())
    assert ((~visible).sum((1, 2, 3)) == count).all()
    assert not torch.equal(visible[0], visible[1])


def test_blocks_become_voxels_and_the_last_may_be_cut_short():
    blocks = torch.tensor([[[[True]], [[False]], [[True]]]])
    voxels = blocks_to_voxels(blocks, (2, 3, 3), (5, 3, 2))
    assert voxels.shape == (1, 1, 5, 3, 2)
    assert voxels[0, 0, :, 0, 0].tolist() == [True, True, False, False, True]
    assert (voxels == voxels[:, :, :, :1, :1]).all()


def test_the_network_never_sees_a_hidden_voxel(tmp_path):
    objective = small_mae().eval()
    batch = batch_of(objective, stored(tmp_path))
    seen = objective.embed(batch)["prediction"]
    changed = torch.where(batch["visible"], batch["image"], batch["image"] + 5)
    torch.testing.assert_close(objective.embed({**batch, "image": changed})["prediction"], seen)
    other = torch.where(batch["visible"], batch["image"] * 2 + 1, batch["image"])
    assert not torch.allclose(objective.embed({**batch, "image": other})["prediction"], seen)


def test_voxels_outside_the_volume_do_not_count(tmp_path, monkeypatch):
    still = {name: (0.0, 0.0) for name in ("rotate", "scale")}
    monkeypatch.setattr(mae, "AUGMENT", replace(mae.AUGMENT, flip=(0.0, 0.0, 0.0), **still))
    image = np.random.default_rng(0).normal(size=(1, 5, 16, 16)).astype(np.float32)
    volume = stored(tmp_path, image)
    views = MAEViews((1.0, 1.0, 1.0), CROP, (2, 2, 2), 0.75)
    for seed in range(6):
        item = views.crop((volume,), np.random.default_rng(seed))
        outside = item["inside"] == 0
        assert int((~outside).sum()) == 5 * 64
        assert (item["image"][0][outside] == volume.fill[0]).all()
        batch = views.augment({key: value[None] for key, value in item.items()}, seeded(seed))
        assert torch.equal(batch["counted"], ~batch["visible"] & ~outside)


def test_voxels_a_rotation_brings_in_from_outside_the_crop_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(mae, "AUGMENT", replace(mae.AUGMENT, rotate=(1.0, 45.0)))
    views = small_mae().views
    item = views.crop((stored(tmp_path),), np.random.default_rng(0))
    batch = views.augment({key: value[None] for key, value in item.items()}, seeded(1))
    hidden = int((~batch["visible"]).sum())
    assert hidden == 0.75 * 512
    assert 0.5 * hidden < int(batch["counted"].sum()) < hidden


def test_the_whole_network_but_its_head_is_trained(tmp_path):
    objective = small_mae()
    loss, terms = objective(batch_of(objective, stored(tmp_path)))
    loss.backward()
    trained = {
        n.split(".")[0] for n, p in objective.network.named_parameters() if p.grad is not None
    }
    assert trained == {"down", "up", "merge"}
    assert objective.reconstruct.weight.grad is not None
    assert set(terms) == {"absolute", "chance", "spread", "uniformity", "effective_rank"}
    assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())


def test_answering_the_mean_of_a_crop_scores_the_chance_level(tmp_path):
    objective = small_mae()
    batch = batch_of(objective, stored(tmp_path))
    means = torch.stack(
        [
            image[0][counted[0]].mean()
            for image, counted in zip(batch["image"], batch["counted"], strict=True)
        ]
    )
    prediction = means.view(-1, 1, 1, 1, 1).expand_as(batch["image"])
    loss, terms = objective.compare(
        {"prediction": prediction, "bottleneck": torch.rand(2, 4, 3)}, batch
    )
    assert float(loss) == pytest.approx(float(terms["chance"]), rel=1e-5)


def test_blocks_adapt_to_the_crop():
    assert small_mae().views.block == (2, 2, 2)
    wide = MAE(network(), crop=(96, 32, 2))
    assert wide.views.block == (16, 8, 1)
    with pytest.raises(MedclError, match="one block"):
        small_mae(block=CROP)


def test_a_small_batch_does_not_look_like_a_collapse(tmp_path):
    objective = small_mae()
    _, terms = objective(batch_of(objective, stored(tmp_path)))
    assert float(terms["effective_rank"]) > 1.5
    assert float(terms["spread"]) > 0.1
    many = torch.rand(2, 1000, 3)
    blank = torch.zeros(2, 1, *CROP)
    batch = {"image": blank, "counted": blank == 0}
    _, terms = objective.compare({"prediction": blank, "bottleneck": many}, batch)
    assert float(terms["effective_rank"]) <= 3
