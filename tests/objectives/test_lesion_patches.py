import numpy as np
import pytest
import torch
from objectives.small import network

from medcl.data.store import Store, write_case, write_manifest
from medcl.errors import MedclError, TrainingFailed
from medcl.objectives.lesion_patches import (
    LesionPatches,
    balanced,
    lesion_shares,
    margin_losses,
    mine_pairs,
)

CROP = (16, 16, 16)


def volume(folder, lesion=True):
    image = np.random.default_rng(0).normal(size=(1, 24, 24, 24)).astype(np.float32)
    label = np.zeros((24, 24, 24), np.uint8)
    if lesion:
        label[8:16, 8:16, 8:16] = 2
    return Store(write_manifest(folder, [write_case(folder, "c", "s", image, label)]))["c"]


def small(**options):
    torch.manual_seed(0)
    sizes = {"hidden": 8, "width": 6, "prototypes": 12}
    return LesionPatches(network(), crop=CROP, **{**sizes, **options})


def batch_of(objective, volume, items=2, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [objective.views.crop((volume,), rng) for _ in range(items)]
    return {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}


def test_shares_are_counted_patch_by_patch():
    lesion = np.random.default_rng(0).random((4, 6, 2)) < 0.5
    shares = lesion_shares(lesion, (2, 3, 1))
    for i, j, k in np.ndindex(2, 2, 2):
        block = lesion[2 * i : 2 * i + 2, 3 * j : 3 * j + 3, k : k + 1]
        assert shares[i, j, k] == block.mean()


@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 3, 3), (0, 2, 3)])
@pytest.mark.parametrize("distant", [False, True])
def test_pairs_at_the_border_stay_inside_and_never_wrap_around(corner, distant):
    shares = np.zeros((4, 4, 4))
    shares[corner] = 1
    anchors, places, kinds = mine_pairs(shares, distant=distant)
    assert (kinds == -1).all()
    steps = places - anchors
    assert set(np.abs(steps).max(1)) == {2 if distant else 1}
    assert (places >= 0).all()
    assert (places < 4).all()
    assert len({tuple(place) for place in places}) == len(places)
    free = [(2 if distant else 1) * s for s in (-1, 0, 1)]
    inside = [[0 <= c + s < 4 for s in free] for c in corner]
    near = [[0 <= c + s < 4 for s in (-1, 0, 1)] for c in corner]
    count = np.prod((np.array(inside) & np.array(near)).sum(1)) - 1
    assert len(kinds) == count


def test_a_patch_that_is_partly_lesion_is_neither():
    shares = np.array([1.0, 0.5, 0.0, 1.0, 1.0])[None, None]
    anchors, places, kinds = mine_pairs(shares)
    assert [(a[2], p[2], k) for a, p, k in zip(anchors, places, kinds, strict=True)] == [
        (3, 4, 1),
        (3, 2, -1),
        (4, 3, 1),
    ]
    nothing = mine_pairs(np.zeros((2, 2, 2)))
    assert [len(part) for part in nothing] == [0, 0, 0]


def test_as_many_negatives_as_positives_are_kept():
    kinds = np.array([1] * 9 + [-1] * 4)
    rng = np.random.default_rng(0)
    kept = kinds[balanced(kinds, 30, rng)]
    assert ((kept == 1).sum(), (kept == -1).sum()) == (4, 4)
    kept = kinds[balanced(kinds, 3, rng)]
    assert ((kept == 1).sum(), (kept == -1).sum()) == (3, 3)
    assert len(balanced(kinds[:9], 30, rng)) == 0


def test_a_crop_holds_lesion_and_its_pairs_are_those_of_its_labels(tmp_path):
    objective = small(pairs=5)
    stored = volume(tmp_path)
    for seed in range(4):
        item = objective.views.crop((stored,), np.random.default_rng(seed))
        kinds = item["kind"]
        assert int((kinds == 1).sum()) == int((kinds == -1).sum())
        assert len(kinds) == 10
    assert (kinds != 0).any()


