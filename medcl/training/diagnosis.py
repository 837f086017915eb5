"""What the log of a pretraining says in plain words: learnt, at chance, or collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

LAST = 50  # steps that are averaged
ERRORS = 3.0  # standard errors a loss must stay below chance to have learnt something
DEAD = 0.9
FEW_DIRECTIONS = 1.5


def level(rows: Sequence[Mapping[str, float]], terms: Sequence[str]) -> float | None:
    """Mean over the last steps of the sum of `terms`; None where one of them is not logged."""
    last = [row for row in rows[-LAST:] if all(term in row for term in terms)]
    return float(np.mean([sum(row[term] for term in terms) for row in last])) if last else None


def diagnose(rows: Sequence[Mapping[str, float]], compared: Sequence[str]) -> list[str]:
    """Sentences for the end of a run and for the report.

    `compared` are the terms whose sum has a chance level, the term `chance`.
    """
    if not rows:
        return ["it made no step"]
    last = rows[-LAST:]
    found = []
    if all("chance" in row for row in last):
        excess = np.array([sum(row[name] for name in compared) - row["chance"] for row in last])
        chance = float(np.mean([row["chance"] for row in last]))
        value = float(excess.mean()) + chance
        error = float(excess.std(ddof=1) / np.sqrt(len(excess))) if len(excess) > 1 else np.inf
        name = " + ".join(compared)
        numbers = f"{name} {value:.4g} against {chance:.4g} (mean of the last {len(last)} steps)"
        if excess.mean() + ERRORS * error < 0:
            found.append(f"it left chance: {numbers}")
        else:
            found.append(f"it stayed at chance and has learnt nothing that shows: {numbers}")
    rank = float(np.mean([row.get("effective_rank", np.inf) for row in last]))
    if rank < FEW_DIRECTIONS:
        found.append(f"its embeddings have collapsed to {rank:.2g} directions")
    dead = float(np.mean([row.get("zero_logits", 0.0) for row in last]))
    if dead > DEAD:
        found.append(f"{100 * dead:.0f} % of its logits are zero and pass no gradient")
    return found
