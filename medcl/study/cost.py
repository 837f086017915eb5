"""What a study cost: seconds and memory of each stage and arm."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medcl.config import origin_of
from medcl.study.matching import CPU, WALL, clock_of
from medcl.study.results import OK, Results, Run

BEFORE = ("phantom", "ingest", "split", "plan", "preprocess")
BOUND, ENSEMBLE = ", bound", ", ensemble"  # behind the stages of these
# What stands behind the arm in the name of a stage's benchmark file.
ENDS = {"pretrain": r"\.s\d+", "tune": "", BOUND: r"\.r\d+", ENSEMBLE: r"\.n\d+"}
SHORTEST_S = 1.0  # Snakemake looks too seldom to know the memory of a shorter job


@dataclass(frozen=True)
class Cost:
    """Seconds of all `jobs` of a stage (of one arm) and the largest memory of one of them.

    `memory_mb` is resident memory, `device_mb` that of a GPU; `device` is where a training ran.
    `clock` says which seconds they are.
    """

    stage: str
    arm: str | None
    jobs: int
    seconds: float
    memory_mb: float | None
    device: str | None = None
    device_mb: float | None = None
    clock: str = WALL


def clock(results: Results) -> str:
    """Which seconds of trainings compare: those of the cores where every finished run has them."""
    made = [item.summary for item in results.pretrainings]
    made += [run.summary for run in results.runs]
    return clock_of(*filter(_finished, made))


def matched_runs(results: Results, arm: str) -> dict[int, list[dict[str, Any]]]:
    """Label count -> how the steps of equal cost were found for each run of an arm."""
    found = {n: results.runs_of(arm, n) for n in results.study.counts(arm)}
    return {
        n: matched
        for n, runs in found.items()
        if (matched := [run.summary["matched"] for run in runs if run.summary.get("matched")])
    }


def costs(results: Results) -> list[Cost]:
    """One row per stage and arm, in the order of the study, the full-label bound last.

    Trainings report their own seconds, of the cores where `clock` says so and they know them; the
    other stages are timed by Snakemake's benchmark files, predictions without one by the seconds of
    their cases.
    """
    before = (_benchmarked(results, stage, None) for stage in BEFORE)
    arms = list(results.study.arms)
    return [
        *(cost for cost in before if cost is not None),
        *(cost for arm in arms for cost in _of_arm(results, arm)),
        *(cost for arm in arms for cost in _of_runs(results, arm, results.bound, BOUND)),
    ]


def seconds_of(results: Results, arm: str, labelled: int) -> float | None:
    """Seconds that one model costs: its fine-tuning and the whole pretraining of its encoder.

    They are those that `clock` names.
    Means over replicates and seeds; the pretraining counts in full at every label count, for each
    arm that starts from it. What given weights cost is not known.
    """
    which = clock(results)
    tuning = [_seconds(run.summary, which) for run in results.runs_of(arm, labelled)]
    origin = origin_of(results.study, arm)
    pretraining = [
        _seconds(item.summary, which) for item in results.pretrainings if item.arm == origin
    ]
    parts = [_mean(tuning), _mean(pretraining) if origin else 0.0]
    if (selftrain := results.study.arms[arm].selftrain) is not None:
        teachers = results.runs_of(selftrain.of, labelled)
        parts.append(_mean(_seconds(run.summary, which) for run in teachers))
    known = [part for part in parts if part is not None]
    return math.fsum(known) if len(known) == len(parts) else None


def jobs_of(
    benchmarks: Mapping[str, tuple[float, float]], stage: str, arm: str | None
) -> list[tuple[float, float]]:
    """Seconds and megabytes (nan if not known) of the jobs of a stage, of one arm.

    Files are called `<stage>`, `tune.<arm>`, `pretrain.<arm>.s<seed>`,
    `<stage>.<arm>.n<labels>.r<replicate>`, of the bound `<stage>_bound.<arm>.r<replicate>` and of
    ensembles `<stage>_ensemble.<arm>.n<labels>`. Names of arms may hold dots.
    """
    name = re.escape(stage)
    if arm is not None:
        of, comma, kind = stage.partition(", ")
        end = ENDS.get(comma + kind or stage, r"\.n\d+\.r\d+")
        name = re.escape(f"{of}{'_' if kind else ''}{kind}.{arm}") + end
    found = [values for file, values in benchmarks.items() if re.fullmatch(name, file)]
    return [(s, math.nan if s < SHORTEST_S else memory) for s, memory in found]


def _of_arm(results: Results, arm: str) -> Iterator[Cost]:
    pretrainings = [item.summary for item in results.pretrainings if item.arm == arm]
    if any(pretrainings):
        yield _trained(results, "pretrain", arm, pretrainings)
    if arm in results.tuned:
        yield _trained(results, "tune", arm, [_tuning(results.tuned[arm])])
    yield from _of_runs(results, arm, results.runs)
    for stage in ("predict", "evaluate"):
        if (together := _benchmarked(results, f"{stage}{ENSEMBLE}", arm)) is not None:
            yield together


def _of_runs(results: Results, arm: str, runs: Iterable[Run], kind: str = "") -> Iterator[Cost]:
    own = [run for run in runs if run.arm == arm]
    if any(run.summary for run in own):
        yield _trained(results, f"finetune{kind}", arm, [run.summary for run in own])
    times = [run.prediction_seconds for run in own if run.prediction_seconds is not None]
    if (predicted := _benchmarked(results, f"predict{kind}", arm)) is not None:
        yield predicted
    elif times:
        yield Cost(f"predict{kind}", arm, len(times), math.fsum(times), None)
    if (evaluated := _benchmarked(results, f"evaluate{kind}", arm)) is not None:
        yield evaluated


def _tuning(tuned: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of an arm's trial runs, which are one job: seconds of those that finished."""
    done = [trial for trial in tuned.get("tried", ()) if trial.get(WALL)]
    counted = bool(done) and all(trial.get(CPU) for trial in done)
    cores = math.fsum(trial[CPU] for trial in done) if counted else None
    return {**tuned, WALL: math.fsum(trial[WALL] for trial in done), CPU: cores}


