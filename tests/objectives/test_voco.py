import itertools
import math

import numpy as np
import pytest
import torch
from objectives.small import network, stored
from scipy.optimize import minimize

from medcl.errors import MedclError
from medcl.objectives import build
from medcl.objectives.voco import VoCo, VoCoViews
from medcl.objectives.voco_chance import EPSILON, chance
from medcl.objectives.voco_losses import (
    cell_regulariser,
    next_volume_loss,
    position_logits,
    position_loss,
)

CROP = (8, 8, 8)


def batch_of(objective, volume, items=2, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [objective.views.crop((volume,), rng) for _ in range(items)]
    return {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}


def small_voco(**options):
    torch.manual_seed(0)
    return VoCo(network(), crop=CROP, width=16, **{"targets": 3, **options})


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def test_the_loss_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 2, 7, 5))
    overlaps = rng.dirichlet(np.ones(4), size=(2, 3))
    overlaps[:, :, 0] = 0
    tensors = [torch.from_numpy(x) for x in (student, teacher, overlaps)]
    p = position_logits(tensors[0][:, :3], tensors[0][:, 3:], tensors[1][:, :3], tensors[1][:, 3:])
    pos, neg = position_loss(p, tensors[2])
    reg = cell_regulariser(tensors[0][:, 3:])
    sums = np.zeros(3)
    for b in range(2):
        total = positive = zeros = negative = 0.0
        for n, k in itertools.product(range(3), range(4)):
            forth = max(0, cosine(student[b, n], teacher[b, 3 + k]))
            back = max(0, cosine(teacher[b, n], student[b, 3 + k]))
            share, guess = overlaps[b, n, k], (forth + back) / 2
            total += share
            positive -= share * math.log(1 - abs(share - guess) + EPSILON)
            if share == 0:
                zeros += 1
                negative += guess**2
        pairs = [
            max(0, cosine(student[b, 3 + i], student[b, 3 + j])) ** 2
            for i, j in itertools.combinations(range(4), 2)
        ]
        sums += positive / (total + EPSILON), negative / (zeros + EPSILON), sum(pairs) / 6
    np.testing.assert_allclose([float(pos), float(neg), float(reg)], sums / 2, rtol=1e-12)


def test_of_each_pair_of_cells_only_the_earlier_one_is_pushed():
    cells = torch.rand(1, 3, 4, requires_grad=True)
    cell_regulariser(cells).backward()
    assert (cells.grad[0, :2].abs().sum(1) > 0).all()
    assert (cells.grad[0, 2] == 0).all()


def test_the_teachers_vectors_are_constants():
    vectors = [torch.rand(1, n, 4, requires_grad=True) for n in (2, 3, 2, 3)]
    position_logits(*vectors).sum().backward()
    assert [vector.grad is None for vector in vectors] == [False, False, True, True]


def places(grid, cell):
    """Shares of a crop at every place it is drawn from, counted one by one."""
    starts = [range(max(1, (n - 1) * side)) for n, side in zip(grid, cell, strict=True)]
    rows = []
    for place in itertools.product(*starts):
        row = []
        for k in itertools.product(*map(range, grid)):
            share = 1.0
            for at, i, side in zip(place, k, cell, strict=True):
                share *= max(0.0, 1 - abs(at - i * side) / side)
            row.append(share)
        rows.append(row)
    return np.array(rows)


def slow_chance(shares, constants, counts, variant):
    """Mean of pos + neg over all combinations (`counts`: how many) of targets."""
    losses = []
    excess = -np.log(1 - constants + EPSILON) if variant == "v2" else constants**2
    for rows in itertools.product(shares, repeat=counts):
        rows = np.array(rows)
        zero = rows == 0
        weights = rows > 0 if variant == "v0" else rows
        pos = -(weights * np.log(1 - np.abs(rows - constants) + EPSILON)).sum() / weights.sum()
        losses.append(pos + (zero * excess).sum() / (zero.sum() + EPSILON))
    return np.mean(losses)


@pytest.mark.parametrize("variant", ["v0", "v1", "v2", "nnssl"])
@pytest.mark.parametrize(
    ("grid", "cell", "targets"),
    [((2, 2, 1), (2, 3, 2), 2), ((2, 1, 1), (5, 1, 3), 3), ((3, 2, 1), (4, 5, 3), 1)],
)
def test_the_chance_level_is_the_least_loss_of_constants_over_all_places(
    grid, cell, targets, variant
):
    shares = places(grid, cell)
    start = np.full(shares.shape[1], 0.3)
    bounds = [(0, 0.99)] * len(start)
    best = minimize(lambda c: slow_chance(shares, c, targets, variant), start, bounds=bounds).fun
    assert chance(grid, cell, targets, variant) == pytest.approx(best, abs=5e-4)


def test_the_chance_level_of_the_published_geometry_is_the_published_one():
    """From the methods' sheet (quadrature over all centres): 0.350, and 0.504 for v2's intra."""
    assert chance((4, 4, 1), (96, 96, 96), 2) == pytest.approx(0.350, abs=5e-4)
    assert chance((3, 3, 1), (64, 64, 64), 2, "v2") == pytest.approx(0.504, abs=5e-4)


