"""What each arm of a study is and how it is fine-tuned, in sentences of a methods section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medcl.config import Finetune, Selftrain, Study, origin_of, settings_of
from medcl.config.protocol import PROBES
from medcl.study import protocol
from medcl.study.matching import CLOCKS, CPU, WALL
from medcl.study.prose import listed, plural

PROBED = (
    "learns no weights of the network: it is a probe of the frozen feature maps (all pretrained "
    "levels, brought to the resolution of the image and to unit length) of up to 2000 labelled "
    "voxels of each class"
)
PROBE = {
    "linear": f"{PROBED}, which a multinomial logistic regression tells apart",
    "knn": f"{PROBED}, of which the 20 nearest by cosine vote on a voxel, weighted by exp(cos / "
    "0.07)",
}


Matched = Mapping[int, Sequence[Mapping[str, Any]]]


def arms(study: Study, matched: Mapping[str, Matched] | None = None) -> list[str]:
    """Where the weights of each arm come from, and what sets it apart.

    matched: arm -> label count -> how the steps of equal cost of its runs were found, once they
    are made.
    """
    own = [name for name, arm in study.arms.items() if arm.pretrain]
    said = []
    if own:
        start, its = ("start", "their") if len(own) > 1 else ("starts", "its")
        said.append(f"{listed(own)} {start} from encoders of {its} own pretraining.")
    for name in study.arms:
        said += _arm(study, name, (matched or {}).get(name, {}))
    return said


def _arm(study: Study, name: str, matched: Matched) -> list[str]:
    arm, said = study.arms[name], []
    if name == study.control:
        said.append(f"{name}, the control, starts from random weights.")
    elif arm.from_scratch:
        said.append(f"{name} starts from random weights.")
    if arm.weights:
        said.append(
            f"{name} starts from given weights that no pretraining of this study made; what they "
            "were trained on, and whether test cases were part of it, is not known here."
        )
    if arm.start:
        said.append(_started(study, name))
    if arm.cost_of:
        said.append(_longer(study, name, matched))
    if arm.selftrain:
        said.append(_taught(name, arm.selftrain))
    if arm.labelled is not None:
        said.append(f"{name} is run with {listed(study.counts(name))} labelled only.")
    mode = settings_of(study, name).mode
    if mode in PROBES:
        said.append(f"{name} {PROBE[mode]}.")
    elif differing := differences(study, name):
        said.append(f"In its fine-tuning {name} differs from the others: {'; '.join(differing)}.")
    return said


def _longer(study: Study, name: str, matched: Matched) -> str:
    """What an arm of equal cost matches and, once it has run, by which clock and how many steps."""
    runs = [run for own in matched.values() for run in own]
    # Runs that do not say their clock were matched before there was more than one.
    clocks = dict.fromkeys(CLOCKS[run.get("clock", WALL)] for run in runs)
    by = listed(clocks, "or") if runs else f"{CLOCKS[CPU]} on a CPU, else {CLOCKS[WALL]}"
    text = (
        f"{name} is trained from scratch for longer: what the pretraining of "
        f"{study.arms[name].cost_of} took ({by}) is spent on further steps, at the pace of "
        f"{study.control} with the same labels and replicate"
    )
    each = listed(f"{added_words(own)} with {n}" for n, own in matched.items())
    return f"{text}: {each} labelled." if each else f"{text}."


def added_words(runs: Sequence[Mapping[str, Any]]) -> str:
    """`186 to 742 steps`: the steps added to the runs of one label count."""
    low, high = (of(run["added_steps"] for run in runs) for of in (min, max))
    return f"{low} to {high} steps" if low < high else plural(low, "step")


def _started(study: Study, name: str) -> str:
    origin = origin_of(study, name)
    if origin is None:
        return f"{name} starts from the weights of {study.arms[name].start}."
    given = study.arms[origin].weights
    what = f"the given weights of {origin}" if given else f"the encoders that {origin} pretrained"
    return f"{name} starts from {what}, without a pretraining of its own."


def _taught(name: str, teaching: Selftrain) -> str:
    """Self-training as `stages/selftrain.py` does it."""
    by = f"the network that {teaching.of} fine-tuned with the same labels and replicate"
    labels = "labels"
    if teaching.members > 1:
        more = plural(teaching.members - 1, "further one")
        by += f" and {more} with seeds of their own"
        labels = "together, by the mean of their probabilities, label"
    text = (
        f"{name} trains itself (pseudo-labels; Lee, 2013): {by} {labels} every pool case outside "
        f"the labelled subset. The {100 * teaching.keep:g} % of these cases labelled with the "
        f"highest mean probability are kept, without voxels below {teaching.confidence:g}; "
        f"{100 * teaching.share:g} % of the crops of another fine-tuning, from the weights that "
        f"{teaching.of} started from, are theirs"
    )
    if teaching.rounds > 1:
        text += f"; this is done {teaching.rounds} times, each time labelling with the last network"
    return f"{text}."


def differences(study: Study, name: str) -> list[str]:
    """How the fine-tuning of an arm differs from that of the study."""
    settings = settings_of(study, name)
    changed = protocol.changes_of(study, name)
    found = [WORDS[key](settings) for key in WORDS if key in changed]
    if "encoder_frozen" in changed and settings.mode == "sawtooth" and "mode" not in changed:
        found.append(WORDS["mode"](settings))
    return found


def options(settings: Finetune) -> list[str]:
    """What a fine-tuning does beyond plain training with Dice and cross-entropy."""
    plain = Finetune()
    keys = ("mode", "encoder_rate", "mixup", "core_tuning")
    return [WORDS[key](settings) for key in keys if getattr(settings, key) != getattr(plain, key)]


def steps(settings: Finetune, counts: Sequence[int]) -> str:
    """`200 steps`, or `300 steps with 1 and 600 steps with 4`."""
    if len({settings.steps_for(n) for n in counts}) == 1:
        return f"{settings.steps_for(counts[0])} steps"
    return listed(f"{settings.steps_for(n)} steps with {n}" for n in counts)


def _steps(settings: Finetune) -> str:
    if isinstance(settings.steps, int):
        return f"{settings.steps} steps"
    return listed(f"{n} steps from {count} labelled on" for count, n in settings.steps.items())


def _mode(settings: Finetune) -> str:
    if settings.mode == "sawtooth":
        return (
            f"for the first {100 * settings.encoder_frozen:g} % of the steps the encoder is frozen "
            "while the rest is trained, then the whole network is, each with a warm-up of its own "
            "(sawtooth)"
        )
    return "the whole network is trained throughout"


def _mixup(settings: Finetune) -> str:
    if not settings.mixup:
        return "no mixup"
    return f"pairs of crops are mixed, shares from Beta({settings.mixup:g}, {settings.mixup:g})"


def _core(settings: Finetune) -> str:
    if not settings.core_tuning:
        return "no core-tuning"
    return f"core-tuning's contrast of the classes is added with weight {settings.core_tuning:g}"


def _encoder(settings: Finetune) -> str:
    if not settings.encoder_rate:
        return "the encoder is frozen"
    return f"the encoder learns at {settings.encoder_rate:g} times the rate of the rest"


def _augmented(settings: Finetune) -> str:
    return "spatial and intensity augmentation" if settings.augment else "no augmentation"


# Every key of `finetune` but two: that of the checkpoints changes no weight, and the share of
# steps with a frozen encoder is said with the mode.
WORDS: Mapping[str, Callable[[Any], str]] = {
    "steps": _steps,
    "batch": lambda s: f"batches of {s.batch}",
    "accumulate": lambda s: f"batches computed in {plural(s.accumulate, 'part')}",
    "learning_rate": lambda s: f"peak learning rate {s.learning_rate:g}",
    "weight_decay": lambda s: f"weight decay {s.weight_decay:g}",
    "warmup": lambda s: f"warm-up over {100 * s.warmup:g} % of the steps",
    "clip": lambda s: f"norm of the gradient at most {s.clip:g}",
    "precision": lambda s: f"precision {s.precision}",
    "foreground": lambda s: f"{100 * s.foreground:g} % of the crops around a voxel of a class",
    "foreground_weight": lambda s: f"classes weighted {s.foreground_weight:g} times the background",
    "validate_every": lambda s: f"validation every {plural(s.validate_every, 'step')}",
    "augment": _augmented,
    "mode": _mode,
    "encoder_rate": _encoder,
    "mixup": _mixup,
    "core_tuning": _core,
}
