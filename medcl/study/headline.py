"""The answer of a study in one sentence per number of labels, before any detail.

It claims what the sentence of each comparison claims, and nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

from medcl.study.comparison import Comparison
from medcl.study.measures import Measure
from medcl.study.prose import listed, plural
from medcl.study.sentences import (
    amount,
    change_words,
    decimals,
    encoder_words,
    limits,
    p_value,
    points,
    rounded_up,
    verdict,
)


def headline(items: Sequence[Comparison], against: str) -> str:
    """What the comparisons at one number of labels show: gains, losses, what is unclear.

    items: at least one, all of the same label count and metric, each with a difference.
    """
    said = [_claimed(item, against) for kind in ("gain", "loss") for item in _of(items, kind)]
    unclear = _of(items, "unclear")
    if len(unclear) == 1 and not said:
        (item,) = unclear
        said.append(
            f"no measurable difference between {_subject(item)} and {against} ({_shown(item)})"
        )
    elif unclear:
        start = (
            "no measurable difference for" if said else f"no measurable difference to {against}:"
        )
        each = ", ".join(_brief(item, first=not place) for place, item in enumerate(unclear))
        said.append(f"{start} {each}")
    if seen := _unseen([item for item in unclear if not _overruled(item)]):
        said.append(seen)
    said += [_uncertain(item, against) for item in _of(items, "no interval")]
    return f"With {plural(items[0].labelled, 'labelled subject')}, {'; '.join(said)}."


def spent_instead(items: Sequence[Comparison], source: str, against: str) -> str:
    """What the cost of a pretraining gave as further steps from scratch; no claim.

    items: those of one cost-matched arm, by label count. source: the arm whose pretraining it
    matches.
    """
    known = [item for item in items if item.difference and item.difference.mean is not None]
    if not known:
        return ""
    counts = [item.labelled for item in known]
    sizes = [_spent(item, first=not place) for place, item in enumerate(known)]
    subjects = "subject" if counts == [1] else "subjects"
    return (
        f"Secondary, not corrected: spent on further steps from scratch instead ({known[0].arm}), "
        f"the cost of the pretraining of {source} makes a difference to {against} of "
        f"{listed(sizes)} with {listed(counts)} labelled {subjects}."
    )


def reached(items: Sequence[Comparison], bound: float, arm: str, candidates: int) -> str:
    """What share of the bound the highest mean at each number of labels is; no claim.

    items: those whose arms count, all of one metric. bound: the mean of `arm` with every labelled
    candidate. Nothing for a distance, of which no share makes sense.
    """
    best: dict[int, Comparison] = {}
    for item in items:
        if item.mean.mean is not None:
            other = best.get(item.labelled)
            if other is None or item.mean.mean > (other.mean.mean or 0.0):
                best[item.labelled] = item
    if not best or not items[0].measure.points or bound <= 0:
        return ""
    counts = sorted(best)
    shares = listed(f"{100 * (best[n].mean.mean or 0.0) / bound:.0f}" for n in counts)
    arms = [best[n].arm for n in counts]
    named = arms[0] if len(set(arms)) == 1 else f"in turn {listed(arms)}"
    size = amount(bound, items[0].measure)
    return (
        f"Of the {size} that {arm} reaches with all {candidates} labelled candidates, the highest "
        f"mean of an arm is {shares} % with {listed(counts)} labelled "
        f"{'subject' if counts == [1] else 'subjects'} ({named}). It is the highest of several, "
        "which flatters it, and no claim that one arm is better than another."
    )


def _spent(item: Comparison, *, first: bool) -> str:
    digits = _digits(item) if item.interval else None
    size = (
        amount(_mean(item), item.measure, sign=True, digits=digits)
        if first
        else points(_mean(item), sign=True, digits=digits or 1, scale=item.measure.scale)
    )
    if item.interval is None:
        return f"{size} (no interval)"
    shown = _interval(item) if first else limits(item.interval, item.measure, _digits(item))
    return f"{size} ({shown})"


def kind_of(item: Comparison) -> str:
    """Its verdict."""
    return verdict(item.interval, p_holm=item.p_holm, family=item.family, measure=item.measure)


def _of(items: Sequence[Comparison], kind: str) -> list[Comparison]:
    return [item for item in items if kind_of(item) == kind]


def _subject(item: Comparison) -> str:
    return encoder_words(item.arm, item.seeds, item.replicates)


def _claimed(item: Comparison, against: str) -> str:
    size = amount(abs(_mean(item)), item.measure, digits=_digits(item))
    subject = _subject(item)
    change = change_words(kind_of(item), size, subject.startswith("these"), item.measure)
    return f"{subject} {change} {against} ({_interval(item)})"


def _shown(item: Comparison) -> str:
    size = amount(_mean(item), item.measure, sign=True, digits=_digits(item))
    return f"{size}, {_interval(item)}{_corrected(item)}"


def _brief(item: Comparison, *, first: bool) -> str:
    """Units and the word interval only with the first of several."""
    assert item.interval is not None
    measure, digits = item.measure, _digits(item)
    if first:
        size = amount(_mean(item), measure, sign=True, digits=digits)
        return f"{_subject(item)} {size} ({_interval(item)}{_corrected(item)})"
    size = points(_mean(item), sign=True, digits=digits, scale=measure.scale)
    return f"{_subject(item)} {size} ({limits(item.interval, measure, digits)}{_corrected(item)})"


def _overruled(item: Comparison) -> bool:
    """Whether the interval excludes 0 and the correction does not uphold it."""
    found = item.interval
    return found is not None and (found[0] > 0 or found[1] < 0)


def _corrected(item: Comparison) -> str:
    """What decided, where the interval alone would have claimed a difference."""
    if not _overruled(item) or item.p_holm is None:
        return ""
    return f", after Holm's correction {p_value(item.p_holm)}"


def _uncertain(item: Comparison, against: str) -> str:
    found = item.difference
    if found is None or found.mean is None:
        reason = (found and found.reason) or "no replicate finished"
        return f"{_subject(item)} could not be compared with {against}: {reason}"
    size = amount(found.mean, item.measure, sign=True)
    verb = "differ" if _subject(item).startswith("these") else "differs"
    return (
        f"{_subject(item)} {verb} from {against} by {size}, which without an interval may be "
        f"chance ({found.reason})"
    )


def _unseen(unclear: Sequence[Comparison]) -> str:
    """How large a difference may be and yet not be found."""
    seen = [item.difference.detectable for item in unclear if item.difference]
    known = [value for value in seen if value]
    if not known:
        return ""
    measure: Measure = unclear[0].measure
    low, high = (rounded_up(value, measure) for value in (min(known), max(known)))
    size = low if low == high else f"{low.split()[0]} to {high}"
    return f"a true difference of less than {size} may have gone unseen"


def _interval(item: Comparison) -> str:
    assert item.interval is not None
    return f"95 % interval {limits(item.interval, item.measure, _digits(item))}"


def _digits(item: Comparison) -> int:
    assert item.interval is not None
    return decimals(item.interval, item.measure)


def _mean(item: Comparison) -> float:
    assert item.difference is not None
    assert item.difference.mean is not None
    return item.difference.mean
