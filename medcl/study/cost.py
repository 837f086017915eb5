"""What a study cost: seconds and memory of each stage and arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medcl.config import origin_of
from medcl.study.results import Results

BEFORE = ("phantom", "ingest", "split", "plan", "preprocess")


@dataclass(frozen=True)
class Cost:
    """Seconds of all `jobs` of a stage (of one arm) and the largest memory of one of them.

    `memory_mb` is resident memory, `device_mb` that of a GPU; `device` is where a training ran.
    """

    stage: str
    arm: str | None
    jobs: int
    seconds: float
    memory_mb: float | None
    device: str | None = None
    device_mb: float | None = None


def costs(results: Results) -> list[Cost]:
    """One row per stage and arm, in the order of the study.

    Trainings report their own seconds; the other stages are timed by Snakemake's benchmark files,
    predictions without one by the seconds of their cases.
    """
    return [
        *(_benchmarked(results, stage, None) for stage in BEFORE if _jobs(results, stage, None)),
        *(cost for arm in results.study.arms for cost in _of_arm(results, arm)),
    ]


def seconds_of(results: Results, arm: str, labelled: int) -> float | None:
    """Seconds that one model costs: its fine-tuning and the whole pretraining of its encoder.

    Means over replicates and seeds; the pretraining counts in full at every label count, for each
    arm that starts from it. What given weights cost is not known.
    """
    tuning = [_seconds(run.summary) for run in results.runs_of(arm, labelled)]
    origin = origin_of(results.study, arm)
    pretraining = [_seconds(item.summary) for item in results.pretrainings if item.arm == origin]
    parts = [_mean(tuning), _mean(pretraining) if origin else 0.0]
    if (selftrain := results.study.arms[arm].selftrain) is not None:
        teachers = results.runs_of(selftrain.of, labelled)
        parts.append(_mean(_seconds(run.summary) for run in teachers))
    known = [part for part in parts if part is not None]
    return math.fsum(known) if len(known) == len(parts) else None


def _of_arm(results: Results, arm: str) -> Iterator[Cost]:
    pretrainings = [item.summary for item in results.pretrainings if item.arm == arm]
    runs = [run for run in results.runs if run.arm == arm]
    if any(pretrainings):
        yield _trained(results, "pretrain", arm, pretrainings)
    if any(run.summary for run in runs):
        yield _trained(results, "finetune", arm, [run.summary for run in runs])
    if _jobs(results, "predict", arm):
        yield _benchmarked(results, "predict", arm)
    elif times := [run.prediction_seconds for run in runs if run.prediction_seconds is not None]:
        yield Cost("predict", arm, len(times), math.fsum(times), None)
    if _jobs(results, "evaluate", arm):
        yield _benchmarked(results, "evaluate", arm)


def _trained(results: Results, stage: str, arm: str, summaries: Iterable[dict]) -> Cost:
    """A training's own seconds; on a GPU its own memory is the GPU's, so Snakemake's is added."""
    made = [summary for summary in summaries if summary]
    seconds = [_seconds(summary) or 0.0 for summary in made]
    own: dict[bool, list[float | None]] = {True: [], False: []}
    for summary in made:
        own[summary.get("device") == "cuda"].append(summary.get("peak_memory_mb"))
    resident = [*own[False], *(memory for _, memory in _jobs(results, stage, arm))]
    devices = sorted({str(summary["device"]) for summary in made if summary.get("device")})
    return Cost(
        stage,
        arm,
        len(made),
        math.fsum(seconds),
        _largest(resident),
        ", ".join(devices) or None,
        _largest(own[True]),
    )


def _jobs(results: Results, stage: str, arm: str | None) -> list[tuple[float, float]]:
    """Benchmarks `<stage>`, `pretrain.<arm>.s<seed>` or `<stage>.<arm>.n<labels>.r<replicate>`.

    Names of arms may hold dots.
    """
    start = stage if arm is None else f"{stage}.{arm}"
    end = ".s" if stage == "pretrain" else ".n"
    found = []
    for name, values in results.benchmarks.items():
        owner = name.rsplit(end, 1)[0] if arm is not None else name
        if owner == start:
            found.append(values)
    return found


def _benchmarked(results: Results, stage: str, arm: str | None) -> Cost:
    jobs = _jobs(results, stage, arm)
    seconds = [s for s, _ in jobs if not math.isnan(s)]
    memory = [m for _, m in jobs]
    return Cost(stage, arm, len(jobs), math.fsum(seconds), _largest(memory))


def _seconds(summary: dict) -> float | None:
    return summary.get("seconds") if summary.get("status") == "ok" else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return max(known) if known else None
