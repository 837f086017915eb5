r"""The interval of a mean over runs and test subjects, which are crossed, and its test.

Every run (replicate r of R) is scored on every test subject (c of C). With

    d_rc = mu + a_r + b_c + e_rc,   a ~ (0, s_r^2),  b ~ (0, s_c^2),  e ~ (0, s_e^2)

the grand mean has variance s_r^2 / R + s_c^2 / C + s_e^2 / (R C). The mean squares of the two-way
table (one value a cell) have expectations

    E[MS_r] = C s_r^2 + s_e^2,   E[MS_c] = R s_c^2 + s_e^2,   E[MS_e] = s_e^2

so that the variance is estimated by (MS_r + MS_c - MS_e) / (R C). A component estimated as
negative is set to 0: its mean square is replaced by MS_e in this sum. Degrees of freedom after
Satterthwaite: the squared sum over the sum of MS^2 / df of the mean squares that remain in it, and
never fewer than the smaller of R - 1 and C - 1.

Resampling methods and tests over cases alone (`resampling.py`) treat one of the two factors as if
it did not vary, or trust too few replicates, and reject a true null far too often; this interval
holds its level from four replicates on (`tests/study/test_statistics.py` simulates it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.optimize import brentq

LEVEL = 0.05
CONFIDENCE = 1 - LEVEL
POWER = 0.80
MIN_REPLICATES = 5
MIN_SUBJECTS = 2


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the three components; one estimated as negative is 0."""

    replicate: float
    case: float
    residual: float


@dataclass(frozen=True)
class Estimate:
    """A mean over replicates and test subjects; without an interval, `reason` says why.

    `error` and `degrees` are its standard error and degrees of freedom; `detectable` is the true
    difference that a single comparison of this precision finds with a power of 80 %.
    """

    mean: float | None
    replicates: int
    subjects: int
    cases: int
    dropped_replicates: int = 0
    undefined_cases: int = 0
    low: float | None = None
    high: float | None = None
    p: float | None = None
    detectable: float | None = None
    reason: str | None = None
    error: float | None = None
    degrees: float | None = None
    spread: Spread | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


def estimate(values: Float[np.ndarray, "R C"], subjects: Sequence[str] | None = None) -> Estimate:
    """Estimate the mean of `values` (replicate, case); `subjects` names the subject of each case.

    A replicate without any value is dropped, then every case that is undefined (nan) in a
    remaining one; both are counted. Cases of one subject are averaged. For a comparison `values`
    are paired differences.
    """
    names = list(subjects) if subjects is not None else [str(c) for c in range(values.shape[1])]
    if values.shape[1] == 0:
        return Estimate(None, 0, 0, 0, reason="no test case")
    finished, defined = known(values)
    dropped, undefined = int((~finished).sum()), int((~defined).sum())
    if not finished.any():
        return Estimate(None, 0, 0, 0, dropped, reason="no replicate finished")
    if not defined.any():
        reason = "no test case is defined in every replicate"
        return Estimate(None, int(finished.sum()), 0, 0, dropped, undefined, reason=reason)
    table, cases = complete(values, names), int(defined.sum())
    plain = Estimate(float(table.mean()), len(table), table.shape[1], cases, dropped, undefined)
    if why := _why_no_interval(table):
        return replace(plain, reason=why)
    mean, error, degrees = crossed(table)
    low, high, p = (float(x) for x in t_interval(mean, error, degrees))
    return replace(
        plain,
        low=low,
        high=high,
        p=p,
        detectable=detectable_difference(float(error), float(degrees)),
        error=float(error),
        degrees=float(degrees),
        spread=components(table),
    )


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjust the p values of a family of comparisons after Holm (1979), in the order given.

    The k-th smallest of m is multiplied by m - k + 1; none becomes smaller than one before it, nor
    larger than 1. A comparison without a p value stays one of the m: that it failed makes no other
    one easier.
    """
    known = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(p) - rank) * value))
        adjusted[place] = highest
    return adjusted


def known(
    values: Float[np.ndarray, "*tables R C"],
) -> tuple[Bool[np.ndarray, " R"], Bool[np.ndarray, " C"]]:
    """Replicates with a value in every table, and cases without a gap in any of those."""
    gaps = np.isnan(values)
    tables = tuple(range(gaps.ndim - 2))
    replicates = ~gaps.all(axis=-1).any(axis=tables)
    return replicates, ~gaps[..., replicates, :].any(axis=(*tables, -2))


def complete(
    values: Float[np.ndarray, "*tables R C"], subjects: Sequence[str]
) -> Float[np.ndarray, "*tables r S"]:
    """What is known of every table, averaged over the cases of each subject.

    Subjects in order of appearance; those of whom no case is left are left out.
    """
    replicates, cases = known(values)
    named = np.array(subjects)
    left = [(named == name) & cases for name in dict.fromkeys(subjects)]
    means = [values[..., replicates, :][..., own].mean(axis=-1) for own in left if own.any()]
    empty = values[..., replicates, :0]
    return np.stack(means, axis=-1) if means else empty


def _why_no_interval(table: Float[np.ndarray, "R S"]) -> str | None:
    replicates, subjects = table.shape
    if replicates < MIN_REPLICATES:
        plural = "" if replicates == 1 else "s"
        return f"{replicates} replicate{plural}; an interval needs at least {MIN_REPLICATES}"
    if subjects < MIN_SUBJECTS:
        return f"{subjects} test subject; an interval needs at least {MIN_SUBJECTS}"
    if np.ptp(table) < 1e-12:
        return "every run gave the same value for every test subject"
    return None


def crossed(
    values: Float[np.ndarray, "*studies R C"],
) -> tuple[
    Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"]
]:
    """Mean, standard error and degrees of freedom of each study's table (see the module)."""
    error, degrees = _precision(*mean_squares(values), *values.shape[-2:])
    return np.asarray(values.mean(axis=(-2, -1))), error, degrees


