"""What a study did, ready for a methods section."""

from __future__ import annotations

from collections.abc import Sequence

from medcl.config import Evaluate, Options, Pretrain, Study, primary_pairs, settings_of
from medcl.config.protocol import PROBES
from medcl.study import arm_words, prose, tuning_words
from medcl.study import protocol as plan
from medcl.study.cost import matched_runs
from medcl.study.measures import MEASURES
from medcl.study.prose import listed, plural
from medcl.study.results import Results
from medcl.study.statistics import MIN_REPLICATES


def protocol(results: Results) -> dict[str, str]:
    """Paragraphs for a methods section, with the numbers of this study, below their titles."""
    study = results.study
    found = {
        "Data": _data(results),
        "Preprocessing": _preprocessing(results),
        "Arms": " ".join(
            arm_words.arms(study, {arm: matched_runs(results, arm) for arm in study.arms})
        ),
        "Pretraining": _pretraining(study, results),
        "Fine-tuning": _tuning(study),
        "Learning rates": tuning_words.rates(results),
        "Bound": tuning_words.bound(results),
        "Prediction and scores": _scoring(study.evaluate, study),
        "Statistics": _comparing(study, results.control) if results.control else None,
    }
    return {title: text for title, text in found.items() if text}


def _data(results: Results) -> str:
    study, splits = results.study, results.splits
    unit = "case" if results.unknown_subjects else "subject"
    classes = prose.plural(len(study.dataset.classes), "class", "classes")
    text = (
        f"The data set {study.dataset.name} ({study.dataset.modality}, {classes}: "
        f"{listed(study.dataset.classes)}) was divided by {unit}"
    )
    if splits is None:
        return f"{text}."
    if not isinstance(study.split.test, list):
        text += f", at random (seed {study.split.seed}),"
    labelled = {case.subject for case in results.cases if case.label is not None}
    pool, validation, test = (splits.subjects(role) for role in ("pool", "validation", "test"))
    marked = len(labelled.intersection(pool))
    text += (
        f" into {plural(len(test), f'test {unit}')}, "
        f"{plural(len(validation), f'validation {unit}')}"
        f" and a pool of {len(pool)}, of which {marked} have a label"
    )
    text += "; the test subjects were named." if isinstance(study.split.test, list) else "."
    for other in study.pretrain_on:
        count = sum(case.dataset == other.name for case in results.cases)
        text += (
            f" {plural(count, 'image')} of the data set {other.name} joined the pool without "
            "labels."
        )
    return text


def _preprocessing(results: Results) -> str | None:
    """What was done to every volume, as the plan says."""
    chosen = results.plan
    if not chosen.get("spacing"):
        return None
    inputs = chosen.get("inputs") or []
    rules = [
        f"of {item['name']} by {prose.intensity_words(item['intensity'])}" for item in inputs
    ] or [f"by {prose.intensity_words(chosen.get('intensity', ''))}"]
    given = [name for name in chosen.get("given", ()) if not str(name).startswith("channel_")]
    derived = "These choices were derived from the images of pool subjects alone"
    if given:
        derived += f", but for what was given: {listed(given)}"
    return (
        f"Volumes were brought to orientation {chosen.get('orientation', 'RAS')} and resampled to "
        f"{prose.triple(chosen['spacing'])} mm (cubic; label maps to the most probable label). "
        f"Intensities were scaled {listed(rules)}. Networks saw crops of "
        f"{prose.triple(chosen['crop'])} voxels. {derived}."
    )


def _pretraining(study: Study, results: Results) -> str | None:
    given = {name: arm.pretrain for name, arm in study.arms.items() if arm.pretrain}
    if not given:
        return None
    each = [f"{name}: {describe_pretraining(pretrain)}" for name, pretrain in given.items()]
    reading = {item.arm for item in results.pretrainings if item.summary.get("labels_read")}
    return (
        f"{pretraining_saw(sorted(reading))} {'; '.join(each)}. Optimisation was by AdamW with a "
        "warm-up and cosine decay."
    )


