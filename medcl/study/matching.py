"""What other runs decide for a fine-tuning: its learning rate, and the steps of equal cost.

Seconds are those the trainings measured themselves, read from their summaries and never measured
again: the same summaries give the same number of steps, also to a run that is resumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcl.errors import TrainingFailed
from medcl.files import read_json, read_yaml


def match(cost_of: str | Path, pace: str | Path, steps: int) -> dict[str, Any]:
    """The steps that cost as much as `steps` and the pretraining summarised in `cost_of`.

    pace: summary of a run from scratch with the same labels, which says what a step takes. Returns
    the arithmetic. Raises TrainingFailed where one of the two failed, or where they ran on
    different devices, whose seconds do not compare.
    """
    pretrained, scratch = _finished(cost_of, "pretraining"), _finished(pace, "run from scratch")
    if pretrained["device"] != scratch["device"]:
        raise TrainingFailed(
            f"{cost_of}: ran on {pretrained['device']} and {pace} on {scratch['device']}, so their "
            "seconds do not compare; run both on one kind of device"
        )
    per_step = scratch["seconds"] / scratch["steps"]
    if per_step <= 0:
        raise TrainingFailed(f"{pace}: {scratch['seconds']} s is no pace; run it again")
    added = round(pretrained["seconds"] / per_step)
    return {
        "pretraining": str(cost_of),
        "pretraining_seconds": pretrained["seconds"],
        "pace": str(pace),
        "seconds_per_step": per_step,
        "base_steps": steps,
        "added_steps": added,
        "steps": steps + added,
    }


def words_of(matched: dict[str, Any]) -> str:
    """The arithmetic as a sentence."""
    return (
        f"{matched['base_steps']} steps and {matched['added_steps']} more, which at "
        f"{matched['seconds_per_step']:.3g} s a step take the {matched['pretraining_seconds']:g} s "
        "of the pretraining"
    )


def tuned_rate(file: str | Path) -> float:
    """The learning rate a tuning chose; TrainingFailed where all of its trial runs failed."""
    tuned = read_yaml(file)
    if tuned["status"] != "ok":
        raise TrainingFailed(f"{file}: its tuning failed: {tuned['reason']}")
    return float(tuned["learning_rate"])


def _finished(file: str | Path, what: str) -> dict[str, Any]:
    summary: dict[str, Any] = read_json(file)
    if summary["status"] != "ok":
        raise TrainingFailed(f"{file}: its {what} failed: {summary['reason']}")
    return summary
