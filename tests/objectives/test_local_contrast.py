import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives.small import network, stored

from medcl.errors import MedclError
from medcl.networks.unet import UNet
from medcl.objectives import local_contrast
from medcl.objectives.global_contrast import Rows
from medcl.objectives.local_contrast import LocalContrast, local_loss
from medcl.objectives.local_regions import cut, nearest_regions, published_regions

CROP = (8, 8, 8)


def small(form="lr", **options):
    torch.manual_seed(0)
    return LocalContrast(network(), form=form, crop=CROP, width=6, **options)


def batch_of(objective, volume, items=2, seed=0):
    rng = np.random.default_rng(seed)
    volumes = (volume,) * objective.views.volumes
    drawn = [objective.views.crop(volumes, rng) for _ in range(items)]
    batch = {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}
    return objective.views.augment(batch, torch.Generator().manual_seed(seed))


def test_the_regions_of_a_cube_are_its_grid_and_its_quarters():
    regions = nearest_regions((12, 12, 12), (1.0, 1.0, 1.0), negatives=6)
    assert regions.corners.shape == (27 + 8, 3)
    assert regions.corners.max() == 12 - 4
    assert sorted(set(regions.corners[:27].flatten().tolist())) == [0, 4, 8]
    assert sorted(set(regions.corners[27:].flatten().tolist())) == [2, 6]


def test_the_neighbours_are_the_nearest_other_regions_in_mm():
    regions = nearest_regions((8, 8), (1.0, 5.0), region=1, negatives=3)
    places = regions.corners.double() * torch.tensor([1.0, 5.0])
    for j, near in enumerate(regions.near.tolist()):
        distances = [float((places[j] - place).norm()) for place in places]
        others = [d for k, d in enumerate(distances) if k != j]
        assert j not in near
        assert sorted(distances[k] for k in near) == pytest.approx(sorted(others)[:3])


def test_places_that_coincide_on_a_thin_axis_count_once():
    regions = nearest_regions((8, 8, 1), (1.0, 1.0, 5.0))
    assert regions.side == (3, 3, 1)
    assert len(regions.corners) == 13
    assert len({tuple(corner) for corner in regions.corners.tolist()}) == 13
    with pytest.raises(MedclError, match="holds one region"):
        nearest_regions((3, 3, 1), (1.0, 1.0, 1.0))


def test_the_published_places_are_those_of_the_grid_in_two_dimensions():
    ours = nearest_regions((16, 16), (1.0, 1.0))
    theirs = published_regions(16)
    assert torch.equal(ours.corners, theirs.corners[:13])
    assert len(theirs.corners) == 13 + 4  # hq, qh, ht and th


def test_a_region_is_cut_in_order_with_the_channels_of_a_voxel_together():
    maps = torch.arange(2 * 2 * 5 * 6 * 4.0).view(2, 2, 5, 6, 4)
    regions = nearest_regions((5, 6, 4), (1.0, 1.0, 1.0), region=3)
    vectors = cut(maps, regions)
    for m, (x, y, z) in enumerate(regions.corners.tolist()):
        block = maps[:, :, x : x + 3, y : y + 3, z : z + 3].movedim(1, -1).flatten(1)
        assert torch.equal(vectors[:, m], block)


