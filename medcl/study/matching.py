"""What other runs decide for a fine-tuning: its learning rate, and the steps of equal cost.

Seconds are those the trainings measured themselves, read from their summaries and never measured
again: the same summaries give the same number of steps, also to a run that is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import TrainingFailed
from medcl.files import read_json, read_yaml

CPU, WALL = "cpu_seconds", "seconds"  # entries of a summary
CLOCKS = {CPU: "seconds of the cores", WALL: "seconds by the clock"}


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
    clock = clock_of(pretrained, scratch)
    if not scratch["steps"] or not scratch[clock]:
        raise TrainingFailed(
            f"{pace}: {scratch['steps']} steps in {scratch[clock]} s are no pace; a run of "
            "equal cost needs a control that is trained step by step"
        )
    per_step = scratch[clock] / scratch["steps"]
    added = round(pretrained[clock] / per_step)
    return {
        "pretraining": str(cost_of),
        "clock": clock,
        "pretraining_seconds": pretrained[clock],
        "pace": str(pace),
        "seconds_per_step": per_step,
        "base_steps": steps,
        "added_steps": added,
        "steps": steps + added,
    }


def words_of(matched: dict[str, Any]) -> str:
    """The arithmetic as a sentence."""
    unit = "s of a core" if matched["clock"] == CPU else "s"
    return (
        f"{matched['base_steps']} steps and {matched['added_steps']} more, which at "
        f"{matched['seconds_per_step']:.3g} {unit} a step take the "
        f"{matched['pretraining_seconds']:g} {unit} of the pretraining"
    )


def clock_of(*summaries: Mapping[str, Any]) -> str:
    """Which seconds compare: on the CPU those of its cores, where all have them.

    A machine that others share makes one run take ten times as long as the next; what the two use
    of its cores stays the same.
    """
    counted = all(s.get("device") == "cpu" and s.get(CPU) for s in summaries)
    return CPU if counted and summaries else WALL


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
