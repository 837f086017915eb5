"""The first half of a report: the answer, figures, classes and secondary metrics."""

from __future__ import annotations

from collections.abc import Sequence

from medcl.study import ensembles, methods, metric_tables, prose, protocol, report_tables
from medcl.study.caveats import caveats, unlike_controls
from medcl.study.classes import LOST, collapsed, false_find_words
from medcl.study.comparison import Comparison, bound_means
from medcl.study.headline import headline, kind_of, reached, spent_instead
from medcl.study.markup import (
    Html,
    bullets,
    figure,
    panels,
    paragraph,
    section,
    subsection,
    tag,
    ticked,
)
from medcl.study.measures import MEASURES
from medcl.study.names import Names
from medcl.study.page import header
from medcl.study.report_figures import Picture
from medcl.study.report_overlays import Overlays
from medcl.study.results import Results
from medcl.study.sentences import SCRATCH, mean_sentence, sentence

CLAIMS = ("gain", "loss")
MARKS = {"gain": "▲", "loss": "▼", "unclear": "○", "no interval": "–"}


def head(results: Results, names: Names) -> Html:
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
    waived = prose.waived_words(results.audit, names.case)
    return header(
        study.study,
        study.report.title or _title(results),
        facts=facts,
        warnings=[names.scrub(text) for text in waived],
        notice=prose.UNKNOWN_SUBJECTS if results.unknown_subjects else "",
    )


def _title(results: Results) -> str:
    return "Does pretraining help?" if results.control else results.study.study


def answer(results: Results, comparisons: Sequence[Comparison]) -> Html:
    """A sentence per label count, the table, every comparison, and what is missing."""
    warnings = [paragraph(ticked(text), class_="notice") for text in notices(results, comparisons)]
    table = report_tables.answer(results, comparisons).html()
    if not results.control:
        said = tag("ul", *(tag("li", lone_words(item)) for item in comparisons))
        first = [tag("div", said, class_="answer"), *warnings, table]
        more = bullets(map(ticked, caveats(results)))
        return section("The answer", *first, more, anchor="answer")
    order = sorted(
        (arm for arm in results.study.arms if arm != results.control),
        key=lambda arm: not any(c.primary for c in comparisons if c.arm == arm),
    )
    each = [
        tag("h4", arm) + tag("ul", *(_said(results, c) for c in comparisons if c.arm == arm))
        for arm in order
    ]
    return section(
        "The answer",
        tag("div", tag("ul", *headlines(results, comparisons)), class_="answer headline"),
        *map(paragraph, instead(results, comparisons)),
        *map(paragraph, of_bound(results, comparisons)),
        paragraph(_how_to_read(results), class_="facts"),
        *warnings,
        table,
        subsection("Each comparison", tag("div", *map(Html, each), class_="answer small")),
        paragraph(methods.primary_words(results.study, results.control), class_="facts"),
        bullets(map(ticked, caveats(results))),
        anchor="answer",
    )


def headlines(results: Results, comparisons: Sequence[Comparison]) -> list[Html]:
    """A sentence per label count that has a primary comparison."""
    said = []
    for labelled in results.study.labelled:
        items = [c for c in comparisons if c.labelled == labelled and c.primary]
        if not items:
            continue
        kinds = dict.fromkeys(kind for item in items if (kind := kind_of(item)) in CLAIMS)
        shown = "".join(MARKS[kind] for kind in kinds) or MARKS[kind_of(items[0])]
        mark = tag("span", shown, class_="mark", aria_hidden="true")
        kind = next(iter(kinds)) if len(kinds) == 1 else "mixed" if kinds else kind_of(items[0])
        words = headline(items, _against(str(results.control)))
        said.append(tag("li", mark, words, class_=kind.replace(" ", "-")))
    return said


