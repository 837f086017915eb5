"""How the learning rates were found, and what was trained on all labels, in sentences of a methods
section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcl.config.protocol import PROBES
from medcl.study import protocol as plan
from medcl.study.prose import listed, plural
from medcl.study.results import Results


def rates(results: Results) -> str:
    """How the learning rates were found."""
    study, tune = results.study, results.study.tune
    if tune is None:
        return "medcl tuned no setting: learning rates are those of the configuration."
    if not plan.trials(study):
        return "No arm has a learning rate."
    tried = listed((f"{rate:g}" for rate in tune.learning_rates), "or")
    # Earlier versions judged on as many subjects as there were labels, and did not say on how many.
    held = max((int(chosen.get("validation") or 0) for chosen in results.tuned.values()), default=0)
    judged = "mean validation Dice of the last weights"
    if held:
        judged += f" (on {'all ' if held > 1 else ''}{plural(held, 'validation subject')})"
    found = [
        f"{arm} {float(chosen['learning_rate']):g}{_margin(chosen)}"
        for arm, chosen in results.tuned.items()
        if chosen.get("learning_rate") is not None
    ]
    text = (
        f"The learning rate of each arm that is trained was chosen from {tried} by the {judged} "
        "after training"
        f"{f' for {tune.steps} steps' if tune.steps else ''} on the first {tune.labelled} of order "
        f"{tune.replicate}, which no reported replicate uses: "
        f"{listed(found) or 'none was found'}."
    )
    sources = {row.arm: row.tuned.split("/")[1] for row in plan.runs(study) if row.tuned}
    taken = [f"{arm} (from {other})" for arm, other in sources.items() if other != arm]
    return f"{text} Taken from another arm: {listed(taken)}." if taken else text


def _margin(chosen: Mapping[str, Any]) -> str:
    """What the chosen rate is better by; nothing where a lone rate could be tried."""
    if chosen.get("margin") is None:
        return ""
    ahead = f"{100 * float(chosen['margin']):.1f} points before {float(chosen['runner_up']):g}"
    return f" ({ahead})"


def bound(results: Results) -> str | None:
    """The trainings on all labels."""
    study, asked = results.study, results.study.bound
    if asked is None:
        return None
    count = len(results.splits.candidates(0)) if results.splits else 0
    settings = plan.bound_run(study, 0).settings
    if settings.mode in PROBES:
        return (
            f"As a bound of what more labels could give, {asked.arm} was fitted to every labelled "
            f"candidate{f' ({count})' if count else ''}, with {plural(asked.replicates, 'seed')}. "
            "It enters no comparison."
        )
    length = f", for {settings.steps_for(count)} steps" if count else ""
    many = f" ({count})" if count else ""
    return (
        f"As a bound of what more labels could give, {asked.arm} was trained on every labelled "
        f"candidate{many}, with {plural(asked.replicates, 'seed')}{length}, and otherwise as with "
        "few labels. It enters no comparison."
    )
