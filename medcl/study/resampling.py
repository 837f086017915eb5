"""Secondary looks at a comparison, whose shortcomings are known and stated where they are shown.

The crossed bootstrap draws replicates and test subjects anew, each with replacement and
independently (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007), and takes the
percentiles of the mean. With few replicates it knows too little of how replicates vary: with 3 it
rejects a true null two to five times as often as it says.

Wilcoxon's signed-rank test over test subjects asks whether these trained models differ on further
subjects. It does not know that another labelled subset or seed gives another model, so it says
nothing about the arms.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float
from scipy import stats

from medcl.study.statistics import CONFIDENCE

DRAWS = 2000
SEED = 20


def bootstrap(
    values: Float[np.ndarray, "*studies R C"], rng: np.random.Generator, *, draws: int = DRAWS
) -> tuple[Float[np.ndarray, "*studies"], Float[np.ndarray, "*studies"]]:
    """Lower and upper limit of the 95 % percentile interval of each study's mean.

    All studies share the draws, which changes the level of none of them.
    """
    replicates, cases = values.shape[-2:]
    often_r = rng.multinomial(replicates, np.full(replicates, 1 / replicates), draws) / replicates
    often_c = rng.multinomial(cases, np.full(cases, 1 / cases), draws) / cases
    means = np.einsum("...rb,br->...b", values @ often_c.T, often_r)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)
    return np.asarray(low), np.asarray(high)


def wilcoxon(values: Float[np.ndarray, "R C"]) -> float | None:
    """Two-sided p over cases of the mean over replicates; None where all differences are 0."""
    means = values.mean(axis=0)
    if not means.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties and zeros: the approximation is meant then
        return float(stats.wilcoxon(means).pvalue)