def instead(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """A sentence on each arm that spends the cost of a pretraining from scratch."""
    said = (
        spent_instead(
            [item for item in comparisons if item.arm == name and not item.primary],
            arm.cost_of,
            _against(str(results.control)),
        )
        for name, arm in results.study.arms.items()
        if arm.cost_of
    )
    return [words for words in said if words]


def of_bound(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """How much of the bound the best primary arm or control reaches."""
    controls = {results.control, *protocol.further_controls(results.study)}
    items = [item for item in comparisons if item.primary or item.arm in controls]
    said = (
        reached(items, found.mean, arm, labelled)
        for arm, (found, labelled) in bound_means(results).items()
        if found.mean is not None
    )
    return [words for words in said if words]


def _how_to_read(results: Results) -> str:
    """Words of the answer that not every reader knows."""
    measure = MEASURES[results.study.primary.metric]
    return (
        f"{measure.title}: {measure.meaning}. A gain or a loss (▲ ▼) is claimed only where the "
        "interval excludes 0 and the corrected p is below 0.05; no measurable difference (○) does "
        "not mean that there is none."
    )


def _said(results: Results, item: Comparison) -> Html:
    """The sentence, and beside it the classes that were lost on either side."""
    kind = kind_of(item)
    mark = tag("span", MARKS[kind], class_="mark", aria_hidden="true")
    lost = [
        f"{arm}: {words}"
        for arm in (item.control or "", item.arm)
        if (words := report_tables.lost_words(results, arm, item.labelled)) != prose.NONE
    ]
    words = f"Replicates that lost a class ({LOST}): {'; '.join(lost)}."
    small = tag("small", words) if lost else ""
    return tag("li", mark, comparison_words(item), small, class_=kind.replace(" ", "-"))


def comparison_words(item: Comparison) -> str:
    """The sentence of a comparison; the control is called by its name unless it is `scratch`."""
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
        p_holm=item.p_holm,
        family=item.family,
        measure=item.measure,
        against=_against(str(item.control)),
    )


def _against(control: str) -> str:
    return SCRATCH if control == "scratch" else control


def lone_words(item: Comparison) -> str:
    """The sentence of an arm without a control."""
    return mean_sentence(
        mean=item.mean.mean,
        interval=item.mean.interval,
        arm=item.arm,
        labelled=item.labelled,
        reason=item.mean.reason,
        measure=item.measure,
    )


def notices(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know beside the sentences: unlike fine-tunings, missing runs, lost and
    falsely found classes, left-out cases."""
    found = unlike_controls(results.study)
    lost = [run for item in comparisons for run in item.missing]
    if lost:
        words = prose.missing_words(lost, results.study.replicates)
        found.append(f"Missing: {words}. The reasons stand under “Runs that did not finish”.")
    if gone := collapsed(results):
        found.append(
            f"Class collapse: {LOST} in at least one replicate for {prose.lost_words(gone)}. "
            "Differences there show whether a class was found at all."
        )
    if words := false_find_words(results):
        found.append(
            f"Found where it is not: {words}. A test case without a class enters no score of it; "
            "the table of classes counts such finds."
        )
    undefined = max((item.mean.undefined_cases for item in comparisons), default=0)
    if undefined:
        found.append(
            f"Up to {prose.plural(undefined, 'test case')} left out of an arm: no class is defined "
            "there, or a replicate has no value."
        )
    return found


def curves(
    results: Results, pictures: Sequence[Picture | None], dots: dict[str, list[Picture]]
) -> Html:
    """Learning curves, gains, costs, and test subjects one by one."""
    parts = [figure(item.svg, item.caption) for item in pictures if item]
    for arm, panel in dots.items():
        if panel:
            caption = (
                f"Every test subject with {results.control} and with {arm}: a dot is the mean "
                "over the replicates that finished in both; above the diagonal the arm has the "
                f"{'larger' if _larger_is_better(results) else 'larger, that is worse,'} value. "
                "Subjects share the models they are tested with: counts of them are no test."
            )
            parts.append(_group(panel, caption))
    return section("Curves", *parts, anchor="curves")


def _larger_is_better(results: Results) -> bool:
    return MEASURES[results.study.primary.metric].better > 0


def _group(panel: Sequence[Picture], caption: str, kind: str = "panels") -> Html:
    shown = [figure(item.svg, item.caption, kind="panel") for item in panel]
    return figure(panels(shown, kind), caption, kind="group")


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


def classes(results: Results, forests: Sequence[Picture]) -> Html:
    """Each class by itself: differences, means, and the classes that were lost."""
    gone = collapsed(results)
    caption = (
        f"Paired difference to {results.control} of each class, with its 95 % interval. Secondary, "
        "not corrected."
    )
    words = (
        f"Class collapse: {prose.lost_words(gone)}. The table counts the replicates in brackets."
    )
    warning = paragraph(words, class_="notice") if gone else ""
    return section(
        "Classes",
        _group(forests, caption, "panels forests") if forests else "",
        metric_tables.classes(results).html(),
        warning,
        anchor="classes",
    )


def secondary(results: Results, comparisons: Sequence[Comparison], further: Html) -> Html:
    """Further controls, other metrics, ensembles, and where the differences vary."""
    together = ensembles.table(results)
    paired = results.control is not None
    return section(
        "Secondary results",
        subsection("Further controls", further),
        subsection(
            "Other metrics",
            metric_tables.metrics(results).html(),
            metric_tables.metric_differences(results).html() if paired else "",
        ),
        subsection("Ensembles", together.html() if together.rows else ""),
        subsection(
            "Variance", report_tables.variance(results, comparisons).html() if paired else ""
        ),
        anchor="secondary",
    )


def further_controls(results: Results, comparisons: Sequence[Comparison]) -> Html:
    """A sentence per comparison with a further control, and their table."""
    said = [_said(results, item) for item in comparisons]
    words = tag("div", tag("ul", *said), class_="answer small") if said else Html("")
    return Html(f"{words}{report_tables.further(results, comparisons).html()}")
