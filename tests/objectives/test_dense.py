import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives.small import network, stored

from medcl.data.store import Store, write_case, write_manifest
from medcl.networks.unet import UNet
from medcl.objectives import dense
from medcl.objectives.dense import Dense, DenseViews, first_of_each, soft_weights
from medcl.training.fit import cached_backward
from medcl.training.pretext import PretextItems
from medcl.training.sampler import loader
from medcl.views.coordinates import interpolate

CROP = (8, 8, 8)
SPACING = (1.0, 1.5, 2.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_dense(**options):
    torch.manual_seed(0)
    return Dense(network(), SPACING, **{"points": 6, "crop": CROP, **options})


def batch_of(objective, volume, items=2, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [objective.views.crop((volume,), rng) for _ in range(items)]
    batch = {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}
    batch["subject"] = torch.arange(items)
    return objective.views.augment(batch, seeded(seed))


def random_batch(items=3, points=4, seed=0):
    """Embeddings, and everything `compare` looks at; a few points left their view."""
    embedded = torch.randn(items, 2, points, 5, generator=seeded(seed))
    batch = {
        "kept": torch.rand(items, 2, points, generator=seeded(1)) < 0.8,
        "points": torch.rand(items, points, 3, generator=seeded(2)) * 20,
        "body": 20 + 10 * torch.rand(items, 3, generator=seeded(3)),
        "subject": torch.arange(items),
    }
    batch["places"] = batch["points"] / batch["body"][:, None]
    return {"points": embedded.requires_grad_()}, batch


def unit(vector):
    return vector / np.linalg.norm(vector)


def slow_softmax(rows, i, j, temperature):
    logits = [float(rows[i] @ rows[k]) / temperature for k in range(len(rows)) if k != i]
    return float(rows[i] @ rows[j]) / temperature - math.log(sum(map(math.exp, logits)))


@pytest.mark.parametrize("subjects", [[0, 1, 2], [0, 1, 0]])
def test_points_equal_a_slow_loop(subjects):
    embeddings, batch = random_batch()
    batch["subject"] = torch.tensor(subjects)
    rows, partner = [], []
    for b in range(3):
        for p in range(4):
            if batch["kept"][b, :, p].all() and subjects[b] not in subjects[:b]:
                partner += [len(rows) + 1, len(rows)]
                rows += [unit(embeddings["points"][b, v, p].detach().numpy()) for v in range(2)]
    expected = -np.mean([slow_softmax(rows, i, j, 0.2) for i, j in enumerate(partner)])
    loss, terms = small_dense(temperature=0.2).compare(embeddings, batch)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(terms["chance"]) == pytest.approx(math.log(len(rows) - 1))
    pairs = [float(rows[i] @ rows[j]) for i, j in enumerate(partner)]
    assert float(terms["positive_cosine"]) == pytest.approx(np.mean(pairs), rel=1e-4)
    assert float(terms["alignment"]) == pytest.approx(2 - 2 * np.mean(pairs), rel=1e-4)
    others = [
        float(rows[i] @ rows[j])
        for i in range(len(rows))
        for j in range(len(rows))
        if j not in (i, partner[i])
    ]
    assert float(terms["negative_cosine"]) == pytest.approx(np.mean(others), rel=1e-3, abs=1e-5)
    nearest = [
        np.argmax([rows[i] @ row if k != i else -2 for k, row in enumerate(rows)]) == j
        for i, j in enumerate(partner)
    ]
    assert float(terms["accuracy"]) == pytest.approx(np.mean(nearest))


@pytest.mark.parametrize("sigma_mm", [None, 4.0])
def test_soft_targets_equal_a_slow_loop(sigma_mm):
    sigma = (0.5, 0.7, 0.6)
    embeddings, batch = random_batch()
    rows, where = [], []
    for b in range(3):
        for v in range(2):
            for p in range(4):
                if batch["kept"][b, v, p]:
                    rows.append(unit(embeddings["points"][b, v, p].detach().numpy()))
                    where.append((b, batch["points"][b, p].numpy(), batch["body"][b].numpy()))
    losses, entropies = [], []
    for i, (b, p, body) in enumerate(where):
        mm = sigma_mm or np.mean([s * side / 2 for s, side in zip(sigma, body, strict=True)])
        weights = []
        for j, (c, other, other_body) in enumerate(where):
            if b == c:
                steps = (p - other) / mm
            else:
                steps = (2 * p / body - 2 * other / other_body) / np.array(sigma)
            weight = math.exp(-0.5 * float(steps @ steps))
            weights.append(weight if weight >= 1e-3 and i != j else 0.0)
        total = sum(weights)
        if not total:
            continue
        shares = [weight / total for weight in weights]
        logs = [slow_softmax(rows, i, j, 0.2) if share else 0 for j, share in enumerate(shares)]
        losses.append(-sum(s * value for s, value in zip(shares, logs, strict=True)))
        entropies.append(-sum(s * math.log(s) for s in shares if s))
    objective = small_dense(positives="soft", temperature=0.2, sigma=sigma, sigma_mm=sigma_mm)
    loss, terms = objective.compare(embeddings, batch)
    assert float(loss.detach()) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(terms["excess"]) == pytest.approx(np.mean(losses) - np.mean(entropies), rel=1e-4)
    assert float(terms["chance"]) == pytest.approx(math.log(len(rows) - 1))


def test_a_far_point_has_no_weight_and_no_loss():
    """At 4 sigma a weight is 3e-4."""
    places = torch.tensor([[0.0, 0, 0], [0, 0, 0.01], [0, 0, 0.4]])
    args = (torch.arange(3.0), torch.ones(3, dtype=torch.bool), torch.full((3,), 0.1))
    weights = soft_weights(places, places, *args, torch.ones(3))
    assert weights.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("positives", ["point", "soft"])
def test_points_that_left_their_view_change_nothing(positives):
    embeddings, batch = random_batch()
    objective = small_dense(positives=positives)
    loss, _ = objective.compare(embeddings, batch)
    loss.backward()
    gone = ~(batch["kept"] if positives == "soft" else batch["kept"].all(1)[:, None])
    gone = gone.expand(batch["kept"].shape)
    assert (embeddings["points"].grad[gone] == 0).all()
    assert (embeddings["points"].grad[~gone] != 0).any()
    batch["kept"] = torch.zeros_like(batch["kept"])
    embeddings["points"].grad = None
    loss, terms = objective.compare(embeddings, batch)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (embeddings["points"].grad == 0).all()
    assert all(math.isfinite(float(value)) for value in terms.values())


def test_equal_embeddings_are_at_chance():
    embeddings, batch = random_batch()
    embeddings["points"] = torch.ones_like(embeddings["points"])
    for positives in ("point", "soft"):
        objective = small_dense(positives=positives, sigma=(1.0, 1.0, 1.0))
        loss, terms = objective.compare(embeddings, batch)
        assert float(loss) == pytest.approx(float(terms["chance"]), rel=1e-5)
        assert float(terms["spread"]) == pytest.approx(0, abs=1e-6)


def coordinates(tmp_path, shape=(14, 20, 12), body=((1, 0, 2), (13, 18, 12))):
    """A volume whose channels are its own voxel coordinates."""
    image = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)
    entry = write_case(tmp_path, "c", "s", image + 1, body=body, spacing=SPACING, fill=[0, 0, 0])
    return Store(write_manifest(tmp_path, [entry]))["c"], np.array(body[0])


@pytest.mark.parametrize("size", [(8, 12, 8), (8, 12, 1)])
def test_a_view_shows_at_each_point_the_coordinates_of_that_point(tmp_path, monkeypatch, size):
    """The image holds its own coordinates, so the exact transform can be read off the views."""
    space = {"rotate": (1.0, 25.0), "scale": (1.0, 0.25), "shift": (1.0, 1.0)}
    still = {n: (0.0, 0.0) for n in ("bias", "gamma", "gain", "offset", "blur", "coarse", "noise")}
    monkeypatch.setattr(dense, "AUGMENT", replace(dense.AUGMENT, **space, **still))
    volume, low = coordinates(tmp_path)
    views = DenseViews(SPACING, size, 60, mirror=0.5)
    checked = 0
    for seed in range(8):
        item = views.crop((volume,), np.random.default_rng(seed))
        batch = {key: value[None] for key, value in item.items()}
        seen = views.augment(batch, seeded(seed))
        found = interpolate(seen["image"][0], seen["voxels"][0])  # (2, P, 3)
        places = item["points"] / torch.tensor(SPACING) - 0.5 + torch.tensor(low) + 1
        # A neighbour of the point may lie beyond the window, where its border is repeated.
        window = item["image"].flatten(2)
        inner = (places > window.amin(-1)[:, None] + 1.5) & (
            places < window.amax(-1)[:, None] - 1.5
        )
        inner |= torch.tensor(size) == 1
        right = seen["kept"][0] & inner.all(-1)
        checked += int(right.sum())
        reach = (item["points"] - item["centres"][:, None]).abs() / torch.tensor(SPACING)
        assert (reach <= (torch.tensor(size) - 1) / 2 + 1e-3).all(-1)[seen["kept"][0]].all()
        error = (found - places).abs().amax(-1)
        assert float(error[right].amax()) < 0.01
        assert not torch.equal(seen["image"][0, 0], seen["image"][0, 1])
    assert checked > 150


def test_points_lie_in_the_body_and_the_windows_and_not_in_air(tmp_path):
    image = np.zeros((1, 16, 16, 16), np.float32)
    image[:, 6:12, :, :] = 1
    volume = stored(tmp_path, image, body=((2, 0, 0), (16, 10, 16)))
    views = DenseViews((1.0, 1.0, 1.0), CROP, 50)
    for seed in range(5):
        item = views.crop((volume,), np.random.default_rng(seed))
        points = item["points"] + torch.tensor([2.0, 0, 0])
        assert ((points[:, 0] >= 6) & (points[:, 0] <= 12)).all()
        assert (points[:, 1] <= 10).all()
        reach = (item["points"] - item["centres"][:, None]).abs()
        assert (reach <= 4).all()
        assert item["body"].tolist() == [14, 10, 16]
    dark = stored(tmp_path, np.zeros((1, 16, 16, 16), np.float32))
    assert views.crop((dark,), np.random.default_rng(0))["points"].shape == (50, 3)


def test_the_items_of_a_step_lie_at_one_normalised_place_and_are_different_cases(tmp_path):
    sides = {"a": 20, "b": 40, "c": 30, "d": 24}
    entries = []
    for name, side in sides.items():
        image = np.random.default_rng(0).random((1, side, side, side), np.float32)
        entries.append(write_case(tmp_path, name, name, image))
    store = Store(write_manifest(tmp_path, entries))
    items = PretextItems(store, store.cases, small_dense(crop=(4, 4, 4)).views)
    seen = []
    for batch in loader(items, seed=1, first=0, steps=6, batch=4):
        assert sorted(batch["body"][:, 0].tolist()) == sorted(sides.values())
        assert len(set(batch["subject"].tolist())) == 4
        place = (batch["centres"].mean(1) / batch["body"]).numpy()
        inside = place.clip(0.12, 0.88)  # a small body has no window nearer to its border
        assert np.ptp(inside, axis=0).max() < 0.1
        seen.append(place.mean(0))
    assert np.ptp(seen, axis=0).min() > 0.2
    (again,) = loader(items, seed=1, first=5, steps=6, batch=4)  # as after a resume
    assert all(torch.equal(again[key], batch[key]) for key in batch)


def test_gradients_in_parts_equal_those_of_the_whole_batch(tmp_path):
    objective = small_dense().double()
    batch = batch_of(objective, stored(tmp_path), items=3)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    loss, _ = objective(batch)
    loss.backward()
    whole = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    in_parts, _ = cached_backward(objective, batch, 3)
    assert float(in_parts) == pytest.approx(float(loss.detach()), rel=1e-12)
    for name, gradient in whole.items():
        parameter = objective.get_parameter(name)
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-11)


