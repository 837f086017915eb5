import math

import numpy as np
import pytest
import torch
from objectives.small import network, stored

from medcl.contrast.teacher import rising_momentum
from medcl.data.store import Store, write_case, write_manifest
from medcl.errors import MedclError
from medcl.networks.attention import CrossAttention
from medcl.objectives.alice import (
    Alice,
    alice_terms,
    cross_entropy,
    moved_centre,
    teacher_temperature,
)

CROP = (8, 8, 8)


def small(**options):
    torch.manual_seed(0)
    sizes = {"prototypes": 12, "hidden": 8, "width": 6, "heads": 2}
    return Alice(network(), crop=CROP, **{**sizes, **options})


def batch_of(objective, volumes, items=2, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [objective.views.crop(volumes, rng) for _ in range(items)]
    batch = {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}
    return objective.views.augment(batch, torch.Generator().manual_seed(seed))


def two(folder):
    """Volumes of different size whose voxels hold the share of the way along the first axis."""
    entries = []
    for case, length in (("a", 16), ("b", 32)):
        x = np.linspace(0, 1, length, dtype=np.float32)[:, None, None]
        image = np.broadcast_to(x, (length, 16, 16))[None].copy()
        entries.append(write_case(folder, case, case, image))
    store = Store(write_manifest(folder, entries))
    return store["a"], store["b"]


def test_the_crops_of_an_item_lie_at_the_same_share_of_the_way(tmp_path):
    objective = small()
    for seed in range(8):
        item = objective.views.crop(two(tmp_path), np.random.default_rng(seed))
        first, second = item["crops"].flatten(1)
        # The middle of a crop of 8 voxels moves over the share 8/16 and 24/32 of its body.
        place = (float(first.mean()) - 0.25) / 0.5
        assert float(second.mean()) == pytest.approx(0.125 + 0.75 * place, abs=0.05)


def test_cross_entropy_equals_a_slow_loop_and_its_teacher_is_constant():
    teacher, student = torch.randn(2, 5, 4, dtype=torch.float64).unbind()
    teacher.requires_grad_()
    student.requires_grad_()
    centre = torch.randn(1, 4, dtype=torch.float64)
    found = cross_entropy(teacher, student, centre, (0.1, 0.04))
    total = 0.0
    for t, s in zip((teacher.detach() - centre) / 0.04, student.detach() / 0.1, strict=True):
        p = [math.exp(x) / sum(math.exp(y) for y in t) for x in t]
        q = [math.exp(y) / sum(map(math.exp, s)) for y in s]
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    assert float(found.detach()) == pytest.approx(total / 5)
    found.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_cls_compares_across_subjects_and_patch_within():
    def logits(view, *shape):
        return torch.full(shape, 0.0).index_fill(-1, torch.tensor([view]), 5.0)

    own = {
        "cls": torch.stack([logits(v, 3, 4) for v in (0, 1)]),
        "patch": torch.stack([logits(v, 3, 2, 4) for v in (0, 1)]),
    }
    images = torch.zeros(2, 3, 1, 2, 2, 2)
    centres = {"cls": torch.zeros(1, 4), "patch": torch.zeros(1, 1, 4)}
    terms = alice_terms({**own, "recon": images + 2}, own, images, centres, (0.1, 0.1))
    assert float(terms["patch"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["cls"]) == pytest.approx(50, rel=1e-4)
    assert float(terms["recon"]) == pytest.approx(5 * 4)


def test_the_centre_follows_the_mean_of_the_teacher():
    teacher = torch.randn(2, 3, 4)
    moved = moved_centre(torch.ones(1, 4), teacher)
    torch.testing.assert_close(moved, 0.9 + 0.1 * teacher.mean((0, 1))[None])


def test_the_schedules_start_and_end_where_they_should():
    assert teacher_temperature(0, 30) == 0.008
    assert teacher_temperature(29, 30) == teacher_temperature(99, 30) == 0.01
    assert teacher_temperature(0, 0) == 0.008
    assert teacher_temperature(0, 30, (0.04, 0.07)) == 0.04
    assert teacher_temperature(29, 30, (0.04, 0.07)) == pytest.approx(0.07)
    assert rising_momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert rising_momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert rising_momentum(100, 100, 0.996) == rising_momentum(120, 100, 0.996) == 1


def test_columns_are_hidden_from_the_student_along_the_whole_thick_axis(tmp_path):
    objective = small()
    batch = batch_of(objective, two(tmp_path))
    visible = batch["visible"]
    assert visible.shape == (2, 2, 1, *CROP)
    assert (visible == visible[..., :1]).all()
    assert visible.float().mean() == 0.25
    seen = objective.embed(batch)
    hidden = torch.where(visible, batch["crops"], batch["crops"] + 3)
    other = objective.embed({**batch, "crops": hidden})
    torch.testing.assert_close(seen["deep"], other["deep"])
    assert not torch.allclose(seen["teacher_deep"], other["teacher_deep"])


def test_the_teachers_tokens_are_asked_with_the_students_query(tmp_path):
    objective = small()
    asked = []
    objective.casa.register_forward_hook(lambda _, inputs, __: asked.append(inputs))
    objective(batch_of(objective, two(tmp_path)))
    (query, tokens), (query_again, teachers) = asked
    assert torch.equal(query, query_again)
    assert tokens.requires_grad
    assert not teachers.requires_grad


def test_the_whole_network_but_its_head_is_trained_and_the_teacher_is_not(tmp_path):
    objective = small()
    batch = batch_of(objective, two(tmp_path))
    loss, terms = objective(batch)
    loss.backward()
    touched = {
        n.split(".")[0] for n, p in objective.network.named_parameters() if p.grad is not None
    }
    assert touched == {"down", "up", "merge"}
    assert all(p.grad is not None for p in objective.casa.parameters())
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert all(torch.as_tensor(value).ndim == 0 for value in terms.values())
    parts = sum(float(terms[name]) for name in ("cls", "patch", "recon"))
    assert float(loss.detach()) == pytest.approx(parts, rel=1e-5)


def test_the_teacher_rises_to_standing_still_and_the_state_holds_the_step(tmp_path):
    objective = small(momentum=0.5)
    objective.begin(4, [])
    moved = []
    for _ in range(5):
        before = objective.teacher.copies[1].prototypes.weight.clone()
        with torch.no_grad():
            objective.head.prototypes.weight.copy_(before + 1)
        objective.after_step()
        moved.append(float((objective.teacher.copies[1].prototypes.weight - before).mean()))
    expected = [1 - rising_momentum(k, 4, 0.5) for k in range(5)]
    assert moved == pytest.approx(expected, abs=1e-5)
    resumed = small()
    resumed.load_state_dict(objective.state_dict())
    assert int(resumed.done) == 5


def test_the_centres_move_in_training_alone(tmp_path):
    objective = small()
    batch = batch_of(objective, two(tmp_path))
    objective.eval()(batch)
    assert (objective.centre == 0).all()
    objective.train()(batch)
    assert (objective.centre != 0).any()
    assert (objective.centre_patch != 0).any()


def test_embedding_in_parts_gives_the_same_loss(tmp_path):
    objective = small().eval()
    batch = batch_of(objective, two(tmp_path), items=3)
    whole, _ = objective(batch)
    parts = [objective.embed({k: v[i : i + 1] for k, v in batch.items()}) for i in range(3)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    torch.testing.assert_close(objective.compare(joined, batch)[0], whole)


def test_attention_depends_on_all_tokens_but_not_on_their_order():
    torch.manual_seed(0)
    block = CrossAttention(6, heads=2, size=3, hidden=8)
    query, tokens = torch.randn(2, 4, 6), torch.randn(2, 5, 6)
    found = block(query, tokens)
    torch.testing.assert_close(block(query, tokens.flip(1)), found)
    assert not torch.allclose(block(query, tokens[:, :4]), found)


def test_a_single_case_cannot_be_matched(tmp_path):
    stored(tmp_path)
    with pytest.raises(MedclError, match="compares 2 cases, and the pool has 1"):
        small().views.groups(["c"], np.random.default_rng(0))


def test_a_hotter_teacher_has_softer_targets(tmp_path):
    entropies = []
    for temperature in (0.008, 0.07):
        objective = small(temperatures=(temperature, temperature))
        _, terms = objective(batch_of(objective, two(tmp_path)))
        entropies.append(float(terms["target_entropy"]))
    assert entropies[0] < 0.7 * entropies[1]
