import math

import pytest
import torch

from medcl.contrast.sphere import alignment, collapse_terms, effective_rank, uniformity


def embeddings(n=7, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def unit(rows):
    return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows.tolist()]


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def test_alignment_and_uniformity_equal_their_slow_loops():
    x, y = embeddings(), embeddings(seed=1)
    u, v = unit(x), unit(y)
    expected = sum(squared(a, b) for a, b in zip(u, v, strict=True)) / 7
    assert float(alignment(x, y)) == pytest.approx(expected, rel=1e-5)
    potentials = [math.exp(-2 * squared(u[i], u[j])) for i in range(7) for j in range(i)]
    assert float(uniformity(x)) == pytest.approx(math.log(sum(potentials) / 21), rel=1e-5)


def test_spread_equals_its_slow_loop():
    columns = list(zip(*unit(embeddings()), strict=True))
    deviations = []
    for column in columns:
        mean = sum(column) / 7
        deviations.append(math.sqrt(sum((v - mean) ** 2 for v in column) / 7))
    expected = math.sqrt(5) * sum(deviations) / 5
    assert float(collapse_terms(embeddings())["spread"]) == pytest.approx(expected, rel=1e-5)


def test_equal_embeddings_are_a_collapse():
    terms = collapse_terms(embeddings(1).expand(6, 5))
    assert float(terms["spread"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["uniformity"]) == pytest.approx(0, abs=1e-5)
    assert float(alignment(embeddings(), embeddings())) == pytest.approx(0, abs=1e-10)


def test_the_effective_rank_counts_equally_used_dimensions():
    axes = torch.eye(6)[:3]
    assert float(effective_rank(torch.cat([axes, -axes]))) == pytest.approx(3)
    line = torch.linspace(-1, 1, 9)[:, None] * embeddings(1)
    assert float(effective_rank(line)) == pytest.approx(1, rel=1e-5)
    assert float(effective_rank(torch.ones(4, 3))) == 0


def test_the_effective_rank_comes_from_the_eigenvalues_of_the_covariance():
    values = torch.linalg.eigvalsh(embeddings(20).T.cov(correction=0))
    expected = values.sum() ** 2 / values.square().sum()
    assert float(effective_rank(embeddings(20))) == pytest.approx(float(expected), rel=1e-4)


def test_evenly_spread_embeddings_have_a_spread_of_one():
    assert float(collapse_terms(embeddings(4000, 8))["spread"]) == pytest.approx(1, abs=0.01)


def test_a_single_embedding_says_nothing():
    assert all(float(value) == 0 for value in collapse_terms(embeddings(1)).values())


def test_half_precision_is_computed_in_float32_and_without_gradient():
    terms = collapse_terms(embeddings().bfloat16().requires_grad_())
    assert all(v.dtype == torch.float32 and not v.requires_grad for v in terms.values())
