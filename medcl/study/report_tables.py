"""The tables of a report: the answer, further controls, variance and cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcl.study import prose, protocol
from medcl.study.cells import WHO, detectable, estimated, p_cell, rules_of, scaled
from medcl.study.classes import LOST, lost_classes
from medcl.study.comparison import Comparison, bound_means, difference_table
from medcl.study.cost import clock, costs
from medcl.study.matching import CLOCKS, CPU
from medcl.study.measures import MEASURES, WEIGHTS
from medcl.study.prose import NONE
from medcl.study.resampling import SEED, bootstrap, wilcoxon
from medcl.study.results import OK, Results
from medcl.study.statistics import complete
from medcl.study.tables import Cell, Column, Number, Table


def answer(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Every arm at every label count in numbers."""
    measure = MEASURES[results.study.primary.metric]
    columns = [*WHO, Column("mean", f"{measure.title} ({measure.unit})", "n", interval=True)]
    if results.control:
        columns += [
            Column("difference", f"difference to {results.control}", "n", interval=True),
            Column("p", "p", "n"),
            Column("p_holm", "p after Holm", "n"),
        ]
    columns += [
        Column("lost", "classes lost", "t"),
        Column("replicates", "replicates", "n"),
        Column("seconds", "seconds", "n"),
    ]
    rows: list[list[Cell]] = []
    for item in comparisons:
        row: list[Cell] = [str(item.labelled), item.arm, estimated(item.mean, measure)]
        if results.control:
            p = p_cell(item.difference.p) if item.difference else ""
            row += [estimated(item.difference, measure, sign=True), p, _holm(item)]
        lost = lost_words(results, item.arm, item.labelled)
        rows.append([*row, lost, _replicates(item, results), Number(item.seconds, 0)])
    bounds = bound_means(results)
    for arm, (found, labelled) in bounds.items():
        row = [f"all ({labelled})", arm, estimated(found, measure)]
        row += [""] * (3 if results.control else 0)
        rows.append([*row, NONE, found.replicates, Number(None)])
    caption = (
        f"Mean {measure.title} ({'points: times 100' if measure.points else measure.unit}) on the "
        f"test subjects, of {WEIGHTS[results.study.primary.weights]}, with 95 % intervals"
    )
    if results.control:
        caption += (
            f"; differences to {results.control} are paired. P after Holm: corrected over the "
            "primary comparisons; without it a comparison is secondary, or has no interval"
        )
    caption += (
        f". Classes lost: in how many replicates a class has a {LOST}. Seconds: mean fine-tuning"
    )
    caption += " and one whole pretraining" if protocol.pretrainings(results.study) else ""
    caption += f", {CLOCKS[clock(results)]}."
    caption += " All: the bound, trained on every labelled candidate." if bounds else ""
    return Table("answer", caption, tuple(columns), rows, rules_of(rows))


def _replicates(item: Comparison, results: Results) -> Number:
    """`5`, or `4 of 5` where some are missing."""
    planned, found = results.study.replicates, item.replicates
    return Number(found, text=str(found) if found == planned else f"{found} of {planned}")


def lost_words(results: Results, arm: str, labelled: int) -> str:
    """`spleen 2/5`: classes that are lost and in how many finished replicates."""
    done = sum(run.status == OK for run in results.runs_of(arm, labelled))
    found = lost_classes(results, arm, labelled)
    return ", ".join(f"{name} {len(lost)}/{done}" for name, lost in found.items()) or NONE