def pretraining_saw(reading: Sequence[str]) -> str:
    """What the pretrainings saw; `reading` are the arms whose objective reads voxel labels."""
    text = "Encoders were pretrained on the images of all pool subjects"
    if not reading:
        return f"{text}, without any label and without test or validation images."
    return (
        f"{text}, without test or validation images. {listed(reading)} read the voxel labels of "
        "all labelled pool subjects too, also of those that no fine-tuning at fewer labels saw."
    )


def describe_pretraining(pretrain: Pretrain) -> str:
    then = "".join(
        f", then objective {described(phase.objective)} on the same network, {phase.steps} steps, "
        f"peak learning rate {phase.learning_rate or pretrain.learning_rate:g}"
        for phase in pretrain.then
    )
    probes = (
        f", {pretrain.probe} probes of labelled pool subjects every "
        f"{plural(pretrain.probe_every, 'step')} for the log alone"
    )
    return (
        f"objective {described(pretrain.objective)}, {pretrain.steps} steps of batch "
        f"{pretrain.batch}, peak learning rate {pretrain.learning_rate:g}{then}, "
        f"{plural(pretrain.seeds, 'seed')}{probes if pretrain.probe_every else ''}"
    )


def described(options: Options) -> str:
    """`voco with grid [2, 2, 2]`: a name and the options that were given."""
    words = ", ".join(f"{key} {value}" for key, value in (options.model_extra or {}).items())
    return f"{options.name} with {words}" if words else options.name


def _tuning(study: Study) -> str:
    tuning = study.finetune
    probes = [name for name in study.arms if settings_of(study, name).mode in PROBES]
    if len(probes) == len(study.arms):
        return (
            f"Probes ({described(study.network)}, no weight of which is trained) were made with "
            f"{_subsets(study)}{_assigned(study)}{_differ(study)}"
        )
    rate = "" if study.tune else f"peak learning rate {tuning.learning_rate:g}, "
    augmented = "with spatial and intensity" if tuning.augment else "without"
    text = (
        f"Segmentation networks ({described(study.network)}) were trained with "
        f"{_subsets(study)}{_assigned(study)}"
        f"Training{f' (of all but {listed(probes)})' if probes else ''} took "
        f"{arm_words.steps(tuning, study.labelled)} of batch {tuning.batch} with "
        f"AdamW ({rate}weight decay {tuning.weight_decay:g}, warm-up over "
        f"{100 * tuning.warmup:g} % of the steps, cosine decay, norm of the gradient at most "
        f"{tuning.clip:g}). The loss was the sum of Dice loss and of cross-entropy with every "
        f"class weighted {tuning.foreground_weight:g} times the background; "
        f"{100 * tuning.foreground:g} % of the crops lay around a voxel of a class, each class as "
        f"often, {augmented} augmentation. "
    )
    if more := arm_words.options(tuning):
        text += f"Beyond that, {'; '.join(more)}. "
    return f"{text}{_differ(study)} {_weights(study)}"


def _subsets(study: Study) -> str:
    return (
        f"{listed(study.labelled)} labelled "
        f"{'subject' if study.labelled == [1] else 'subjects'}, "
        f"{plural(study.replicates, 'replicate')} each. Replicate r takes its labelled subjects "
        "from the front of seeded order r, so that smaller subsets lie inside larger ones, and has "
        "its own seed; both are the same in every arm. "
    )


def _assigned(study: Study) -> str:
    if not plan.pretrainings(study):
        return ""
    return "Where an arm has k pretraining seeds, replicate r starts from seed r modulo k. "


def _differ(study: Study) -> str:
    """In what arms differ; what else they differ in is said with the arms."""
    more = any(
        arm.cost_of or arm.selftrain or plan.changes_of(study, name)
        for name, arm in study.arms.items()
    )
    if len(study.arms) == 1:
        return ""
    start = "Arms differ in the weights they start from and in nothing else"
    if plan.trials(study):
        start = "Arms differ in the weights they start from, in their tuned learning rates"
        start += " and in nothing else"
    return f"{start}, but for what is said of them above." if more else f"{start}."


