"""The crossed-variance interval: against a slow loop, and its level and power by simulation."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from scipy import integrate, stats

from medcl.study.statistics import (
    LEVEL,
    Spread,
    components,
    crossed,
    detectable_difference,
    estimate,
    holm,
    power,
    precision,
    t_interval,
)


def simulate(rng, *, studies, replicates, cases, variances, effect=0.0):
    """Differences (S, R, C) of two arms: each has noise of its own, half of `variances`."""
    replicate, case, residual = (math.sqrt(variance / 2) for variance in variances)

    def arm():
        return (
            replicate * rng.standard_normal((studies, replicates, 1))
            + case * rng.standard_normal((studies, 1, cases))
            + residual * rng.standard_normal((studies, replicates, cases))
        )

    # how hard a case and how lucky a subset is for both arms leaves their difference
    shared = rng.standard_normal((studies, 1, cases)) + rng.standard_normal(
        (studies, replicates, 1)
    )
    return (shared + arm() + effect) - (shared + arm())


def slow_interval(table):
    """The same interval, in loops and from the variance components themselves."""
    rows, columns = len(table), len(table[0])
    grand = sum(sum(row) for row in table) / (rows * columns)
    row_mean = [sum(row) / columns for row in table]
    column_mean = [sum(table[r][c] for r in range(rows)) / rows for c in range(columns)]
    ms_r = columns * sum((m - grand) ** 2 for m in row_mean) / (rows - 1)
    ms_c = rows * sum((m - grand) ** 2 for m in column_mean) / (columns - 1)
    ss_e = 0.0
    for r in range(rows):
        for c in range(columns):
            ss_e += (table[r][c] - row_mean[r] - column_mean[c] + grand) ** 2
    ms_e = ss_e / ((rows - 1) * (columns - 1))
    s_r = max(0.0, (ms_r - ms_e) / columns)
    s_c = max(0.0, (ms_c - ms_e) / rows)
    variance = s_r / rows + s_c / columns + ms_e / (rows * columns)
    parts = []
    if s_r > 0:
        parts.append((ms_r, rows - 1))
    if s_c > 0:
        parts.append((ms_c, columns - 1))
    if (s_r > 0) == (s_c > 0):
        parts.append((ms_e, (rows - 1) * (columns - 1)))
    total = variance * rows * columns
    degrees = total**2 / sum(ms**2 / df for ms, df in parts)
    degrees = max(degrees, min(rows, columns) - 1)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(variance)
    p = 2 * stats.t.sf(abs(grand) / math.sqrt(variance), degrees)
    return grand, grand - half, grand + half, p


SPLITS = {
    "all three": (1, 1, 1),
    "replicates alone": (1, 0, 0.3),
    "cases alone": (0, 1, 0.3),
    "residual alone": (0, 0, 1),
}


@pytest.mark.parametrize("split", SPLITS)
def test_the_interval_equals_the_one_computed_in_loops(split):
    rng = np.random.default_rng(3)
    for table in simulate(rng, studies=20, replicates=5, cases=7, variances=SPLITS[split]):
        found = estimate(table + 0.4)
        mean, low, high, p = slow_interval((table + 0.4).tolist())
        assert found.mean == pytest.approx(mean)
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.p == pytest.approx(p)


@pytest.mark.parametrize(("replicates", "cases"), list(product((5, 10), (12, 40))))
@pytest.mark.parametrize("variances", [(1, 1, 1), (0.6, 0.2, 0.2), (0.1, 0.8, 0.3)])
def test_a_true_null_is_rejected_in_at_most_seven_per_cent_of_studies(replicates, cases, variances):
    rng = np.random.default_rng(20)
    values = simulate(rng, studies=2000, replicates=replicates, cases=cases, variances=variances)
    *_, p = t_interval(*crossed(values))
    assert 0.02 <= np.mean(p < 0.05) <= 0.07


def test_four_replicates_are_enough_for_the_level_to_hold():
    rng = np.random.default_rng(21)
    values = simulate(rng, studies=2000, replicates=4, cases=20, variances=(1, 0.5, 0.5))
    *_, p = t_interval(*crossed(values))
    assert np.mean(p < 0.05) <= 0.07


@pytest.mark.parametrize(("replicates", "cases"), list(product((5, 10), (12, 40))))
@pytest.mark.parametrize("deviation", [2, 2 * math.sqrt(2)])  # of the difference; of each arm
def test_four_points_are_found_as_often_as_the_predicted_power_says(replicates, cases, deviation):
    rng = np.random.default_rng(24)
    values = simulate(
        rng,
        studies=2000,
        replicates=replicates,
        cases=cases,
        variances=[deviation**2] * 3,
        effect=4,
    )
    *_, p = t_interval(*crossed(values))
    error, degrees = precision(Spread(deviation, deviation, deviation), replicates, cases)
    assert np.mean(p < LEVEL) == pytest.approx(power(4, error, degrees), abs=0.05)


def slow_power(shift, degrees, level=0.05):
    """Chance that |Z + shift| exceeds the limit of t, over every value of the error's estimate."""
    limit = stats.t.ppf(1 - level / 2, degrees)

    def beyond(v):
        reach = limit * math.sqrt(v / degrees)
        tails = stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift)
        return tails * stats.chi2.pdf(v, degrees)

    parts = [1e-6, 1e-3, 0.1, 1, 5, 20]  # much of it lies near 0 with few degrees of freedom
    edges = [0, *(part * degrees for part in parts)]
    return sum(integrate.quad(beyond, *pair)[0] for pair in pairwise(edges))


