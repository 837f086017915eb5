"""Learning-rate factor of a step."""

from __future__ import annotations

import math


def warmup_cosine(step: float, steps: int, warmup: int) -> float:
    """Rise linearly to 1 over `warmup` steps, then fall to 0 at `steps` along a half cosine."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
