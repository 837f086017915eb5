"""Seeds of runs, known without torch."""

from __future__ import annotations

import numpy as np


def seed_of(*words: int) -> int:
    """One seed from several numbers, e.g. replicate and label count."""
    return int(np.random.SeedSequence(words).generate_state(1)[0])