def test_a_large_cell_is_summed_up_almost_as_exactly_as_a_small_one():
    shares = places((3, 3, 1), (30, 30, 1))
    zero = shares == 0
    expected = 0.0
    for k in range(9):
        grid = np.linspace(0, 1, 201)
        losses = [
            -(shares[:, k] * np.log(1 - np.abs(shares[:, k] - c) + EPSILON)).mean()
            + (zero[:, k] * c**2 / zero.sum(1)).mean()
            for c in grid
        ]
        expected += min(losses)
    assert chance((3, 3, 1), (30, 30, 1), 1) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("cells", ["own", "fixed"])
def test_a_target_lies_where_its_overlaps_say(tmp_path, cells):
    """Voxels hold their own x coordinate, so the mean of a crop is its place."""
    shape = (20, 17, 18)
    x = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None], shape)[None]
    volume = stored(tmp_path, x.copy(), body=((1, 0, 0), (20, 17, 18)))
    views = VoCoViews((1.0, 1.0, 1.0), (2, 2, 2), CROP, 5, cells)
    for seed in range(5):
        item = views.crop((volume,), np.random.default_rng(seed))
        assert item["crops"].shape == (13, 1, *CROP)
        centres = item["crops"].mean((1, 2, 3, 4))
        side = 9 if cells == "own" else 8
        first = centres[5:9].mean()
        assert centres[9:].mean() - first == pytest.approx(side)
        share = item["overlaps"][:, 4:].sum(1)
        torch.testing.assert_close((centres[:5] - first) / side, share, rtol=0, atol=1e-5)
        torch.testing.assert_close(item["overlaps"].sum(1), torch.ones(5))


def test_a_volume_the_grid_does_not_fit_into_is_left_out_before_the_first_step(tmp_path):
    volume = stored(tmp_path, np.zeros((1, 12, 20, 20), np.float32))
    tight = small_voco(cells="fixed").lacks(volume)
    assert tight.startswith("the (16, 16, 16) voxels of VoCo's (2, 2, 2) grid of (8, 8, 8)-voxel")
    assert "lower `crop` or `grid`" in tight
    assert small_voco(cells="own").lacks(volume) is None
    flat = small_voco(grid=(13, 1, 1)).lacks(volume)
    assert flat == "a body of (13, 1, 1) voxels, one for each cell of VoCo's `grid` (lower it)"
    assert small_voco(grid=(12, 1, 1)).lacks(volume) is None
    large = stored(tmp_path / "large", np.zeros((1, 16, 16, 16), np.float32))
    assert small_voco(cells="fixed").lacks(large) is None
    item = small_voco(grid=(12, 1, 1)).views.crop((volume,), np.random.default_rng(0))
    assert item["crops"].shape == (15, 1, *CROP)


def test_a_perfect_answer_has_no_dead_logits_however_many_cells_a_crop_misses(tmp_path):
    """Each embedding is the shares of its crop; those of the cells are the axes."""
    objective = small_voco(grid=(4, 4, 4))
    batch = batch_of(objective, stored(tmp_path))
    objective.project = torch.nn.Identity()
    objective.teacher.copies[0] = torch.nn.Identity()
    shares = batch["overlaps"]
    ideal = torch.cat([shares, torch.eye(64).expand(2, -1, -1)], 1)
    _, terms = objective.compare({"student": ideal, "teacher": ideal}, batch)
    assert float((shares == 0).float().mean()) > 0.85
    assert float(terms["zero_logits"]) == 0
    dead = torch.cat([-shares, torch.eye(64).expand(2, -1, -1)], 1)
    _, terms = objective.compare({"student": dead, "teacher": dead}, batch)
    assert float(terms["zero_logits"]) == 1


