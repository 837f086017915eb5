"""What a study did, ready for a methods section, and what its intervals do not cover."""

from __future__ import annotations

from collections.abc import Sequence

from medcl.config import Evaluate, Finetune, Options, Pretrain, Study
from medcl.study import protocol as plan
from medcl.study.measures import MEASURES
from medcl.study.prose import listed, plural
from medcl.study.results import Results
from medcl.study.sentences import METHOD_SEEDS
from medcl.study.statistics import MIN_REPLICATES


def protocol(results: Results) -> list[str]:
    """Paragraphs for a methods section, with the numbers of this study."""
    study = results.study
    return [
        text
        for text in (
            _data(results),
            _pretraining(study, results),
            _tuning(study.finetune, study, results),
            " ".join(plan.words(study)),
            _scoring(study.evaluate, study),
            _comparing(study, results.control) if results.control else None,
        )
        if text
    ]


def _data(results: Results) -> str:
    study, splits = results.study, results.splits
    unit = "case" if results.unknown_subjects else "subject"
    text = f"The data set {study.dataset.name} ({study.dataset.modality}) was divided by {unit}"
    if splits is None:
        return f"{text}."
    labelled = {case.subject for case in results.cases if case.label is not None}
    pool, validation, test = (splits.subjects(role) for role in ("pool", "validation", "test"))
    marked = len(labelled.intersection(pool))
    text += (
        f" into {plural(len(test), f'test {unit}')}, "
        f"{plural(len(validation), f'validation {unit}')}"
        f" and a pool of {len(pool)}, of which {marked} have a label"
    )
    text += f" (seed {study.split.seed})."
    for other in study.pretrain_on:
        count = sum(case.dataset == other.name for case in results.cases)
        text += (
            f" {plural(count, 'image')} of the data set {other.name} joined the pool without "
            "labels."
        )
    return text


def _pretraining(study: Study, results: Results) -> str | None:
    given = {name: arm.pretrain for name, arm in study.arms.items() if arm.pretrain}
    if not given:
        return None
    each = [f"{name}: {describe_pretraining(pretrain)}" for name, pretrain in given.items()]
    reading = {item.arm for item in results.pretrainings if item.summary.get("labels_read")}
    return f"{pretraining_saw(sorted(reading))} {'; '.join(each)}."


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


def _tuning(tuning: Finetune, study: Study, results: Results) -> str:
    counts = listed(study.labelled)
    steps = [f"{tuning.steps_for(n)} steps with {n}" for n in study.labelled]
    same = len({tuning.steps_for(n) for n in study.labelled}) == 1
    rate = "" if study.tune else f"peak learning rate {tuning.learning_rate:g}, "
    length = f"{tuning.steps_for(study.labelled[0])} steps" if same else listed(steps)
    text = (
        f"Segmentation networks ({described(study.network)}) were trained with {counts} labelled "
        f"{'subject' if study.labelled == [1] else 'subjects'}, "
        f"{plural(study.replicates, 'replicate')} each. Replicate r takes its labelled subjects "
        "from the front of seeded order r, so that smaller subsets lie inside larger ones, and has "
        f"its own training seed; {_differ(study)} "
        f"Training took {length} of batch {tuning.batch} with AdamW ({rate}"
        f"weight decay {tuning.weight_decay:g}, warm-up "
        f"{100 * tuning.warmup:g} % of the steps, cosine decay), Dice loss and cross-entropy with "
        f"every class weighted {tuning.foreground_weight:g} times the background"
    )
    text += ", spatial and intensity augmentation" if tuning.augment else ", no augmentation"
    if plan.pretrainings(study):
        text += ". Replicate r of a pretrained arm starts from pretraining seed r modulo the seeds"
    return f"{text}. {_tuned(results)} {_weights(tuning, study)}"


def _differ(study: Study) -> str:
    """In what arms differ; what else they differ in is said apart."""
    more = any(
        arm.cost_of or arm.selftrain or plan.changes_of(study, name)
        for name, arm in study.arms.items()
    )
    start = "arms differ in the weights they start from and in nothing else"
    return f"{start}, but for what is said below." if more else f"{start}."


