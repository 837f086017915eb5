"""The first half of a report: the answer, figures, classes and secondary metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medcl.study import prose
from medcl.study.comparison import Comparison, class_values, collapsed, dice_table
from medcl.study.markup import Html, bullets, figure, panels, paragraph, section, table, tag
from medcl.study.report_figures import Overlays, Picture
from medcl.study.results import OK, Results
from medcl.study.sentences import decimals, mean_sentence, p_value, points, sentence, verdict

MARKS = {"gain": "▲", "loss": "▼", "unclear": "○", "no interval": "–"}
METRICS = (
    ("hd95_mm", "HD95 (mm)", 1.0, 1),
    ("assd_mm", "ASSD (mm)", 1.0, 2),
    ("nsd", "NSD (%)", 100.0, 1),
    ("iou", "IoU (%)", 100.0, 1),
)


def head(results: Results) -> Html:
    """Title, what was studied, and what must be known before any number is read."""
    study = results.study
    count = len(results.test_cases)
    subjects = len(results.splits.subjects("test")) if results.splits else 0
    test = prose.plural(count, "test case")
    if subjects != count:
        test += f" of {prose.plural(subjects, 'subject')}"
    facts = [
        f"data set {study.dataset.name} ({study.dataset.modality})",
        f"classes {', '.join(study.dataset.classes)}",
        test,
        prose.plural(study.replicates, "replicate"),
    ]
    return tag(
        "header",
        paragraph(f"medcl · study {study.study}", class_="kicker"),
        tag("h1", study.report.title or _title(results)),
        paragraph(" · ".join(facts), class_="facts"),
        paragraph(prose.UNKNOWN_SUBJECTS, class_="notice") if results.unknown_subjects else "",
        paragraph(prose.NEAR_DUPLICATES, class_="notice") if results.audit.get("waived") else "",
    )


def _title(results: Results) -> str:
    return "Does pretraining help?" if results.control else results.study.study


def answer(results: Results, comparisons: Sequence[Comparison]) -> Html:
    """One sentence per arm and label count, the table, and what is missing."""
    if results.control:
        blocks = [
            tag("h3", arm) + tag("ul", *(_said(c) for c in comparisons if c.arm == arm))
            for arm in results.study.arms
            if arm != results.control
        ]
    else:
        blocks = [tag("ul", *(tag("li", lone_words(item)) for item in comparisons))]
    return section(
        "The answer",
        tag("div", *map(Html, blocks), class_="answer"),
        *(paragraph(text, class_="notice") for text in notices(results, comparisons)),
        answer_table(results, comparisons),
        bullets(prose.caveats(results)),
        anchor="answer",
    )


def _said(item: Comparison) -> Html:
    kind = verdict(item.interval)
    mark = tag("span", MARKS[kind], class_="mark", aria_hidden="true")
    return tag("li", mark, comparison_words(item), class_=kind.replace(" ", "-"))


def comparison_words(item: Comparison) -> str:
    """The sentence of a comparison with the control."""
    found = item.difference
    assert found is not None
    return sentence(
        difference=found.mean,
        interval=item.interval,
        p=found.p,
        replicates=found.replicates,
        detectable=found.detectable,
        arm=item.arm,
        labelled=item.labelled,
        seeds=item.seeds,
        planned=found.replicates + found.dropped_replicates,
        reason=found.reason,
    )


def lone_words(item: Comparison) -> str:
    """The sentence of an arm without a control."""
    found = item.mean
    known = found.low is not None and found.high is not None
    interval = (found.low or 0.0, found.high or 0.0) if known else None
    return mean_sentence(
        mean=found.mean,
        interval=interval,
        arm=item.arm,
        labelled=item.labelled,
        reason=found.reason,
    )


def notices(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know beside the sentences: missing runs, lost classes, left-out cases."""
    found = []
    lost = [run for item in comparisons for run in item.missing]
    if lost:
        words = prose.missing_words(lost, results.study.replicates)
        found.append(f"Missing: {words}. The reasons stand under “Runs that did not finish”.")
    if gone := collapsed(results):
        names = dict.fromkeys(f"{name} ({arm}, {n} labelled)" for arm, n, name, _ in gone)
        found.append(
            f"Class collapse: mean Dice 0 in at least one replicate for {prose.listed(names)}. "
            "Differences there show whether a class was found at all."
        )
    undefined = max((item.mean.undefined_cases for item in comparisons), default=0)
    if undefined:
        found.append(
            f"Up to {prose.plural(undefined, 'test case')} left out of an arm: no class is defined "
            "there, or a replicate has no value."
        )
    return found


def answer_table(results: Results, comparisons: Sequence[Comparison]) -> Html:
    """Every arm at every label count in numbers."""
    paired = results.control is not None
    rows, rules = [], []
    for number, item in enumerate(comparisons):
        if number and item.labelled != comparisons[number - 1].labelled:
            rules.append(number)
        mean, other = item.mean, item.difference
        row: list[object] = [str(item.labelled), item.arm]
        row.append(_with_interval(mean.mean, mean.low, mean.high))
        if paired:
            p = other.p if other else None
            row.append(
                _with_interval(other.mean, other.low, other.high, sign=True) if other else ""
            )
            row.append("" if p is None else p_value(p).removeprefix("p ").removeprefix("= "))
        seconds = f"{item.seconds:.0f}" if item.seconds is not None else "–"
        rows.append([*row, item.replicates, seconds, item.status])
    head = ["labelled", "arm", "Dice", *(["difference to scratch", "p"] if paired else [])]
    caption = "Mean Dice on the test subjects in points (Dice × 100), with 95 % intervals"
    caption += "; differences are paired. " if paired else ". "
    pretrained = any(arm.pretrain for arm in results.study.arms.values())
    caption += "Seconds: mean fine-tuning" + (" and one whole pretraining." if pretrained else ".")
    kinds = "ttn" + ("nn" if paired else "") + "nnt"
    return table(caption, [*head, "replicates", "seconds", "status"], rows, kinds, rules=rules)