def _weights(study: Study) -> str:
    """Which weights the results are of."""
    every = plural(study.finetune.validate_every, "step")
    how = f"by validation Dice (the first max(2, n) validation subjects, every {every})"
    if study.primary.weights == "last":
        return (
            f"Results are those of the weights after the last step; Dice of the weights selected "
            f"{how} is given as a secondary result."
        )
    return (
        f"Results are those of the weights selected {how}; Dice of the weights after the last step "
        "is given as a secondary result."
    )


def _scoring(evaluate: Evaluate, study: Study) -> str:
    return (
        "Predictions were made with a sliding window of the crop's size (overlap "
        f"{100 * study.predict.overlap:g} %, Gaussian weights) "
        "and scored on the original voxel grid in mm: Dice, intersection over union, 95th "
        "percentile Hausdorff distance (HD95), average symmetric surface distance (ASSD) and "
        f"normalised surface Dice (NSD, tolerance {evaluate.nsd_tolerance_mm:g} mm). A class "
        "that the reference of a case does not have is left out there, whether or not it was "
        "predicted; such false finds are counted instead. A class that was not found has overlaps "
        "of 0 and no distances. A case scores the mean over its classes, a paired difference of "
        "distances is over those found in both arms; the cases of one test subject are averaged "
        "to the subject."
    )


def _comparing(study: Study, control: str) -> str:
    family = len(primary_pairs(study))
    step = f" / {family}" if family > 1 else ""
    return (
        f"Every arm is compared with the same replicates of {control}, paired by labelled "
        "subset, training seed and test subject. The interval of the mean difference treats "
        "replicates and test subjects as crossed random factors: variance components from the "
        "two-way table, t distribution with Satterthwaite's degrees of freedom, 95 %, two-sided. "
        f"It needs {MIN_REPLICATES} replicates or more. {primary_words(study, control)} "
        "The difference the study could have seen is the one this precision finds with a power of "
        f"80 % at the level 0.05{step}{' for primary ones' if step else ''}.{_further(study)}"
    )


def _further(study: Study) -> str:
    taught = {n: arm.selftrain.of for n, arm in study.arms.items() if arm.selftrain}
    others = {c for arm in study.arms if arm not in taught for c in plan.controls_of(study, arm)}
    found = [name for name in plan.further_controls(study) if name in others]
    does = "are further controls" if len(found) > 1 else "is a further control"
    said = f" {listed(found)} {does}, beside which pretrained arms are set in the same way."
    beside = [f"{name} beside {other}" for name, other in taught.items() if other != study.control]
    own = f" An arm that trains itself is also set beside its teacher: {listed(beside)}."
    return f"{said if found else ''}{own if beside else ''}"


def primary_words(study: Study, control: str) -> str:
    """Which comparisons Holm's correction covers, and what the others are."""
    pairs = primary_pairs(study)
    names = dict.fromkeys(arm for arm, _ in pairs)
    counts = dict.fromkeys(n for _, n in pairs)
    measure = MEASURES[study.primary.metric]
    weights = "" if study.primary.weights == "last" else " of the selected weights"
    return (
        f"Primary {'is' if len(pairs) == 1 else 'are'} {plural(len(pairs), 'comparison')}: mean "
        f"{measure.title}{weights} of {listed(names)} against {control} with {listed(counts)} "
        f"labelled {'subject' if list(counts) == [1] else 'subjects'}. Their p values are "
        "corrected after Holm; a gain or a loss is claimed where the interval excludes 0 and the "
        "corrected p is below 0.05. All else (other arms, label counts and metrics, single "
        "classes, further controls, bootstrap, Wilcoxon's test) is secondary and not corrected."
    )