def _trained(results: Results, stage: str, arm: str, summaries: Iterable[dict[str, Any]]) -> Cost:
    """A training's own seconds; on a GPU its own memory is the GPU's, so Snakemake's is added."""
    made = [summary for summary in summaries if summary]
    own_clock = clock_of(*filter(_finished, made))
    which = own_clock if clock(results) == CPU else WALL
    seconds = [_seconds(summary, which) or 0.0 for summary in made]
    own: dict[bool, list[float | None]] = {True: [], False: []}
    for summary in made:
        own[summary.get("device") == "cuda"].append(summary.get("peak_memory_mb"))
    resident = [*own[False], *(memory for _, memory in jobs_of(results.benchmarks, stage, arm))]
    devices = sorted({str(summary["device"]) for summary in made if summary.get("device")})
    return Cost(
        stage,
        arm,
        len(made),
        math.fsum(seconds),
        _largest(resident),
        ", ".join(devices) or None,
        _largest(own[True]),
        which,
    )


def _benchmarked(results: Results, stage: str, arm: str | None) -> Cost | None:
    """None without a benchmark file."""
    jobs = jobs_of(results.benchmarks, stage, arm)
    seconds = [s for s, _ in jobs if not math.isnan(s)]
    memory = [m for _, m in jobs]
    return Cost(stage, arm, len(jobs), math.fsum(seconds), _largest(memory)) if jobs else None


def _seconds(summary: Mapping[str, Any], which: str) -> float | None:
    return summary.get(which) if _finished(summary) else None


def _finished(summary: Mapping[str, Any]) -> bool:
    return summary.get("status") == OK


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return max(known) if known else None