@pytest.mark.parametrize("form", ["lr", "ld"])
def test_the_loss_equals_a_slow_loop(form):
    shown = torch.tensor(list(itertools.product(range(2), range(3), range(2), range(2))))
    rows = Rows(*shown.unbind(1))
    regions = nearest_regions((4, 4), (1.0, 1.0), region=1, negatives=2, centres=False)
    near = regions.near.tolist()
    vectors = torch.randn(len(shown), len(regions.corners), 3, dtype=torch.float64)
    u = (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()
    total = 0.0
    for a, b in itertools.permutations(range(len(shown)), 2):
        (item, volume, part, view), (item_b, volume_b, part_b, view_b) = shown[[a, b]].tolist()
        if (item, part) != (item_b, part_b):
            continue
        one_slice = volume == volume_b and view != view_b
        if form == "lr" and not one_slice:
            continue
        others = volume != volume_b and view == view_b == 0
        if form == "ld" and not ((one_slice and view == 0) or others):
            continue
        for j, neighbours in enumerate(near):
            up = math.exp(u[a, j] @ u[b, j] / 0.5)
            down = sum(math.exp(u[a, j] @ u[c, q] / 0.5) for q in neighbours for c in (a, b))
            total -= math.log(up / (up + down))
    loss, _ = local_loss(vectors, rows, regions.near, form, 0.5)
    assert float(loss) == pytest.approx(total / (len(near) * len(shown)), rel=1e-10)


@pytest.mark.parametrize("form", ["lr", "ld"])
def test_equal_maps_have_the_loss_of_chance(tmp_path, form):
    for spatial in (False, True):
        objective = small(form, spatial=spatial, region=1)
        batch = batch_of(objective, stored(tmp_path))
        embeddings = objective.embed(batch)
        same = {**embeddings, "regions": torch.ones_like(embeddings["regions"])}
        loss, terms = objective.compare(same, batch)
        assert float(loss) == pytest.approx(float(terms["chance"]), rel=1e-5)
        assert 0 < float(terms["kept"]) <= 1
        assert (float(terms["kept"]) == 1) == (not spatial)
        if form == "lr" and not spatial:
            assert float(loss) == pytest.approx(math.log(11), rel=1e-5)


def test_views_that_are_not_spatial_differ_in_contrast_and_brightness_alone(tmp_path):
    objective = small(spatial=False)
    one, two = batch_of(objective, stored(tmp_path))["crops"][0].flatten(1).double()
    standard = [(x - x.mean()) / x.std() for x in (one, two)]
    torch.testing.assert_close(standard[0], standard[1], rtol=0, atol=1e-4)
    assert not torch.allclose(one, two)


def test_a_region_shows_the_same_place_of_the_body_in_both_views(tmp_path, monkeypatch):
    """The image holds its own coordinates, and the network hands it through."""
    grid = np.meshgrid(*map(np.arange, (24, 24, 24)), indexing="ij")
    volume = stored(tmp_path, np.stack(grid).astype(np.float32) + 1)
    flat = UNet(3, [(1, 1, 1), (1, 1, 1)], 2, width=4)
    objective = LocalContrast(flat, crop=(16, 16, 16), region=3, blocks=1)
    monkeypatch.setattr(flat, "encode", lambda crops: crops)
    monkeypatch.setattr(flat, "decode", lambda crops, until: crops)
    objective.head = objective.project = torch.nn.Identity()
    still = dict.fromkeys(("gain", "offset"), (0.0, 0.0))
    monkeypatch.setattr(local_contrast, "SPACE", replace(local_contrast.SPACE, **still))
    compared = 0
    for seed in range(4):
        batch = batch_of(objective, volume, seed=seed)
        assert not torch.equal(batch["crops"][:, 0], batch["crops"][:, 1])
        found = objective.embed(batch)
        there = found["there"].all(1)
        first, second = (found["regions"][:, view].unflatten(-1, (27, 3)) for view in range(2))
        error = (first - second).abs().amax((-1, -2))
        compared += int(there.sum())
        assert float(error[there].max()) < 0.02
    assert compared > 40


def test_regions_that_left_their_view_change_nothing():
    shown = torch.tensor(list(itertools.product(range(1), range(1), range(3), range(2))))
    rows = Rows(*shown.unbind(1))
    regions = nearest_regions((4, 4), (1.0, 1.0), region=1, negatives=3, centres=False)
    vectors = torch.randn(len(shown), len(regions.corners), 3, dtype=torch.float64)
    there = torch.rand(vectors.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.7
    vectors.requires_grad_()
    loss, terms = local_loss(vectors, rows, regions.near, "lr", 0.5, there)
    loss.backward()
    assert (vectors.grad[~there] == 0).all()
    assert (vectors.grad[there] != 0).any()
    u = (vectors / vectors.norm(dim=-1, keepdim=True)).detach().numpy()
    losses = []
    for a in range(len(shown)):
        b = a + 1 - 2 * (a % 2)
        for j, neighbours in enumerate(regions.near.tolist()):
            if there[a, j] and there[b, j]:
                up = math.exp(u[a, j] @ u[b, j] / 0.5)
                pairs = [(c, q) for c in (a, b) for q in neighbours if there[c, q]]
                down = sum(math.exp(u[a, j] @ u[c, q] / 0.5) for c, q in pairs)
                losses.append(-math.log(up / (up + down)))
    assert float(loss.detach()) == pytest.approx(np.mean(losses), rel=1e-10)
    assert float(terms["kept"]) == pytest.approx(len(losses) / (len(shown) * len(regions.near)))
    nothing, _ = local_loss(vectors, rows, regions.near, "lr", 0.5, torch.zeros_like(there))
    assert float(nothing.detach()) == 0


def test_places_that_were_not_moved_are_cut_as_they_are():
    maps = torch.randn(2, 3, 6, 5, 4, dtype=torch.float64)
    regions = nearest_regions((6, 5, 4), (1.0, 1.0, 1.0), region=3)
    still = regions.voxels().double().expand(2, -1, -1, -1)
    torch.testing.assert_close(cut(maps, regions, still), cut(maps, regions))


def test_a_slab_is_moved_within_its_slices_alone(tmp_path):
    torch.manual_seed(0)
    views = LocalContrast(network(), (1.0, 1.0, 1.0), crop=(8, 8, 2), width=6, region=1).views
    assert views.moves == (True, True, False)
    assert small(region=1).views.moves == (True, True, True)
    objective = LocalContrast(network(), crop=(8, 8, 2), width=6, region=1)
    matrix = batch_of(objective, stored(tmp_path))["matrix"].flatten(0, 1)
    assert torch.equal(matrix[:, 2], torch.tensor([[0.0, 0, 1, 0]]).expand(len(matrix), -1))
    assert (matrix[:, 0, 3] != 0).all()


@pytest.mark.parametrize("frozen", [True, False])
def test_the_first_decoder_blocks_learn_and_a_frozen_encoder_does_not(tmp_path, frozen):
    deep = UNet(1, [(1, 1, 1), (2, 2, 2), (2, 2, 2)], 2, width=4)
    objective = LocalContrast(deep, crop=CROP, width=6, blocks=1, region=1, frozen=frozen)
    loss, terms = objective(batch_of(objective, stored(tmp_path)))
    loss.backward()
    touched = {n[:6] for n, p in deep.named_parameters() if p.grad is not None}
    assert {name for name in touched if not name.startswith("down")} == {"up.0.w", "merge."}
    assert any(name.startswith("down") for name in touched) == (not frozen)
    assert not any(p.requires_grad for n, p in deep.named_parameters() if n.startswith("up.1"))
    assert all(p.grad is not None for p in objective.head[0].parameters())
    assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())


def test_embedding_in_parts_gives_the_same_loss(tmp_path):
    objective = small("ld", volumes=2, partitions=2)
    batch = batch_of(objective, stored(tmp_path), items=3)
    whole, _ = objective(batch)
    parts = [objective.embed({k: v[i : i + 1] for k, v in batch.items()}) for i in range(3)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    torch.testing.assert_close(objective.compare(joined, batch)[0], whole)


def test_the_published_lists_train_slices(tmp_path):
    flat = UNet(1, [(1, 1), (2, 2)], 2, width=4)
    objective = LocalContrast(flat, crop=(8, 8, 1), width=6, compat="published")
    loss, _ = objective(batch_of(objective, stored(tmp_path)))
    loss.backward()
    assert torch.isfinite(loss)
    with pytest.raises(MedclError, match="square maps in 2-D"):
        small(compat="published")


@pytest.mark.parametrize(
    ("options", "message"), [({"blocks": 2}, "has 1"), ({"form": "ld", "volumes": 1}, "2 or more")]
)
def test_what_cannot_be_compared_is_refused(options, message):
    with pytest.raises(MedclError, match=message):
        small(**options)
