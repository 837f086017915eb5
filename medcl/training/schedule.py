"""Factors of a step: of the learning rate, or of a teacher's momentum and the like."""

from __future__ import annotations

import math


def warmup_cosine(step: float, steps: int, warmup: int) -> float:
    """Rise linearly to 1 over `warmup` steps, then fall to 0 at `steps` along a half cosine."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def warmup_cosine_between(
    step: float, steps: int, warmup: int, highest: float, lowest: float
) -> float:
    """Rise linearly from 0 to `highest`, reached at step `warmup` - 1, then fall to `lowest`.

    Alice's schedule. The fall starts at step `warmup`, still at `highest`, and would reach `lowest`
    at `steps`.
    """
    if step < warmup:
        return highest * step / max(1, warmup - 1)
    return lowest + (highest - lowest) * warmup_cosine(step - warmup, steps - warmup, 0)


def polynomial(step: float, steps: int, power: float = 0.9) -> float:
    """Fall from 1 to 0 at `steps`; nnssl's and nnU-Net's schedule of the learning rate."""
    return (1 - step / steps) ** power
