"""One comparison, one sentence: only what its interval allows to be said.

A gain or a loss is claimed only by an interval that excludes 0; otherwise the sentence tells how
large a difference the study could have seen, and never that there is none.
"""

from __future__ import annotations

import math

from medcl.study.statistics import CONFIDENCE, MIN_REPLICATES

LEVEL = 1 - CONFIDENCE
METHOD_SEEDS = 3
Interval = tuple[float, float] | None


def sentence(
    *,
    difference: float | None,
    interval: Interval,
    p: float | None,
    replicates: int,
    detectable: float | None,
    arm: str,
    labelled: int,
    seeds: int,
    planned: int | None = None,
    reason: str | None = None,
) -> str:
    """Say what the comparison of `arm` with training from scratch shows.

    Dice as fractions; `seeds` counts the pretrainings behind the compared replicates, `planned`
    the replicates there should be, `reason` tells why there is no interval (or no difference).
    """
    subject = encoder_words(arm, seeds)
    start = f"With {labelled} labelled subject{'s' if labelled != 1 else ''}, "
    if difference is None:
        verb = "could not be compared with training from scratch"
        return f"{start}{subject} {verb}: {reason or 'no replicate finished'}."
    if replicates < MIN_REPLICATES:
        interval = None
        reason = f"{counted(replicates, planned)}; an interval needs at least {MIN_REPLICATES}"
    if interval is None:
        return (
            f"{start}{subject} {'differ' if seeds == 2 else 'differs'} from training from scratch "
            f"by {points(difference, sign=True)} Dice points; without an interval this may be "
            f"chance ({reason or 'no interval'})."
        )
    digits = decimals(interval)
    low, high = (points(limit, digits=digits) for limit in interval)
    evidence = f"95 % interval {low} to {high}"
    evidence += f", {p_value(p)}" if p is not None else ""
    evidence += f", {counted(replicates, planned)}"
    found = verdict(interval)
    if found == "unclear":
        seen = f"; this study could have seen {_up(detectable)} points" if detectable else ""
        return (
            f"{start}no measurable difference between {subject} and training from scratch "
            f"({points(difference, sign=True, digits=digits)} Dice points, {evidence}){seen}."
        )
    verb, against = ("gain", "over") if found == "gain" else ("lose", "against")
    verb += "" if seeds == 2 else "s"
    size = points(abs(difference), digits=digits)
    return (
        f"{start}{subject} {verb} {size} Dice points {against} training from scratch ({evidence})."
    )


def mean_sentence(
    *, mean: float | None, interval: Interval, arm: str, labelled: int, reason: str | None
) -> str:
    """Say how well `arm` does where there is nothing to compare it with."""
    start = f"With {labelled} labelled subject{'s' if labelled != 1 else ''}, {arm} "
    if mean is None:
        return f"{start}has no result: {reason}."
    if interval is None:
        return f"{start}reaches a mean Dice of {points(mean)} points ({reason})."
    low, high = (points(limit) for limit in interval)
    return f"{start}reaches a mean Dice of {points(mean)} points (95 % interval {low} to {high})."


def verdict(interval: Interval) -> str:
    """`gain`, `loss`, `unclear` (0 lies in the interval or on its border) or `no interval`."""
    if interval is None:
        return "no interval"
    low, high = interval
    if low > 0:
        return "gain"
    return "loss" if high < 0 else "unclear"


def encoder_words(arm: str, seeds: int) -> str:
    """Name what was tested: pretraining seeds vary a method only from three on."""
    if seeds >= METHOD_SEEDS:
        return f"this method ({arm})"
    return f"these {seeds} encoders ({arm})" if seeds == 2 else f"this encoder ({arm})"


def counted(replicates: int, planned: int | None = None) -> str:
    """`5 replicates`, or `4 of 5 replicates` when some are missing."""
    if planned is not None and planned != replicates:
        return f"{replicates} of {planned} replicates"
    return f"{replicates} replicate{'s' if replicates != 1 else ''}"


def decimals(interval: tuple[float, float]) -> int:
    """Decimals of points at which a limit beyond 0 is not printed as 0 (1 to 4)."""
    nearest = min(abs(limit) for limit in interval)
    if verdict(interval) == "unclear":
        return 1
    return next((n for n in (1, 2, 3) if round(100 * nearest, n) > 0), 4)


def points(dice: float, *, sign: bool = False, digits: int = 1) -> str:
    """Dice (or a difference) in points: times 100, with a true minus sign."""
    text = f"{100 * dice:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    if text.startswith("-"):
        return f"−{text[1:]}"
    return f"+{text}" if sign else text


def p_value(p: float) -> str:
    """`p = 0.012`: two digits, never rounded across the level of the interval."""
    if p < 0.001:
        return "p < 0.001"
    if p > 0.99:
        return "p > 0.99"
    for digits in (2, 3):
        shown = float(f"{p:.{digits}g}")
        if abs(shown - LEVEL) > 1e-9 and (shown < LEVEL) == (p < LEVEL):
            return f"p = {shown:g}"
    return "p < 0.05" if p < LEVEL else "p = 0.05"


def _up(detectable: float) -> str:
    return f"{math.ceil(1000 * detectable - 1e-9) / 10:.1f}"
