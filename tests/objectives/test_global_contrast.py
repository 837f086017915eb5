import itertools
import math

import numpy as np
import pytest
import torch
from objectives.small import network, stored

from medcl.errors import MedclError
from medcl.networks.unet import UNet
from medcl.objectives import global_contrast
from medcl.objectives.global_contrast import (
    FORMS,
    GlobalContrast,
    Rows,
    chance,
    contrast,
    pairs,
)

CROP = (8, 8, 4)


def rows_of(items, volumes, partitions, views):
    shown = itertools.product(range(items), range(volumes), range(partitions), range(views))
    return Rows(*torch.tensor(list(shown)).unbind(1))


def ramp(folder, axis=2, shape=(16, 12, 20)):
    """Voxels hold their own coordinate along `axis`."""
    places = np.arange(shape[axis], dtype=np.float32)
    view = places.reshape([-1 if k == axis else 1 for k in range(3)])
    return stored(folder, np.broadcast_to(view, shape)[None].copy())


def small(form="gd", **options):
    torch.manual_seed(0)
    return GlobalContrast(network(), form=form, crop=CROP, hidden=16, width=8, **options)


def batch_of(objective, volume, items=2, seed=0):
    rng = np.random.default_rng(seed)
    volumes = (volume,) * objective.views.volumes
    drawn = [objective.views.crop(volumes, rng) for _ in range(items)]
    return {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}


def slow_loss(z, rows, matches, tau, share):
    """`matches(a, b)` counts how often b is a positive of a."""
    z, total = z.numpy(), 0.0
    described = torch.stack([rows.item, rows.volume, rows.partition, rows.view], 1).tolist()

    def s(a, b):
        return z[a] @ z[b] / (np.linalg.norm(z[a]) * np.linalg.norm(z[b])) / tau

    for a, b in itertools.permutations(range(len(z)), 2):
        times = matches(described[a], described[b])
        others = [n for n in range(len(z)) if described[n][2] != described[a][2]]
        below = math.exp(s(a, b)) + sum(math.exp(s(a, n)) for n in others)
        total -= times * math.log(math.exp(s(a, b)) / below)
    return total / (share * len(z))


def gd(a, b):
    same_place = a[0] == b[0] and a[2] == b[2]
    if not same_place:
        return 0
    if a[1] == b[1]:
        return 2
    neighbours = ((a[1] + 1) % 3 == b[1]) + ((b[1] + 1) % 3 == a[1])
    return neighbours * (a[3] == b[3])


def gd_minus(a, b):
    return int(a[:3] == b[:3])