def test_draws_depend_on_their_generators_alone(tmp_path):
    volume = stored(tmp_path)
    views = small_voco().views
    one, same, other = (views.crop((volume,), np.random.default_rng(s)) for s in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["overlaps"], other["overlaps"])
    batch = {key: value[None] for key, value in one.items()}
    first, again = (views.augment(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first["crops"], again["crops"])
    assert torch.equal(first["overlaps"], batch["overlaps"])
    assert not torch.equal(first["crops"], batch["crops"])


def test_the_teacher_starts_as_the_student_and_only_the_encoder_and_projector_learn(tmp_path):
    objective = small_voco()
    batch = batch_of(objective, stored(tmp_path))
    embeddings = objective.embed(batch)
    torch.testing.assert_close(embeddings["student"], embeddings["teacher"])
    loss, _ = objective.compare(embeddings, batch)
    loss.backward()
    touched = {
        n.split(".")[0] for n, p in objective.network.named_parameters() if p.grad is not None
    }
    assert touched == {"down"}
    assert all(p.grad is not None for p in objective.project.parameters())
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert not any(
        p.requires_grad
        for n, p in objective.network.named_parameters()
        if not n.startswith("down.")
    )


def test_the_teacher_follows_after_the_step(tmp_path):
    objective = small_voco(momentum=0.75)
    start = objective.project[0].weight.detach().clone()
    with torch.no_grad():
        objective.project[0].weight.add_(1.0)
    objective.after_step()
    torch.testing.assert_close(objective.teacher.copies[0][0].weight, start + 0.25)


def test_embedding_in_parts_gives_the_same_loss(tmp_path):
    objective = small_voco()
    batch = batch_of(objective, stored(tmp_path), items=3)
    whole, _ = objective(batch)
    parts = [objective.embed({k: v[i : i + 1] for k, v in batch.items()}) for i in range(3)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    torch.testing.assert_close(objective.compare(joined, batch)[0], whole)


def test_the_log_names_terms_chance_and_collapse_without_gradient(tmp_path):
    objective = small_voco()
    loss, terms = objective(batch_of(objective, stored(tmp_path)))
    assert set(terms) == {
        *("pos", "neg", "reg", "chance", "zero_logits", "cell_cosine"),
        *("alignment", "positive_cosine", "negative_cosine"),
        *("spread", "uniformity", "effective_rank"),
    }
    assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())
    total = sum(float(terms[name]) for name in ("pos", "neg", "reg"))
    assert float(loss.detach()) == pytest.approx(total, rel=1e-6)
    assert float(terms["chance"]) == pytest.approx(chance((2, 2, 2), (8, 8, 8), 3))


def test_a_collapse_shows_in_the_log_and_has_no_gradient(tmp_path):
    objective = small_voco()
    batch = batch_of(objective, stored(tmp_path))
    objective.project = torch.nn.Identity()
    objective.teacher.copies[0] = torch.nn.Identity()
    same = torch.rand(1, 1, 6).expand(2, 11, 6).clone().requires_grad_()
    loss, terms = objective.compare({"student": same, "teacher": same.detach()}, batch)
    loss.backward()
    assert float(same.grad.abs().max()) < 1e-12
    assert float(terms["cell_cosine"]) == pytest.approx(1)
    assert float(terms["spread"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["reg"]) == pytest.approx(1)
    dead = {"student": same.detach(), "teacher": -same.detach()}
    assert float(objective.compare(dead, batch)[1]["zero_logits"]) == 1


def test_autocast_does_not_reach_the_comparison(tmp_path):
    objective = small_voco()
    batch = batch_of(objective, stored(tmp_path))
    embeddings = {key: value.detach() for key, value in objective.embed(batch).items()}
    exact, _ = objective.compare(embeddings, batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = objective.compare(embeddings, batch)
    assert torch.equal(cast, exact)


def test_one_cell_is_refused():
    with pytest.raises(MedclError, match="one cell"):
        build({"name": "voco", "grid": [1, 1, 1]}, network(), crop=CROP, spacing=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("variant", ["v0", "v1", "v2", "nnssl"])
def test_each_variant_sums_its_terms_and_trains_the_encoder(tmp_path, variant):
    objective = small_voco(variant=variant)
    batch = batch_of(objective, stored(tmp_path))
    loss, terms = objective(batch)
    loss.backward()
    names = {"pos", "neg", "reg"} | ({"inter"} if variant == "v2" else set())
    assert float(loss.detach()) == pytest.approx(sum(float(terms[n]) for n in names), rel=1e-6)
    assert ("inter" in terms) == (variant == "v2")
    assert float(terms["chance"]) == pytest.approx(chance((2, 2, 2), (8, 8, 8), 3, variant))
    gradients = [p.grad for p in objective.network.down.parameters()]
    assert all(gradient is not None for gradient in gradients)
    copies = [] if objective.teacher is None else list(objective.teacher.copies)
    assert len(copies) == {"v0": 0, "v1": 2, "v2": 1, "nnssl": 0}[variant]
    objective.after_step()
    width = objective.project[0].in_features
    assert width == (8 if variant == "v0" else 12)


def test_v2_compares_with_the_next_volume_of_the_batch(tmp_path):
    """Another last volume changes the term of the volume before it and its own."""
    crops, cells, crops_teacher, cells_teacher = (torch.rand(3, n, 5) for n in (2, 4, 2, 4))
    whole = next_volume_loss(crops, cells, crops_teacher, cells_teacher)
    each = [
        next_volume_loss(
            crops[b : b + 1],
            cells[(b + 1) % 3][None],
            crops_teacher[b : b + 1],
            cells_teacher[(b + 1) % 3][None],
        )
        for b in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(each).mean())


def test_nnssl_projects_each_sample_by_itself():
    project = small_voco(variant="nnssl").project
    rows = torch.rand(4, 12)
    torch.testing.assert_close(project(rows)[:1], project(rows[:1]))
    with pytest.raises(ValueError, match="more than 1 value"):
        small_voco(variant="v0").project(torch.rand(1, 8))