def further(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Pretrained arms beside further controls."""
    measure = MEASURES[results.study.primary.metric]
    rows = [
        [
            str(item.labelled),
            item.arm,
            item.control or "",
            estimated(item.difference, measure, sign=True),
            p_cell(item.difference.p if item.difference else None),
            detectable(item.difference.detectable if item.difference else None, measure),
            item.replicates,
        ]
        for item in comparisons
    ]
    caption = (
        f"Paired difference of mean {measure.title} ({measure.unit}) of each pretrained arm to "
        "further controls, with 95 % intervals. Secondary, not corrected."
    )
    columns = (
        *WHO,
        Column("control", "control", "t"),
        Column("difference", "difference", "n", interval=True),
        Column("p", "p", "n"),
        Column("detectable", "could have seen", "n"),
        Column("replicates", "replicates", "n"),
    )
    return Table("controls", caption, columns, rows, rules_of(rows))


def variance(results: Results, comparisons: Sequence[Comparison]) -> Table:
    """Where the differences vary, what the study could have seen, and two secondary looks."""
    chosen = results.study.primary
    measure = MEASURES[chosen.metric]
    rows: list[list[Cell]] = []
    for item in comparisons:
        found = item.difference
        if found is None or found.spread is None or item.control is None:
            continue
        table = complete(
            difference_table(results, item.arm, item.labelled, item.control, metric=chosen.metric),
            results.test_subjects,
        )
        low, high = bootstrap(table, np.random.default_rng(SEED))
        spread = (found.spread.replicate, found.spread.case, found.spread.residual)
        rows.append(
            [
                str(item.labelled),
                item.arm,
                *(scaled(value, measure) for value in spread),
                detectable(found.detectable, measure),
                Number(found.mean, measure.digits, measure.scale, True, (float(low), float(high))),
                p_cell(wilcoxon(table)),
            ]
        )
    caption = (
        f"Standard deviations of the difference of mean {measure.title} to {results.control} "
        f"({measure.unit}) between replicates, between test subjects and of the rest; the true "
        "difference this study would find with a power of 80 % (for a primary comparison at the "
        "level Holm's correction asks of the first); and two secondary looks: the crossed "
        "bootstrap's 95 % interval, which is too narrow with few replicates, and Wilcoxon's test "
        "over test subjects, which holds for these trained models only, not for the arms."
    )
    columns = (
        *WHO,
        Column("sd_replicate", "SD replicate", "n"),
        Column("sd_case", "SD subject", "n"),
        Column("sd_residual", "SD rest", "n"),
        Column("detectable", "could have seen", "n"),
        Column("bootstrap", "bootstrap", "n", interval=True),
        Column("p_these_models", "p, these models only", "n"),
    )
    return Table("variance", caption, columns, rows, rules_of(rows))


def cost(results: Results) -> Table:
    """Time, memory and device of each stage and arm; memory of a GPU where one was used."""
    found = costs(results)
    on_gpu = any(item.device_mb is not None for item in found)
    rows: list[list[Cell]] = [
        [
            item.stage,
            item.arm or "all",
            item.jobs,
            Number(item.seconds, text=prose.duration(item.seconds)),
            Number(item.seconds / item.jobs, text=prose.duration(item.seconds / item.jobs)),
            Number(item.memory_mb, 0),
            *([Number(item.device_mb, 0)] if on_gpu else []),
            item.device or NONE,
        ]
        for item in found
    ]
    caption = (
        "Time of each stage and arm, the largest memory of one of its jobs, and the device a "
        "training ran on; memory on a GPU is counted apart. A dash: not measured, as the memory of "
        "jobs of less than a second."
    )
    cores = dict.fromkeys(item.stage for item in found if item.clock == CPU)
    if cores:
        caption += f" Times of {prose.listed(cores)} are {CLOCKS[CPU]}, the others by the clock."
    columns = (
        Column("stage", "stage", "t"),
        Column("arm", "arm", "t"),
        Column("jobs", "jobs", "n"),
        Column("seconds", "time of all", "n"),
        Column("seconds_of_one", "of one", "n"),
        Column("memory_mb", "memory (MB)", "n"),
        *([Column("gpu_memory_mb", "GPU memory (MB)", "n")] if on_gpu else []),
        Column("device", "device", "t"),
    )
    return Table("cost", caption, columns, rows)


def _holm(item: Comparison) -> Cell:
    if item.difference is None:
        return ""
    return p_cell(item.p_holm)