def _tuned(results: Results) -> str:
    """How the learning rates were found."""
    if results.study.tune is None:
        return "medcl tuned no setting: learning rates are those of the configuration."
    rates = [
        f"{arm} {float(found['learning_rate']):g}"
        for arm, found in results.tuned.items()
        if found.get("learning_rate") is not None
    ]
    return f"Learning rates were tuned: {listed(rates) or 'none was found'}."


def _weights(tuning: Finetune, study: Study) -> str:
    """Which weights the results are of."""
    selected = (
        f"the weights selected by validation Dice (the first max(2, n) validation subjects, every "
        f"{plural(tuning.validate_every, 'step')})"
    )
    if study.primary.weights == "last":
        return (
            f"Results are those of the weights after the last step; {selected} are given as a "
            "secondary result."
        )
    return f"Results are those of {selected}."


def _scoring(evaluate: Evaluate, study: Study) -> str:
    return (
        f"Predictions were made with a sliding window (overlap {100 * study.predict.overlap:g} %) "
        "and scored on the original voxel grid in mm: Dice, intersection over union, 95th "
        "percentile Hausdorff distance (HD95), average symmetric surface distance (ASSD) and "
        f"normalised surface Dice (NSD, tolerance {evaluate.nsd_tolerance_mm:g} mm). A class "
        "absent from both reference and prediction of a case is undefined there and left out. "
        "A case scores the mean over its defined classes; the cases of one test subject are "
        "averaged to the subject."
    )


def _comparing(study: Study, control: str) -> str:
    family = len(plan.primary_pairs(study))
    step = f" / {family}" if family > 1 else ""
    return (
        f"Every arm is compared with the same replicates of {control}, paired by labelled "
        "subset, training seed and test subject. The interval of the mean difference treats "
        "replicates and test subjects as crossed random factors: variance components from the "
        "two-way table, t distribution with Satterthwaite's degrees of freedom, 95 %, two-sided. "
        f"It needs {MIN_REPLICATES} replicates or more. {primary_words(study, control)} "
        "The difference the study could have seen is the one this precision finds with a power of "
        f"80 % at the level 0.05{step}.{_further(study)}"
    )


def _further(study: Study) -> str:
    found = plan.further_controls(study)
    if not found:
        return ""
    does = "are further controls" if len(found) > 1 else "is a further control"
    return f" {listed(found)} {does}, beside which pretrained arms are set in the same way."


def primary_words(study: Study, control: str) -> str:
    """Which comparisons Holm's correction covers, and what the others are."""
    pairs = plan.primary_pairs(study)
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


def caveats(results: Results) -> list[str]:
    """What the intervals do not cover."""
    study, found = results.study, []
    family = len(plan.primary_pairs(study))
    if family > 1:
        found.append(
            f"Holm's correction covers the {family} primary comparisons. Intervals are those of "
            "single comparisons, and what is called secondary is not corrected."
        )
    border = [arm for arm, tuned in results.tuned.items() if tuned.get("border")]
    if border:
        found.append(
            f"The learning rate chosen for {listed(border)} is the smallest or largest of those "
            "tried; a rate beyond it might do better."
        )
    candidates = len(results.splits.candidates(0)) if results.splits else 0
    overlapping = [n for n in study.labelled if 2 * n > candidates > 0]
    if overlapping and study.replicates > 1:
        found.append(
            f"With {listed(overlapping)} of {candidates} labelled candidates the subsets of "
            "different replicates overlap by half or more: the interval then says less about other "
            "labelled subjects than its width suggests."
        )
    seeds = {n: a.pretrain.seeds for n, a in study.arms.items() if a.pretrain}
    needed = max(METHOD_SEEDS, study.replicates)
    shared = [name for name, count in seeds.items() if count < needed]
    if shared and results.control:
        found.append(
            f"Fewer than {needed} pretraining seeds ({listed(shared)}), so that replicates share "
            "encoders: what is said holds for the encoders that were trained, not for the method."
        )
    return found
