"""What a study did and what to bear in mind, in words: functions of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medcl.config import Evaluate, Finetune, Options, Pretrain, Study
from medcl.study.results import OK, Results, Run
from medcl.study.statistics import MIN_REPLICATES

UNKNOWN_SUBJECTS = "subject ids unknown: cases are treated as subjects"
NEAR_DUPLICATES = (
    "nearly the same image stands in two roles (pool, validation, test) and was let pass by "
    "split.waive in the configuration: test scores may be too good"
)


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 subject`, `4 subjects`."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def listed(items: Iterable[object], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = [str(item) for item in items]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def ranges(numbers: Iterable[int]) -> str:
    """`0`, `0 and 2`, `0 to 4` for a run of three or more."""
    numbers = sorted(numbers)
    runs = len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]} to {numbers[-1]}" if runs else listed(numbers)


def missing_words(runs: Iterable[Run], planned: int) -> str:
    """`voco with 2 labelled, replicate 3; mae with 1 labelled, all 5 replicates`."""
    groups: dict[tuple[str, int], set[int]] = {}
    for run in runs:
        groups.setdefault((run.arm, run.labelled), set()).add(run.replicate)
    found = []
    for (arm, labelled), lost in groups.items():
        if planned > 1 and len(lost) == planned:
            which = f"all {planned} replicates"
        else:
            which = f"{'replicate' if len(lost) == 1 else 'replicates'} {ranges(lost)}"
        found.append(f"{arm} with {labelled} labelled, {which}")
    return "; ".join(found)


def duration(seconds: float | None) -> str:
    """`42 s`, `12 min`, `3.4 h`; a dash where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def triple(values: Sequence[Any]) -> str:
    """`1 × 1 × 3`"""
    return " × ".join(f"{value:g}" for value in values)


# ------------------------------------------------------------------------------------ protocol


