"""What the log of a pretraining says in plain words: learnt, at chance, or collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

LAST = 50  # steps that are averaged
FIRST = 5  # steps that say where a loss began
ERRORS = 3.0  # standard errors that a loss must lie below chance, and below where it began
DEAD = 0.9
FEW_DIRECTIONS = 1.5
# The spread is the root of D times the mean deviation of unit vectors along an axis, so its square
# is one minus their mean cosine where they vary alike along all axes, and less where not. Vectors
# spread evenly have 1, and below 0.05 they lie within some three degrees of their mean. The
# effective rank does not see that: noise around one vector has a high one.
COLLAPSED = 0.05

Row = Mapping[str, float]


def level(rows: Sequence[Row], terms: Sequence[str]) -> float | None:
    """Mean over the last steps of the sum of `terms`; None where one of them is not logged."""
    last = [row for row in rows[-LAST:] if all(term in row for term in terms)]
    return float(np.mean([sum(row[term] for term in terms) for row in last])) if last else None


def diagnose(rows: Sequence[Row], compared: Sequence[str]) -> list[str]:
    """Sentences for the end of a run and for the report.

    `compared` are the terms whose sum has a chance level, the term `chance`.
    """
    if not rows:
        return ["it made no step"]
    last = rows[-LAST:]
    if all(row.get("pairs") == 0 for row in rows):
        return [
            "no crop held a pair of patches, so there was nothing to learn from: lower `block` or "
            "`upper`, raise `lower`, and check `lesion`"
        ]
    found = []
    if all("chance" in row for row in last):
        found.append(_beside_chance(rows, compared))
    found += _embedded(last)
    dead = float(np.mean([row.get("zero_logits", 0.0) for row in last]))
    if dead > DEAD:
        found.append(f"{100 * dead:.0f} % of its logits are zero and pass no gradient")
    if "targets" in last[0] and len({row["targets"] for row in rows}) == 1:
        share = rows[0]["targets"]
        if share in (0, 1):
            cohort = "target" if share else "background"
            found.append(f"all of its cases were of the {cohort} cohort: nothing was separated")
    return found


def _beside_chance(rows: Sequence[Row], compared: Sequence[str]) -> str:
    """Whether the loss left chance: it lies below, and below where it began.

    An untrained network may lie below chance, because its embeddings follow the intensities; what
    has been learnt is what came since. Both are told by the scatter of the last steps, because that
    of the few first ones is known too badly.
    """
    excess = np.array([sum(row[name] for name in compared) - row["chance"] for row in rows])
    first, last = excess[:FIRST], excess[-LAST:]
    chance = float(np.mean([row["chance"] for row in rows[-LAST:]]))
    began = float(np.mean([sum(row[name] for name in compared) for row in rows[:FIRST]]))
    scatter = float(last.std(ddof=1)) if len(last) > 1 else np.inf
    name = " + ".join(compared)
    numbers = (
        f"{name} {last.mean() + chance:.4g} against {chance:.4g} (mean of the last {len(last)} "
        f"steps), {began:.4g} in its first {len(first)}"
    )
    if last.mean() + ERRORS * scatter / len(last) ** 0.5 >= 0:
        return f"it stayed at chance and has learnt nothing that shows: {numbers}"
    error = scatter * (1 / len(last) + 1 / len(first)) ** 0.5
    if last.mean() + ERRORS * error >= first.mean():
        return (
            "it has learnt nothing that shows: it lies below chance, as an untrained network may, "
            f"and not below where it began: {numbers}"
        )
    return f"it left chance: {numbers}"


def _embedded(last: Sequence[Row]) -> list[str]:
    """Whether the embeddings are all alike, or vary along few directions."""
    spread = float(np.mean([row.get("spread", np.inf) for row in last]))
    if spread < COLLAPSED:
        return [f"its embeddings have collapsed: all are nearly equal (spread {spread:.2g})"]
    rank = float(np.mean([row.get("effective_rank", np.inf) for row in last]))
    if rank < FEW_DIRECTIONS:
        return [f"its embeddings use hardly more than {rank:.2g} directions"]
    return []