@pytest.mark.parametrize(("difference", "degrees"), [(0.0, 5.0), (0.4, 5.0), (-1.0, 9.0), (1, 40)])
def test_power_equals_the_integral_over_the_estimated_error(difference, degrees):
    expected = slow_power(difference / 0.3, degrees)
    assert power(difference, 0.3, degrees) == pytest.approx(expected, abs=1e-6)


def test_the_components_are_those_of_the_slow_loop_and_are_never_negative():
    rng = np.random.default_rng(8)
    (table,) = simulate(rng, studies=1, replicates=200, cases=300, variances=(4, 9, 1))
    found = components(table)
    assert (found.replicate, found.case, found.residual) == pytest.approx((2, 3, 1), rel=0.1)
    crossing = np.array([[1.0, -1.0], [-1.0, 1.0]])  # all in the residual
    assert components(crossing) == Spread(0.0, 0.0, 2.0)


def test_the_expected_precision_is_that_of_a_table_with_these_components():
    rng = np.random.default_rng(9)
    (table,) = simulate(rng, studies=1, replicates=5, cases=9, variances=(3, 2, 1))
    found = estimate(table)
    assert found.spread.replicate > 0
    assert found.spread.case > 0
    assert precision(found.spread, 5, 9) == pytest.approx((found.error, found.degrees))


def slow_holm(p, level):
    """Which of the family are rejected: step down from the smallest until one fails."""
    rejected = [False] * len(p)
    order = sorted(range(len(p)), key=lambda i: (p[i] is None, p[i]))
    for step, place in enumerate(order):
        if p[place] is None or p[place] > level / (len(p) - step):
            break
        rejected[place] = True
    return rejected


def test_holm_rejects_what_stepping_down_rejects():
    rng = np.random.default_rng(10)
    for size in range(1, 8):
        for _ in range(30):
            p = [None if rng.random() < 0.1 else float(v) for v in rng.random(size) ** 3]
            found = [q is not None and q <= 0.05 for q in holm(p)]
            assert found == slow_holm(p, 0.05)


def test_holm_gives_the_values_adjusted_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not fall below the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_that_failed_still_counts_in_its_family():
    assert holm([0.02, None]) == [pytest.approx(0.04), None]


def test_a_family_of_true_nulls_is_rejected_in_at_most_seven_per_cent_of_studies():
    rng = np.random.default_rng(25)
    values = simulate(rng, studies=2000 * 6, replicates=5, cases=12, variances=(1, 1, 1))
    *_, p = t_interval(*crossed(values))
    families = p.reshape(2000, 6)
    assert np.mean([min(holm(list(family))) < LEVEL for family in families]) <= 0.07
    assert np.mean(families.min(axis=1) < LEVEL) > 0.2  # what goes uncorrected