def test_another_class_is_no_lesion(tmp_path):
    stored = volume(tmp_path)
    rng = np.random.default_rng(0)
    assert (small(lesion=1).views.crop((stored,), rng)["kind"] == 0).all()
    assert (small(lesion=2).views.crop((stored,), rng)["kind"] != 0).any()


def test_a_batch_without_lesion_is_a_loss_of_zero_with_a_zero_gradient(tmp_path):
    objective = small()
    loss, terms = objective(batch_of(objective, volume(tmp_path, lesion=False)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(terms["pairs"]) == float(terms["chance"]) == 0
    gradients = [p.grad for p in objective.network.down.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_one_cosine_for_all_pairs_scores_chance(tmp_path):
    objective = small()
    batch = batch_of(objective, volume(tmp_path))
    patches = objective.embed(batch)["patches"]
    assert patches.shape == (2, 8**3, 4 + 8)
    objective.head = torch.nn.Identity()
    loss, terms = objective.compare({"patches": torch.ones_like(patches)}, batch)
    assert float(terms["pairs"]) > 0
    assert float(loss) == pytest.approx(float(terms["chance"])) == 0.25


def test_a_patch_is_embedded_from_its_own_place(tmp_path):
    """Voxels that change move the patches around them most."""
    objective = small()
    batch = batch_of(objective, volume(tmp_path), items=1)
    before = objective.embed(batch)["patches"].unflatten(1, (8, 8, 8))
    image = batch["image"].clone()
    image[..., :2, 4:6, 10:12] += 5
    after = objective.embed({"image": image})["patches"].unflatten(1, (8, 8, 8))
    changed = (after - before).norm(dim=-1)[0]
    most = np.array(np.unravel_index(int(changed.argmax()), changed.shape))
    assert (abs(most - (0, 2, 5)) <= 1).all()


def test_the_encoder_and_the_head_learn_and_parts_give_the_same_loss(tmp_path):
    objective = small()
    batch = objective.views.augment(
        batch_of(objective, volume(tmp_path), items=3), torch.Generator().manual_seed(0)
    )
    whole, terms = objective(batch)
    parts = [objective.embed({k: v[i : i + 1] for k, v in batch.items()}) for i in range(3)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    torch.testing.assert_close(objective.compare(joined, batch)[0], whole)
    whole.backward()
    touched = {
        n.split(".")[0] for n, p in objective.network.named_parameters() if p.grad is not None
    }
    assert touched == {"down"}
    assert objective.head.prototypes.weight.grad.abs().sum() > 0
    assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())


def test_a_negative_beyond_the_margin_passes_no_gradient():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    second = torch.tensor([[0.3, 1.0], [1.0, 0.3]])
    losses = margin_losses(first, second, torch.tensor([False, False]), 0.5)
    losses.sum().backward()
    assert losses[0] == 0
    assert (first.grad[0] == 0).all()
    assert (first.grad[1] != 0).any()


@pytest.mark.parametrize(
    ("side", "block"),
    [(16, 2), (28, 2), (44, 4), (52, 4), (60, 6), (68, 4), (76, 4), (96, 12), (14, 1), (4, 1)],
)
def test_the_default_block_divides_any_crop_into_eight_patches_at_least(side, block):
    objective = LesionPatches(network(), crop=(side, 16, 8), hidden=4, width=4, prototypes=4)
    assert objective.views.block == (block, 2, 1)


def test_a_lesion_of_no_class_is_refused_before_the_first_step(tmp_path):
    stored = volume(tmp_path)
    small(lesion=2).begin(3, [stored])
    small().begin(3, [stored])
    message = r"no voxel of class 9 in the labels of 1 pool cases \(classes there: 2\).*`lesion`"
    with pytest.raises(TrainingFailed, match=message):
        small(lesion=9).begin(3, [stored])
    with pytest.raises(TrainingFailed, match=r"any class .*\(classes there: none\)"):
        small().begin(3, [volume(tmp_path / "healthy", lesion=False)])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"block": (3, 4, 4)}, "does not divide"), ({"upper": 0.1, "lower": 0.2}, "above lower")],
)
def test_a_block_or_threshold_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(MedclError, match=message):
        small(**options)
