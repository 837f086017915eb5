import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives.small import network, stored

from medcl.errors import MedclError, TrainingFailed
from medcl.objectives.sepclr import SepCLR, joint_entropy, separation, total, uniform

CROP = (8, 8, 8)
WEIGHTS = {"salient": 2.0, "null": 3.0, "joint": 5.0}


def small(**options):
    torch.manual_seed(0)
    return SepCLR(network(), crop=CROP, width=6, **options)


def batch_of(objective, volumes, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [objective.views.crop((volume,), rng) for volume in volumes]
    batch = {key: torch.stack([item[key] for item in drawn]) for key in drawn[0]}
    return objective.views.augment(batch, torch.Generator().manual_seed(seed))


@pytest.fixture
def cases(tmp_path):
    volume = stored(tmp_path)
    healthy = replace(volume, extra={"cohort": "healthy", "age": "3"})
    return [healthy, replace(volume, extra={"cohort": "lesions", "age": "4.5"})] * 2


def vectors(rows, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(4, rows, 5, generator=generator, dtype=torch.float64)
    return [tensor.clone().requires_grad_(requires_grad) for tensor in tensors]


def test_the_terms_equal_a_slow_loop():
    c1, c2, s1, s2 = vectors(5)
    target = torch.tensor([True, False, True, True, False])
    terms = separation((c1, c2), (s1, s2), target, 0.5)
    c = [(x / x.norm(dim=1, keepdim=True)).numpy() for x in (c1, c2)]
    s = [x.numpy() for x in (s1, s2)]
    null = [x * target.numpy()[:, None] for x in s]

    def unif(x):
        pairs = [math.exp(-((x[i] - x[j]) ** 2).sum()) for i in range(5) for j in range(i)]
        return math.log(sum(pairs) / len(pairs))

    def jem(a, b):
        rows = [
            [math.exp(-((a[i] - a[j]) ** 2).sum() - ((b[i] - b[j]) ** 2).sum()) for j in range(5)]
            for i in range(5)
        ]
        return sum(math.log(sum(row) / 5) for row in rows) / 5

    rows = target.numpy()
    assert float(terms["common_align"]) == pytest.approx(((c[0] - c[1]) ** 2).sum(1).mean())
    assert float(terms["common_uniform"]) == pytest.approx((unif(c[0]) + unif(c[1])) / 2)
    assert float(terms["salient_align"]) == pytest.approx(((s[0] - s[1])[rows] ** 2).sum(1).mean())
    assert float(terms["salient_uniform"]) == pytest.approx((unif(null[0]) + unif(null[1])) / 2)
    assert float(terms["salient_null"]) == pytest.approx(
        sum((x[~rows] ** 2).sum(1).mean() for x in s) / 2
    )
    assert float(terms["joint"]) == pytest.approx((jem(c[0], null[0]) + jem(c[1], null[1])) / 2)


@pytest.mark.parametrize("one", [True, False])
def test_a_batch_of_one_cohort_has_a_term_of_zero_and_finite_gradients(one):
    c1, c2, s1, s2 = vectors(4, requires_grad=True)
    terms = separation((c1, c2), (s1, s2), torch.full((4,), one), 0.5)
    empty = terms["salient_null" if one else "salient_align"]
    assert float(empty.detach()) == 0
    total(terms, **WEIGHTS).backward()
    assert all(torch.isfinite(x.grad).all() for x in (c1, c2, s1, s2))


def test_a_single_row_has_no_uniformity():
    x = torch.randn(1, 3, requires_grad=True)
    uniform(x, 0.5).backward()
    assert (x.grad == 0).all()
    assert float(joint_entropy(x.detach(), x.detach(), 0.5)) == 0


def test_distances_do_not_overflow_in_float32():
    c1, c2, s1, s2 = (1e4 * x.float().detach() for x in vectors(4))
    loss = total(separation((c1, c2), (s1, s2), torch.tensor([True, False] * 2), 0.5), **WEIGHTS)
    assert torch.isfinite(loss)


def test_the_cohort_comes_from_the_table_of_cases(cases):
    batch = batch_of(small(attributes=("age",)), cases)
    assert batch["target"].tolist() == [False, True, False, True]
    assert batch["attributes"][:, 0].tolist() == [3, 4.5, 3, 4.5]
    assert not torch.equal(batch["crops"][0, 0], batch["crops"][0, 1])


def test_a_case_without_the_column_is_not_trained_on(cases):
    assert small().lacks(cases[0]) is None
    assert small(column="group").lacks(cases[0]) == (
        "'group' in the table of cases (columns of its own: cohort, age)"
    )
    assert "'weight'" in small(attributes=("age", "weight")).lacks(cases[0])
    assert "'cohort'" in small().lacks(replace(cases[0], extra={"cohort": ""}))


@pytest.mark.parametrize("value", ["unknown", "nan", "inf", "3,5"])
def test_a_case_whose_attribute_is_no_number_is_not_trained_on(cases, value):
    odd = replace(cases[0], extra={"cohort": "healthy", "age": value})
    assert small(attributes=("age",)).lacks(cases[0]) is None
    assert "a number as 'age'" in small(attributes=("age",)).lacks(odd)
    assert small().lacks(odd) is None


@pytest.mark.parametrize(("background", "cohort"), [("Healthy", "background"), ("ill", "target")])
def test_a_pool_of_one_cohort_is_refused_before_the_first_step_with_the_values(
    cases, background, cohort
):
    pool = [case for case in cases if cohort == "background" or case.extra["cohort"] != "healthy"]
    objective = small(background="lesions" if cohort == "target" else background)
    with pytest.raises(TrainingFailed, match=f"no {cohort} among {len(pool)} .*'lesions' \\(2\\)"):
        objective.begin(3, pool)
    small().begin(3, cases)


def test_attributes_are_scaled_so_that_targets_of_any_unit_are_alike(cases):
    """Ages in years, their tenths or their thousandfolds: the same loss."""
    losses = []
    for factor in (0.1, 1.0, 1000.0):
        pool = [
            replace(cases[0], extra={"cohort": "ill" if n else "healthy", "age": f"{age * factor}"})
            for n, age in enumerate((90, 60, 61, 70, 80))
        ]
        objective = small(attributes=("age",))
        objective.begin(3, pool)
        batch = batch_of(objective, pool)
        expected = torch.tensor([1.5, 0, 0.05, 0.5, 1])
        torch.testing.assert_close(batch["attributes"][:, 0], expected)
        losses.append(float(objective(batch)[1]["age"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) == pytest.approx(losses[2], rel=1e-4)
    assert losses[0] > 1e-4
    same = [replace(case, extra={**case.extra, "age": "7"}) for case in pool]
    with pytest.raises(TrainingFailed, match="'age' is 7 in all 4 target cases"):
        small(attributes=("age",)).begin(3, same)


def test_attributes_pull_the_salient_features_of_targets(cases):
    objective = small(attributes=("age",))
    batch = batch_of(objective, cases)
    loss, terms = objective(batch)
    plain, _ = small()(batch)
    assert float(terms["age"]) > 0
    assert float((loss - plain).detach()) == pytest.approx(float(terms["age"]), abs=1e-4)
    with pytest.raises(MedclError, match="7 attributes"):
        small(attributes=tuple("abcdefg"))


def test_the_encoder_and_both_heads_learn_and_the_log_holds_every_term(cases):
    objective = small()
    loss, terms = objective(batch_of(objective, cases))
    loss.backward()
    touched = {
        n.split(".")[0] for n, p in objective.network.named_parameters() if p.grad is not None
    }
    assert touched == {"down"}
    assert objective.common[0].weight.grad.abs().sum() > 0
    assert objective.salient[0].weight.grad.abs().sum() > 0
    assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())
    assert float(terms["targets"]) == 0.5


def test_embedding_in_parts_gives_the_same_loss(cases):
    objective = small()
    batch = batch_of(objective, cases)
    whole, _ = objective(batch)
    parts = [objective.embed({k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    torch.testing.assert_close(objective.compare(joined, batch)[0], whole)