def _with_interval(
    mean: float | None, low: float | None, high: float | None, *, sign: bool = False
) -> object:
    if mean is None:
        return "–"
    if low is None or high is None:
        return points(mean, sign=sign)
    digits = decimals((low, high)) if sign else 1
    limits = f"{points(low, digits=digits)} to {points(high, digits=digits)}"
    shown = points(mean, sign=sign, digits=digits)
    return tag("span", f"{shown} ", tag("small", f"({limits})"), class_="estimate")


def curves(pictures: Sequence[Picture | None], dots: dict[str, list[Picture]]) -> Html:
    """Learning curves, differences, and test subjects one by one."""
    parts = [figure(item.svg, item.caption) for item in pictures if item]
    for arm, panel in dots.items():
        if panel:
            shown = [figure(item.svg, item.caption, kind="panel") for item in panel]
            caption = (
                f"Every test subject after training from scratch and with {arm}: a dot is the mean "
                "over the replicates that finished in both; above the diagonal the arm is better."
            )
            parts.append(figure(panels(shown), caption, kind="group"))
    return section("Curves", *parts, anchor="curves")


def pictures(found: Overlays | None) -> Html:
    """Slices of the worst and best cases."""
    if found is None:
        return Html("")
    groups = [
        tag(
            "div",
            paragraph(title, class_="case"),
            panels([figure(p.svg, p.caption, kind="panel") for p in group], "pair"),
            class_="case-group",
        )
        for title, group in found.groups
    ]
    shown = figure(panels(groups, "cases"), found.caption, kind="group") if groups else ""
    return section("Worst and best cases", shown, bullets(found.skipped), anchor="cases")


def classes(results: Results) -> Html:
    """Mean Dice of each class, and the classes that were lost."""
    names = list(results.study.dataset.classes)
    rows: list[list[object]] = []
    rules: list[int] = []
    for labelled in results.study.labelled:
        rules.append(len(rows))
        for arm in results.study.arms:
            runs = [run for run in results.runs_of(arm, labelled) if run.status == OK]
            cells = [
                _mean([v for run in runs for v in class_values(run, n)], 100, 1) for n in names
            ]
            rows.append([str(labelled), arm, *cells])
    lost = [
        f"{name} is lost in {'replicate' if len(replicates) == 1 else 'replicates'} "
        f"{prose.ranges(replicates)} of {arm} with {labelled} labelled (mean Dice 0)"
        for arm, labelled, name, replicates in collapsed(results)
    ]
    caption = (
        "Mean Dice of each class in points, over replicates and the test cases where it is defined."
    )
    kinds = "tt" + "n" * len(names)
    shown = table(caption, ["labelled", "arm", *names], rows, kinds, rules=rules[1:])
    warning = paragraph(f"Class collapse: {'; '.join(lost)}.", class_="notice") if lost else ""
    return section("Classes", shown, warning, anchor="classes")


def secondary(results: Results) -> Html:
    """Distances, overlap, and Dice of the weights chosen by validation."""
    names = list(results.study.dataset.classes)
    rows: list[list[object]] = []
    rules: list[int] = []
    for labelled in results.study.labelled:
        rules.append(len(rows))
        for arm in results.study.arms:
            runs = [run for run in results.runs_of(arm, labelled) if run.status == OK]
            row: list[object] = [str(labelled), arm]
            for metric, _, scale, digits in METRICS:
                values = [v for r in runs for n in names for v in class_values(r, n, metric=metric)]
                row.append(_mean(values, scale, digits, undefined=True))
            chosen = dice_table(results, arm, labelled, weights="selected")
            row.append(_mean([float(v) for v in chosen.ravel()], 100, 1))
            rows.append(row)
    tolerance = results.study.evaluate.nsd_tolerance_mm
    caption = (
        "Means over replicates, test cases and classes. In brackets: values that are undefined "
        "(an empty reference or prediction has no distance) and left out of the mean, so that an "
        "arm that misses a class may look better than it is. NSD with a tolerance of "
        f"{tolerance:g} mm. Last column: Dice in points of the weights selected on the validation "
        "subjects."
    )
    head = ["labelled", "arm", *(title for _, title, *_ in METRICS), "Dice, selected weights"]
    shown = table(caption, head, rows, "ttnnnnn", rules=rules[1:])
    return section("Secondary metrics", shown, anchor="secondary")


def _mean(values: Sequence[float], scale: float, digits: int, *, undefined: bool = False) -> object:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    text = f"{scale * math.fsum(known) / len(known):.{digits}f}"
    gone = len(values) - len(known)
    return tag("span", f"{text} ", tag("small", f"[{gone}]")) if undefined and gone else text