@pytest.mark.parametrize(("form", "matches", "volumes"), [("gd", gd, 3), ("gd-", gd_minus, 1)])
def test_the_loss_equals_a_slow_loop_for_any_number_of_partitions(form, matches, volumes):
    rows = rows_of(2, volumes, 3, FORMS[form][0])
    z = torch.randn(len(rows.item), 5, dtype=torch.float64)
    loss, _, _ = contrast(z, pairs(rows, form), 0.5)
    assert float(loss) == pytest.approx(slow_loss(z, rows, matches, 0.5, 1.0), rel=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_rows_does_not_matter(form):
    rows = rows_of(2, 2, 3, FORMS[form][0])
    z = torch.randn(len(rows.item), 5, dtype=torch.float64)
    order = torch.randperm(len(z))
    shuffled = Rows(*(getattr(rows, name)[order] for name in rows.__dataclass_fields__))
    first, again = (
        contrast(z, pairs(rows, form), 0.1),
        contrast(z[order], pairs(shuffled, form), 0.1),
    )
    torch.testing.assert_close(first[0], again[0])


@pytest.mark.parametrize("form", FORMS)
def test_equal_embeddings_have_the_loss_of_chance(form):
    terms = pairs(rows_of(2, 2, 4, FORMS[form][0]), form)
    loss, _, _ = contrast(torch.ones(len(terms.negative[0]), 3), terms, 0.1)
    assert float(loss) == pytest.approx(float(chance(terms)), rel=1e-5)
    assert float(loss) > 1


def test_a_tiny_temperature_is_finite_in_float32():
    z = torch.randn(24, 8, requires_grad=True)
    loss, _, _ = contrast(z, pairs(rows_of(2, 1, 4, 3), "gd-"), 1e-3)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_a_single_slice_is_a_loss_of_zero_with_a_zero_gradient():
    z = torch.randn(1, 8, requires_grad=True)
    one = torch.zeros(1, dtype=torch.int64)
    loss, _, _ = contrast(z, pairs(Rows(one, one, one, one), "gr"), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (z.grad == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_rows_show_the_partition_they_say_and_none_is_blank(tmp_path, form):
    """Along a ramp the mean of a crop is its place."""
    objective = small(form, partitions=3)
    batch = batch_of(objective, ramp(tmp_path), items=3)
    crops, rows = batch["crops"].flatten(0, 1), batch["partition"].flatten()
    assert crops.shape[2:] == (8, 8, 2)
    first = crops.mean((1, 2, 3, 4)) - 0.5
    expected = [(0, 7), (7, 13), (13, 19)]  # of 19 places for a slab of 2 in 20 slices
    for start, partition in zip(first.tolist(), rows.tolist(), strict=True):
        low, high = expected[partition]
        assert low <= start < high
    views = FORMS[form][0]
    assert len(crops) == 3 * objective.views.volumes * 3 * views
    assert batch["view"][0].tolist() == list(range(views)) * (len(crops) // 3 // views)


@pytest.mark.parametrize(("crop", "depth"), [((8, 8, 4), None), ((8, 8, 16), None), (CROP, 16)])
def test_slabs_of_two_partitions_never_show_the_same_voxels(tmp_path, crop, depth):
    torch.manual_seed(0)
    objective = GlobalContrast(
        network(), form="gd-", crop=crop, depth=depth, hidden=16, width=8, partitions=4
    )
    batch = batch_of(objective, ramp(tmp_path), items=40)
    starts = batch["crops"][:, ::3].amin((2, 3, 4, 5))  # of the unchanged views
    assert (starts.diff(dim=1) > 0).all()


def test_a_slab_is_as_deep_as_a_partition_or_as_the_network_needs():
    def depth_of(network, **options):
        views = GlobalContrast(network, crop=(8, 8, 32), hidden=4, width=4, **options).views
        return views.size[2]

    flat, deep = network(), UNet(1, [(1, 1, 1), (2, 2, 16)], 2, width=4)
    assert depth_of(flat) == 8
    assert depth_of(flat, partitions=5) == 8  # 6.4 slices, in steps of 2
    assert depth_of(deep) == 16
    assert depth_of(flat, depth=32) == 32
    with pytest.raises(MedclError, match=r"depth 3 is no multiple of 2.*choose 4"):
        depth_of(flat, depth=3)


def test_a_body_with_fewer_slabs_than_partitions_is_left_out(tmp_path):
    volume = ramp(tmp_path)
    assert small(partitions=4).lacks(volume) is None
    assert small(partitions=4, depth=18).lacks(volume) == (
        "slices for 4 slabs of 18 (lower `partitions`)"
    )


def test_items_of_a_step_take_other_cases_as_long_as_there_are_enough():
    views, cases = small("gd").views, list("abcdef")
    steps = [np.random.default_rng(7) for _ in range(3)]
    items = [views.for_step(rng, k).groups(cases, rng) for k, rng in enumerate(steps)]
    assert sorted(sum(items, ())) == cases


def test_a_changed_view_is_a_smaller_crop_and_the_first_one_is_left_alone(tmp_path):
    objective = small("gd-", zoom=0.5)
    batch = batch_of(objective, ramp(tmp_path, axis=0))
    width = batch["crops"][0].amax((1, 2, 3, 4)) - batch["crops"][0].amin((1, 2, 3, 4))
    assert (width[0::3] == 7).all()
    assert (width[1::3] == 3).all()
    changed = objective.views.augment(batch, torch.Generator().manual_seed(0))["crops"]
    same = [torch.equal(changed[0, r], batch["crops"][0, r]) for r in range(6)]
    assert same == [True, False, False] * 2


def test_each_changed_view_has_its_own_contrast_and_brightness(tmp_path):
    objective = small("gr")
    batch = {key: value.clone() for key, value in batch_of(objective, stored(tmp_path)).items()}
    batch["crops"][:] = batch["crops"][0, 0]
    changed = objective.views.augment(batch, torch.Generator().manual_seed(0))["crops"]
    deviations = changed.flatten(0, 1).std((1, 2, 3, 4))
    assert len(deviations.unique()) == len(deviations)


def test_volumes_of_an_item_lie_at_the_same_share_of_the_way(tmp_path):
    body = ((0, 0, 0), (16, 12, 20))
    views = small("gd").views
    volume = ramp(tmp_path, axis=0)
    item = views.crop((volume, volume), np.random.default_rng(3))
    first = item["crops"][item["view"] == 0].amin((1, 2, 3, 4))
    assert volume.body == body
    assert len(first.unique()) == 1


def test_an_item_never_holds_a_case_twice():
    views = small("gd", volumes=3).views
    rng = np.random.default_rng(0)
    assert all(len(set(views.groups(["a", "b", "c"], rng))) == 3 for _ in range(5))
    with pytest.raises(MedclError, match="compares 3 cases, and the pool has 2"):
        views.groups(["a", "b"], rng)


def test_embedding_in_parts_gives_the_same_loss_and_only_the_encoder_learns(tmp_path):
    objective = small()
    batch = batch_of(objective, stored(tmp_path), items=3)
    whole, terms = objective(batch)
    parts = [objective.embed({k: v[i : i + 1] for k, v in batch.items()}) for i in range(3)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    torch.testing.assert_close(objective.compare(joined, batch)[0], whole)
    whole.backward()
    touched = {
        n.split(".")[0] for n, p in objective.network.named_parameters() if p.grad is not None
    }
    assert touched == {"down"}
    assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())
    assert {"chance", "spread", "effective_rank", "positive_cosine"} <= set(terms)


def test_slices_train_a_network_in_two_dimensions(tmp_path):
    flat = UNet(1, [(1, 1), (2, 2)], 2, width=4)
    objective = GlobalContrast(flat, form="gd-", crop=(8, 8, 1), hidden=16, width=8)
    loss, _ = objective(batch_of(objective, stored(tmp_path)))
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "gd", "volumes": 1}, "volumes: 2"),
        ({"form": "gd-", "partitions": 1}, "at least 2"),
    ],
)
def test_a_form_without_what_it_compares_is_refused(options, message):
    with pytest.raises(MedclError, match=message):
        small(**options)


def test_the_stride_of_the_authors_code_stays_behind_compat():
    rows = rows_of(1, 4, 3, 3)
    order = torch.argsort(rows.view, stable=True)
    rows = Rows(*(getattr(rows, name)[order] for name in rows.__dataclass_fields__))
    clean, coded = pairs(rows, "gd-"), pairs(rows, "gd-", compat="stride4")
    assert not torch.equal(clean.negative, coded.negative)
    assert not clean.negative.gather(1, clean.b[:, None]).any()
    assert global_contrast.FORMS["gd-"][0] == 3


def test_a_row_that_is_no_negative_never_counts_however_low_the_temperature():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss, _, _ = contrast(z, pairs(rows_of(1, 1, 1, 2), "gr"), 1e-3)
    assert float(loss) == 0
