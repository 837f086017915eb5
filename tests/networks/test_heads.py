import pytest
import torch

from medcl.networks.heads import Standardise, pool, projector


def test_pooling_is_the_mean_over_space_of_each_map():
    fine, coarse = torch.rand(2, 3, 4, 4, 4), torch.rand(2, 5, 2, 1, 2)
    pooled = pool([fine, coarse])
    assert pooled.shape == (2, 8)
    assert float(pooled[1, 2]) == pytest.approx(float(fine[1, 2].mean()))
    assert float(pooled[0, 6]) == pytest.approx(float(coarse[0, 3].mean()))


def test_standardised_features_have_mean_zero_and_variance_one_over_the_rows():
    x = torch.randn(6, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    y = Standardise()(x)
    expected = (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + 1e-5)
    torch.testing.assert_close(y, expected)


def test_a_projector_separates_what_differs_little():
    torch.manual_seed(0)
    common = torch.rand(1, 16) * 10
    embeddings = projector(16, 32)(common + 0.01 * torch.randn(8, 16)).detach()
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    others = (unit @ unit.T).triu(1)
    assert float(others.sum() / 28) < 0.5