def test_the_whole_network_but_its_head_is_trained(tmp_path):
    objective = small_dense()
    loss, terms = objective(batch_of(objective, stored(tmp_path)))
    loss.backward()
    touched = {
        n.split(".")[0] for n, p in objective.network.named_parameters() if p.grad is not None
    }
    assert touched == {"down", "up", "merge"}
    assert all(p.grad is not None for p in objective.project.parameters())
    assert set(terms) == {
        *("accuracy", "chance", "alignment", "positive_cosine", "negative_cosine"),
        *("spread", "uniformity", "effective_rank"),
    }
    assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())


def test_a_2d_network_compares_slices(tmp_path):
    torch.manual_seed(0)
    flat = UNet(1, [(1, 1), (2, 2)], 1, width=4)
    objective = Dense(flat, SPACING, points=6, crop=(8, 8, 1))
    loss, _ = objective(batch_of(objective, stored(tmp_path)))
    loss.backward()
    assert math.isfinite(float(loss.detach()))


def test_draws_depend_on_their_generators_alone(tmp_path):
    volume, views = stored(tmp_path), small_dense().views
    one, same, other = (views.crop((volume,), np.random.default_rng(s)) for s in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["points"], other["points"])


def test_a_subject_counts_once():
    assert first_of_each(torch.tensor([4, 2, 4, 3, 2])).tolist() == [True, True, False, True, False]
