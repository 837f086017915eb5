"""A teacher: a copy of the student whose weights follow it by an exponential moving average.

    teacher <- momentum teacher + (1 - momentum) student

The copy starts equal to the student. It never receives a gradient. It stays in training mode with
the student, so a BatchNorm uses the statistics of its batch in both; buffers (a BatchNorm's
running statistics) are copied, not averaged.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class Teacher(nn.Module):
    """modules: copies of the given students, in their order. momentum: 0 copies, 1 never moves."""

    def __init__(self, *students: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.copies = nn.ModuleList(copy.deepcopy(student) for student in students)
        self.copies.requires_grad_(False)
        # In a tuple they are no submodules: saved once, and trained once.
        self._students = students

    @torch.no_grad()
    def update(self) -> None:
        """Move one step towards the students."""
        for own, student in zip(self.copies, self._students, strict=True):
            for mine, theirs in zip(own.parameters(), student.parameters(), strict=True):
                mine.lerp_(theirs, 1 - self.momentum)
            for kept, current in zip(own.buffers(), student.buffers(), strict=True):
                kept.copy_(current)


def rising_momentum(step: int, steps: int, start: float) -> float:
    """Momentum after `step` of `steps` optimiser steps: `start` at first, 1 at the end.

    1 - (1 - start) (cos(pi step / steps) + 1) / 2
    """
    return 1 - (1 - start) * (math.cos(math.pi * min(step, steps) / steps) + 1) / 2
