"""Bootstrap and Wilcoxon: computed rightly, and shown not to hold their level."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from medcl.study.resampling import bootstrap, wilcoxon


def nulls(rng, *, studies, replicates, cases, variances):
    """Differences (S, R, C) of two equal arms, each with half of `variances` as its own noise."""
    found = 0.0
    for sign in (1, -1):
        for shape, variance in zip(
            [(studies, replicates, 1), (studies, 1, cases), (studies, replicates, cases)],
            variances,
            strict=True,
        ):
            found = found + sign * math.sqrt(variance / 2) * rng.standard_normal(shape)
    return found


def test_the_bootstrap_equals_drawing_rows_and_columns_one_study_at_a_time():
    (table,) = nulls(
        np.random.default_rng(1), studies=1, replicates=5, cases=7, variances=(1, 1, 1)
    )
    low, high = bootstrap(table, np.random.default_rng(2), draws=20000)
    rng = np.random.default_rng(3)
    means = []
    for _ in range(20000):
        rows, columns = rng.integers(5, size=5), rng.integers(7, size=7)
        means.append(table[rows][:, columns].mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.03)


def test_one_study_is_treated_as_it_is_among_others():
    tables = nulls(np.random.default_rng(4), studies=3, replicates=4, cases=6, variances=(1, 1, 1))
    together = bootstrap(tables, np.random.default_rng(5), draws=50)
    alone = bootstrap(tables[1], np.random.default_rng(5), draws=50)
    for limits, limit in zip(together, alone, strict=True):
        assert limits[1] == pytest.approx(limit)


@pytest.mark.parametrize("cases", [12, 40])
@pytest.mark.parametrize("variances", [(1, 1, 1), (0.6, 0.2, 0.2), (0.1, 0.8, 0.3)])
def test_the_bootstrap_of_three_replicates_rejects_a_true_null_too_often(cases, variances):
    rng = np.random.default_rng(20)
    values = nulls(rng, studies=2000, replicates=3, cases=cases, variances=variances)
    low, high = bootstrap(values, rng, draws=400)
    assert np.mean((low > 0) | (high < 0)) > 0.07


@pytest.mark.parametrize(("replicates", "cases"), list(product((5, 10), (12, 40))))
def test_wilcoxon_over_cases_rejects_a_true_null_of_arms_far_too_often(replicates, cases):
    rng = np.random.default_rng(21)
    values = nulls(rng, studies=300, replicates=replicates, cases=cases, variances=(1, 0.5, 0.5))
    p = np.array([wilcoxon(table) for table in values])
    assert np.mean(p < 0.05) > 0.15


def test_wilcoxon_is_scipys_over_the_means_of_the_replicates():
    table = np.random.default_rng(6).normal(0.3, 1, (5, 9))
    assert wilcoxon(table) == stats.wilcoxon(table.mean(axis=0)).pvalue
    assert wilcoxon(np.zeros((5, 4))) is None
