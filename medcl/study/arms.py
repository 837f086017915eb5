"""What the arms of a study are to one another: the control, further controls, what is tested."""

from __future__ import annotations

from typing import Any

from medcl.config import Arm, Study

RECONSTRUCTION = "mae"  # the pretext task without contrast that others are held against


def control(study: Study) -> str | None:
    """The arm every other is compared with: the first that starts from scratch, if not alone."""
    plain = (name for name, arm in study.arms.items() if _plain(arm))
    return next(plain, None) if len(study.arms) > 1 else None


def pretrained(study: Study) -> list[str]:
    """Arms with a pretraining of this study, their own or the one they start from."""
    return [name for name in study.arms if encoder_arm(study, name)]


def further_controls(study: Study) -> list[str]:
    """Arms that pretrained ones are held against beside the control.

    Those without a pretraining of this study (longer training, weights from elsewhere), and masked
    reconstruction, which is pretrained without contrast.
    """
    found = []
    for name in study.arms:
        source = encoder_arm(study, name)
        if name != control(study) and (source is None or _reconstructs(study, source)):
            found.append(name)
    return found


def encoder_arm(study: Study, name: str) -> str | None:
    """The arm whose pretraining an arm starts from: itself, another (`start`), or none."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        arm = study.arms[name]
        start = _option(arm, "start")
        if start is None:
            return name if arm.pretrain else None
        name = start
    return None


def primary_pairs(study: Study) -> list[tuple[str, int]]:
    """(arm, label count) of the primary comparisons: the family of Holm's correction."""
    against = control(study)
    if against is None:
        return []
    arms = study.primary.arms or pretrained(study) or list(study.arms)
    counts = study.primary.labelled or study.labelled
    return [(arm, n) for n in study.labelled if n in counts for arm in arms if arm != against]


def described(arm: Arm) -> str:
    """What an arm without a pretraining of its own does before fine-tuning."""
    if (weights := _option(arm, "weights")) is not None:
        return f"starts from the weights {weights}"
    if (start := _option(arm, "start")) is not None:
        return f"starts from the pretraining of {start}"
    if (longer := _option(arm, "cost_of")) is not None:
        return f"starts from scratch and is trained longer by what the pretraining of {longer} took"
    return "starts from scratch"


def overrides(arm: Arm) -> dict[str, Any]:
    """Fine-tuning settings in which an arm differs from the others."""
    given = _option(arm, "finetune")
    if given is None:
        return {}
    return given if isinstance(given, dict) else given.model_dump(exclude_unset=True)


def _plain(arm: Arm) -> bool:
    options = ("start", "weights", "cost_of", "finetune")
    return arm.pretrain is None and not any(_option(arm, key) for key in options)


def _reconstructs(study: Study, name: str) -> bool:
    pretrain = study.arms[name].pretrain
    return pretrain is not None and pretrain.objective.name == RECONSTRUCTION


def _option(arm: Arm, key: str) -> Any:
    """An option that not every version of the configuration knows."""
    return getattr(arm, key, None)