def protocol(results: Results) -> list[str]:
    """Paragraphs for a methods section, with the numbers of this study."""
    study = results.study
    return [
        text
        for text in (
            _data(results),
            _pretraining(study, results),
            _tuning(study.finetune, study, results),
            _scoring(study.evaluate, study),
            _comparing(study) if results.control else None,
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
    return f"{text} (seed {study.split.seed})."


def _pretraining(study: Study, results: Results) -> str | None:
    arms = {name: arm.pretrain for name, arm in study.arms.items() if arm.pretrain}
    if not arms:
        return None
    each = [f"{name}: {describe_pretraining(pretrain)}" for name, pretrain in arms.items()]
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
    return (
        f"objective {described(pretrain.objective)}, {pretrain.steps} steps of batch "
        f"{pretrain.batch}, peak learning rate {pretrain.learning_rate:g}{then}, "
        f"{plural(pretrain.seeds, 'seed')}"
    )


def described(options: Options) -> str:
    """`voco with grid [2, 2, 2]`: a name and the options that were given."""
    words = ", ".join(f"{key} {value}" for key, value in (options.model_extra or {}).items())
    return f"{options.name} with {words}" if words else options.name


def _tuning(tuning: Finetune, study: Study, results: Results) -> str:
    counts = listed(study.labelled)
    steps = [f"{tuning.steps_for(n)} steps with {n}" for n in study.labelled]
    same = len({tuning.steps_for(n) for n in study.labelled}) == 1
    length = f"{tuning.steps_for(study.labelled[0])} steps" if same else listed(steps)
    text = (
        f"Segmentation networks ({described(study.network)}) were trained with {counts} labelled "
        f"{'subject' if study.labelled == [1] else 'subjects'}, "
        f"{plural(study.replicates, 'replicate')} each. Replicate r takes its labelled subjects "
        "from the front of seeded order r, so that smaller subsets lie inside larger ones, and has "
        "its own training seed; arms differ in the weights they start from and in nothing else. "
        f"Training took {length} of batch {tuning.batch} with AdamW (peak learning rate "
        f"{tuning.learning_rate:g}, weight decay {tuning.weight_decay:g}, warm-up "
        f"{100 * tuning.warmup:g} % of the steps, cosine decay), Dice loss and cross-entropy with "
        f"every class weighted {tuning.foreground_weight:g} times the background"
    )
    text += ", spatial and intensity augmentation" if tuning.augment else ", no augmentation"
    if any(arm.pretrain for arm in study.arms.values()):
        text += ". Replicate r of a pretrained arm starts from pretraining seed r modulo the seeds"
    return (
        f"{text}. Results are those of the weights after the last step; the weights selected by "
        f"validation Dice (the first max(2, n) validation subjects, every "
        f"{plural(tuning.validate_every, 'step')}) are given as a secondary result."
    )


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


def _comparing(study: Study) -> str:
    return (
        f"Every arm is compared with the same replicates trained from scratch, paired by labelled "
        "subset, training seed and test subject. The interval of the mean difference treats "
        "replicates and test subjects as crossed random factors: variance components from the "
        "two-way table, t distribution with Satterthwaite's degrees of freedom, 95 %, two-sided. "
        f"It needs {MIN_REPLICATES} replicates or more. The difference the study could have seen "
        "is the one this precision finds with a power of 80 %."
    )


def caveats(results: Results) -> list[str]:
    """What the intervals do not cover."""
    study, found = results.study, []
    comparisons = (len(study.arms) - 1) * len(study.labelled) if results.control else 0
    if comparisons > 1:
        found.append(
            f"The study makes {comparisons} comparisons; intervals and p values are not corrected "
            "for their number."
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
    single = [name for name, count in seeds.items() if count < 3]
    if single and results.control:
        found.append(
            f"Fewer than 3 pretraining seeds ({listed(single)}): what is said holds for the "
            "encoders that were trained, not for the method."
        )
    return found


# ---------------------------------------------------------------------------------- diagnostics


def plan_words(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Choices of the plan: what, value, and whether the user gave it."""
    given = set(plan.get("given", ()))
    rows = []
    for key, name, words in (
        ("orientation", "orientation", str),
        ("spacing", "spacing", lambda v: f"{triple(v)} mm"),
        ("crop", "training crop", lambda v: f"{triple(v)} voxels"),
        ("strides", "downsampling per level", lambda v: ", ".join(triple(level) for level in v)),
        ("intensity", "intensities", intensity_words),
        ("channels", "channels", str),
        ("threads", "threads of a training", str),
    ):
        if plan.get(key) is not None:
            rows.append((name, words(plan[key]), "given" if key in given else "derived"))
    return rows


def intensity_words(rule: Mapping[str, Any] | str) -> str:
    if isinstance(rule, str):
        return rule
    low, high = rule.get("low"), rule.get("high")
    if rule.get("rule") == "window":
        return f"window {low:g} to {high:g} to 0..1"
    if rule.get("rule") == "percentiles":
        return f"percentiles {low:g} to {high:g} of the body to 0..1"
    return "mean 0 and standard deviation 1 within the body"


def audit_words(audit: Mapping[str, Any], show: Any) -> list[str]:
    """Findings of the leakage audit; `show` gives the shown name of a case."""
    if not audit:
        return ["The audit has not been made."]
    found = [f"Stopped: {audit['reason']}"] if audit.get("stopped") else []
    if not audit.get("overlaps"):
        found.append("No subject has more than one role (pool, validation, test).")
    across = [d for d in audit.get("duplicates", []) if len(set(d["roles"])) > 1]
    within = [d for d in audit.get("duplicates", []) if len(set(d["roles"])) == 1]
    if not across:
        found.append("No image is stored in two roles (equal voxels are found in any format).")
    for item in within:
        cases = listed(show(case) for case in item["cases"])
        found.append(f"The same voxels stand twice within the {item['roles'][0]}: {cases}.")
    for item in audit.get("near_duplicates") or ():
        cases, roles = listed(show(case) for case in item["cases"]), listed(item["roles"])
        found.append(
            f"Nearly the same image stands under different subjects ({roles}): {cases}, "
            f"correlation {item['similarity']:.2f}."
        )
    if audit.get("near_duplicates") == []:
        found.append("No two subjects have nearly the same image (re-saved, scaled or cut).")
    for item in audit.get("warnings", []):
        cases = listed(show(case) for case in item["cases"])
        found.append(f"One label map belongs to different images of different roles: {cases}.")
    if audit.get("unknown_subjects"):
        found.append("Subjects are unknown: two cases of one person may have different roles.")
    return found


def diagnosis_words(status: str, reason: str | None, summary: Mapping[str, Any]) -> str:
    """What pretraining says about itself."""
    if status != OK:
        return f"{status}: {reason}"
    said = [str(item).rstrip(".") for item in summary.get("diagnosis") or ()]
    return "; ".join(said) or "nothing conspicuous"


def transfer_words(transfers: Sequence[Mapping[str, Any]]) -> str:
    """How much of the encoder arrived in the fine-tuned networks."""
    if not transfers:
        return "no run took weights over"
    shares = [100 * float(item["share"]) for item in transfers]
    low, high = min(shares), max(shares)
    share = f"{low:.0f} %" if high - low < 0.5 else f"{low:.0f} to {high:.0f} %"
    first = transfers[0]
    text = f"{share} of the pretrained parameters ({plural(len(first['taken']), 'tensor')}) taken"
    reasons: dict[str, list[str]] = {}
    for item in first["not_taken"]:
        reasons.setdefault(item["why"], []).append(item["name"])
    left = [f"{plural(len(names), 'tensor')} not: {why}" for why, names in reasons.items()]
    return "; ".join([text, *left])