def test_a_difference_as_large_as_the_detectable_one_is_found_in_four_of_five_studies():
    rng = np.random.default_rng(22)
    variances, replicates, cases = (0.5, 0.5, 1.0), 10, 40
    error = math.sqrt(0.5 / replicates + 0.5 / cases + 1.0 / (replicates * cases))
    null = simulate(rng, studies=2000, replicates=replicates, cases=cases, variances=variances)
    _, _, degrees = crossed(null)
    effect = detectable_difference(error, float(np.median(degrees)))
    *_, p = t_interval(*crossed(null + effect))
    assert np.mean(p < 0.05) == pytest.approx(0.80, abs=0.04)


@pytest.mark.parametrize("level", [0.05, 0.05 / 4, 0.05 / 12])
@pytest.mark.parametrize("degrees", [1.0, 3.0, 4.0, 5.0, 9.0])
def test_the_detectable_difference_is_found_in_four_of_five_studies_at_every_level(level, degrees):
    found = detectable_difference(0.3, degrees, level=level)
    assert slow_power(found / 0.3, degrees, level) == pytest.approx(0.80, abs=1e-5)


def test_a_stricter_level_asks_for_a_larger_difference():
    assert detectable_difference(0.01, 9.0, level=0.05 / 6) > detectable_difference(0.01, 9.0)


def test_the_power_of_a_large_difference_is_one_with_few_degrees_of_freedom():
    # the tail on the other side, too small for scipy to tell, once made all of it nan
    for shift in np.linspace(200, 400, 20):
        assert power(shift, 1.0, 1.0) == pytest.approx(1.0, abs=1e-4)
        assert power(-shift, 1.0, 1.0) == power(shift, 1.0, 1.0)


def test_the_interval_contains_zero_exactly_when_p_exceeds_five_per_cent():
    rng = np.random.default_rng(4)
    for table in simulate(rng, studies=50, replicates=5, cases=6, variances=(1, 1, 1), effect=1.2):
        found = estimate(table)
        assert (found.low <= 0 <= found.high) == (found.p >= 0.05)


def test_a_failed_replicate_is_dropped_as_a_row_and_an_undefined_case_as_a_column():
    rng = np.random.default_rng(5)
    (whole,) = simulate(rng, studies=1, replicates=6, cases=8, variances=(1, 1, 1))
    holed = whole.copy()
    holed[2] = np.nan
    holed[4, 5] = np.nan
    found = estimate(holed)
    expected = estimate(np.delete(np.delete(whole, 2, axis=0), 5, axis=1))
    assert (found.mean, found.low, found.p) == (expected.mean, expected.low, expected.p)
    assert (found.replicates, found.dropped_replicates) == (5, 1)
    assert (found.cases, found.undefined_cases) == (7, 1)


def test_cases_of_one_subject_count_as_one():
    rng = np.random.default_rng(6)
    (table,) = simulate(rng, studies=1, replicates=5, cases=4, variances=(1, 1, 1))
    found = estimate(table, subjects=["a", "b", "a", "c"])
    by_hand = np.stack([(table[:, 0] + table[:, 2]) / 2, table[:, 1], table[:, 3]], axis=1)
    expected = estimate(by_hand)
    assert (found.mean, found.low, found.high) == (expected.mean, expected.low, expected.high)
    assert (found.cases, found.subjects) == (4, 3)


def test_fewer_than_five_replicates_give_the_mean_alone_and_the_reason():
    found = estimate(np.array([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]]))
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high, found.p, found.detectable) == (None, None, None, None)
    assert found.reason == "3 replicates; an interval needs at least 5"


def test_one_test_subject_gives_no_interval():
    found = estimate(np.array([[0.1], [0.2], [0.3], [0.25], [0.2]]))
    assert found.low is None
    assert found.reason == "1 test subject; an interval needs at least 2"


def test_values_without_any_variation_give_no_interval():
    found = estimate(np.zeros((5, 6)))
    assert (found.mean, found.low, found.detectable) == (0.0, None, None)
    assert found.reason == "every run gave the same value for every test subject"


def test_nothing_at_all_gives_no_mean():
    assert estimate(np.full((5, 3), np.nan)).mean is None
    assert estimate(np.full((5, 3), np.nan)).reason == "no replicate finished"
    assert estimate(np.empty((5, 0))).reason == "no test case"
    half = np.array([[np.nan, 1.0], [1.0, np.nan]])
    assert estimate(half).reason == "no test case is defined in every replicate"