def mean_squares(
    values: Float[np.ndarray, "*studies R C"],
) -> tuple[
    Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"]
]:
    """MS_r, MS_c and MS_e of each study's table."""
    replicates, subjects = values.shape[-2:]
    mean = values.mean(axis=(-2, -1), keepdims=True)
    by_replicate = values.mean(axis=-1, keepdims=True)
    by_case = values.mean(axis=-2, keepdims=True)
    df_r, df_c = replicates - 1, subjects - 1
    ms_r = subjects * ((by_replicate - mean) ** 2).sum(axis=(-2, -1)) / df_r
    ms_c = replicates * ((by_case - mean) ** 2).sum(axis=(-2, -1)) / df_c
    ms_e = ((values - by_replicate - by_case + mean) ** 2).sum(axis=(-2, -1)) / (df_r * df_c)
    return np.asarray(ms_r), np.asarray(ms_c), np.asarray(ms_e)


def _precision(
    ms_r: np.ndarray, ms_c: np.ndarray, ms_e: np.ndarray, replicates: int, subjects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of the mean and its degrees of freedom."""
    df_r, df_c = replicates - 1, subjects - 1
    has_r, has_c = ms_r > ms_e, ms_c > ms_e
    total = np.maximum(ms_r, ms_e) + np.maximum(ms_c, ms_e) - ms_e
    # MS_e stays in the sum when both components are positive (with -1) or neither is (with +1)
    spread = (
        np.where(has_r, ms_r**2 / df_r, 0)
        + np.where(has_c, ms_c**2 / df_c, 0)
        + np.where(has_r == has_c, ms_e**2 / (df_r * df_c), 0)
    )
    degrees = np.maximum(total**2 / spread, min(df_r, df_c))
    return np.asarray(np.sqrt(total / (replicates * subjects))), np.asarray(degrees)


def components(values: Float[np.ndarray, "R C"]) -> Spread:
    """Split the variance of a table between replicates, cases and what neither explains."""
    replicates, subjects = values.shape
    ms_r, ms_c, ms_e = (float(ms) for ms in mean_squares(values))
    return Spread(
        math.sqrt(max(0.0, ms_r - ms_e) / subjects),
        math.sqrt(max(0.0, ms_c - ms_e) / replicates),
        math.sqrt(ms_e),
    )


def precision(spread: Spread, replicates: int, subjects: int) -> tuple[float, float]:
    """Standard error and degrees of freedom to expect of a study with these components."""
    residual = spread.residual**2
    ms_r = np.asarray(subjects * spread.replicate**2 + residual)
    ms_c = np.asarray(replicates * spread.case**2 + residual)
    error, degrees = _precision(ms_r, ms_c, np.asarray(residual), replicates, subjects)
    return float(error), float(degrees)


def power(difference: float, error: float, degrees: float, *, level: float = LEVEL) -> float:
    """Chance to find a true `difference`: both tails of the noncentral t beyond the limit."""
    limit = stats.t.ppf(1 - level / 2, degrees)
    shift = abs(difference) / error
    against = float(stats.nct.cdf(-limit, degrees, shift))
    # Less than the normal tail beyond `shift`; scipy gives nan where it is too small to be told.
    against = 0.0 if math.isnan(against) else against
    return float(stats.nct.sf(limit, degrees, shift)) + against


def t_interval(
    mean: Float[np.ndarray, "*studies"],
    error: Float[np.ndarray, "*studies"],
    degrees: Float[np.ndarray, "*studies"],
) -> tuple[
    Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"]
]:
    """Lower and upper limit of the 95 % interval, and the two-sided p of a mean of 0."""
    half = stats.t.ppf((1 + CONFIDENCE) / 2, degrees) * error
    p = 2 * stats.t.sf(np.abs(mean) / error, degrees)
    return np.asarray(mean - half), np.asarray(mean + half), np.asarray(p)


def detectable_difference(error: float, degrees: float, *, level: float = LEVEL) -> float:
    """The smallest true difference that a study this precise would find with 80 % power.

    `power` solved for the difference, to a millionth of the standard error. The sum of two
    quantiles of t, often used instead, falls short: with 4 degrees of freedom and the level 0.05 /
    12 the power at that difference is 73 %. Under Holm's correction for m comparisons a lone
    difference is tested at 0.05 / m: give that as `level`.
    """
    start = math.fsum(stats.t.ppf([1 - level / 2, POWER], degrees))

    def lacking(shift: float) -> float:
        return power(shift, 1.0, degrees, level=level) - POWER

    return float(brentq(lacking, start / 2, 2 * start, xtol=1e-6)) * error
