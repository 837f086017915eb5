"""One comparison, one sentence: only what its interval and its test allow to be said.

A gain or a loss is claimed only by an interval that excludes 0 and, for a primary comparison, by a
p value below 5 % after Holm's correction; otherwise the sentence tells how large a difference the
study could have seen, and never that there is none.
"""

from __future__ import annotations

import math

from medcl.study.measures import DICE, Measure
from medcl.study.statistics import LEVEL, MIN_REPLICATES

METHOD_SEEDS = 3
SCRATCH = "training from scratch"
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
    p_holm: float | None = None,
    family: int = 0,
    measure: Measure = DICE,
    against: str = SCRATCH,
) -> str:
    """Say what the comparison of `arm` with `against` shows.

    Values as in metrics.csv; `seeds` counts the pretrainings behind the compared replicates,
    `planned` the replicates there should be, `reason` tells why there is no interval (or no
    difference). `family` is the number of primary comparisons `p_holm` is corrected for; 0 makes
    this a secondary one.
    """
    subject = encoder_words(arm, seeds, replicates)
    start = f"With {labelled} labelled subject{'s' if labelled != 1 else ''}, "
    if difference is None:
        verb = f"could not be compared with {against}"
        return f"{start}{subject} {verb}: {reason or 'no replicate finished'}."
    if replicates < MIN_REPLICATES:
        interval = None
        reason = f"{counted(replicates, planned)}; an interval needs at least {MIN_REPLICATES}"
    if interval is None:
        verb = "differ" if subject.startswith("these") else "differs"
        return (
            f"{start}{subject} {verb} from {against} by {amount(difference, measure, sign=True)}; "
            f"without an interval this may be chance ({reason or 'no interval'})."
        )
    digits = decimals(interval, measure)
    evidence = _evidence(interval, p, p_holm, family, measure, digits)
    evidence += f", {counted(replicates, planned)}" + ("" if family else "; secondary")
    found = verdict(interval, p_holm=p_holm, family=family, measure=measure)
    if found == "unclear":
        shown = amount(difference, measure, sign=True, digits=digits)
        seen = (
            f"; this study could have seen {rounded_up(detectable, measure)}" if detectable else ""
        )
        return (
            f"{start}no measurable difference between {subject} and {against} "
            f"({shown}, {evidence}){seen}."
        )
    size = amount(abs(difference), measure, digits=digits)
    change = change_words(found, size, subject.startswith("these"), measure)
    return f"{start}{subject} {change} {against} ({evidence})."


def _evidence(
    interval: tuple[float, float],
    p: float | None,
    p_holm: float | None,
    family: int,
    measure: Measure,
    digits: int,
) -> str:
    text = f"95 % interval {limits(interval, measure, digits)}"
    text += f", {p_value(p)}" if p is not None else ""
    if family > 1 and p_holm is not None:
        text += f", after Holm's correction for {family} comparisons {p_value(p_holm)}"
    return text


def limits(interval: tuple[float, float], measure: Measure, digits: int) -> str:
    """`1.1 to 5.3`"""
    low, high = (points(limit, digits=digits, scale=measure.scale) for limit in interval)
    return f"{low} to {high}"


def change_words(found: str, size: str, many: bool, measure: Measure) -> str:
    """`gains 3.2 Dice points over`, `raises HD95 by 1.2 mm against`."""
    if measure.points:
        verb, against = ("gain", "over") if found == "gain" else ("lose", "against")
        return f"{verb if many else verb + 's'} {size} {against}"
    up = (found == "gain") == (measure.better > 0)
    verb = ("raise" if up else "lower") + ("" if many else "s")
    return f"{verb} {measure.title} by {size.removesuffix(f' {measure.title}')} against"


def mean_sentence(
    *,
    mean: float | None,
    interval: Interval,
    arm: str,
    labelled: int,
    reason: str | None,
    measure: Measure = DICE,
) -> str:
    """Say how well `arm` does where there is nothing to compare it with."""
    start = f"With {labelled} labelled subject{'s' if labelled != 1 else ''}, {arm} "
    if mean is None:
        return f"{start}has no result: {reason}."
    reached = f"{start}reaches a mean {measure.title} of {points(mean, scale=measure.scale)}"
    if interval is None:
        return f"{reached} {measure.unit} ({reason})."
    low, high = (points(limit, scale=measure.scale) for limit in interval)
    return f"{reached} {measure.unit} (95 % interval {low} to {high})."


def verdict(
    interval: Interval,
    *,
    p_holm: float | None = None,
    family: int = 0,
    measure: Measure = DICE,
) -> str:
    """`gain`, `loss`, `unclear` or `no interval`.

    Unclear: 0 lies in the interval or on its border; or the comparison is a primary one and
    Holm's p is not below 5 %, or is not known.
    """
    if interval is None:
        return "no interval"
    low, high = interval
    if low <= 0 <= high or (family and (p_holm is None or p_holm >= LEVEL)):
        return "unclear"
    return "gain" if (low > 0) == (measure.better > 0) else "loss"


def encoder_words(arm: str, seeds: int, replicates: int) -> str:
    """Name what was tested: a method only where every replicate has a pretraining of its own.

    Where replicates share one they are no independent trials of the method: with 3 for 5 replicates
    a true null would be rejected in 10 to 15 % (simulated), as if the method varied less than it
    does.
    """
    if seeds == 0:
        return arm
    if seeds >= max(METHOD_SEEDS, replicates):
        return f"this method ({arm})"
    return f"these {seeds} encoders ({arm})" if seeds > 1 else f"this encoder ({arm})"


def counted(replicates: int, planned: int | None = None) -> str:
    """`5 replicates`, or `4 of 5 replicates` when some are missing."""
    if planned is not None and planned != replicates:
        return f"{replicates} of {planned} replicates"
    return f"{replicates} replicate{'s' if replicates != 1 else ''}"


def decimals(interval: tuple[float, float], measure: Measure = DICE) -> int:
    """Decimals at which a limit beyond 0 is not printed as 0 (1 to 4)."""
    low, high = interval
    if low <= 0 <= high:
        return measure.digits
    nearest = measure.scale * min(abs(low), abs(high))
    return next((n for n in (1, 2, 3) if n >= measure.digits and round(nearest, n) > 0), 4)


def amount(value: float, measure: Measure, *, sign: bool = False, digits: int | None = None) -> str:
    """`3.2 Dice points`, `+1.2 mm HD95`."""
    digits = measure.digits if digits is None else digits
    shown = points(value, sign=sign, digits=digits, scale=measure.scale)
    if measure.points:
        return f"{shown} {measure.title} points"
    return f"{shown} {measure.unit} {measure.title}"


def points(value: float, *, sign: bool = False, digits: int = 1, scale: float = DICE.scale) -> str:
    """A value (or a difference) times `scale`, with a true minus sign."""
    text = f"{scale * value:.{digits}f}"
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


def rounded_up(detectable: float, measure: Measure) -> str:
    """The detectable difference, never smaller than it is: `2.6 points`."""
    step = 10**measure.digits
    value = math.ceil(step * measure.scale * detectable - 1e-9) / step
    return f"{value:.{measure.digits}f} {measure.unit}"
