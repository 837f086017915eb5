"""Counts, lists, plans and findings in words: functions of plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from medcl.study.results import OK, Run

NONE = "–"
UNKNOWN_SUBJECTS = "subject ids unknown: cases are treated as subjects"


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
    """`0.4 s`, `42 s`, `12 min`, `3.4 h`; a dash where it is not known."""
    if seconds is None:
        return NONE
    if seconds < 9.5:
        return f"{round(seconds, 1):g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def triple(values: Sequence[Any]) -> str:
    """`1 × 1 × 3`"""
    return " × ".join(f"{value:g}" for value in values)


def plan_words(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Choices of the plan: what, value, and whether the user gave it."""
    given = set(plan.get("given", ()))
    rows = []
    choices: list[tuple[str, str, Callable[[Any], str]]] = [
        ("orientation", "orientation", str),
        ("dims", "dimensions of the network", str),
        ("spacing", "spacing", lambda v: f"{triple(v)} mm"),
        ("crop", "training crop", lambda v: f"{triple(v)} voxels"),
        ("strides", "downsampling per level", lambda v: ", ".join(triple(level) for level in v)),
        ("intensity", "intensities", intensity_words),
        ("channels", "channels", str),
        ("threads", "threads of a training", str),
    ]
    for key, name, words in choices:
        if key == "intensity" and plan.get("inputs"):
            for channel in plan["inputs"]:
                own = {"intensity", f"channel_intensity.{channel['name']}"}
                mark = "given" if own & given else "derived"
                rule = intensity_words(channel["intensity"])
                rows.append((f"intensities of {channel['name']}", rule, mark))
        elif plan.get(key) is not None:
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


def audit_words(audit: Mapping[str, Any], show: Any, show_subject: Any) -> list[str]:
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
        mirrored = ", mirrored from left to right" if item.get("mirrored") else ""
        found.append(
            f"Nearly the same image stands under different subjects ({roles}): {cases}, "
            f"correlation {item['similarity']:.2f}{mirrored}."
        )
    if audit.get("near_duplicates") == []:
        found.append(
            "No two subjects have nearly the same image (re-saved, scaled, cut or mirrored)."
        )
    for item in audit.get("warnings", []):
        cases = listed(show(case) for case in item["cases"])
        found.append(f"One label map belongs to different images of different roles: {cases}.")
    for item in audit.get("same_names", []):
        ours, theirs = (show_subject(name) for name in item["subjects"])
        found.append(
            f"The {item['roles'][0]} subject {ours} and {theirs}, who is pretrained on in another "
            "dataset, have one name: they must be two people."
        )
    if audit.get("unknown_subjects"):
        found.append("Subjects are unknown: two cases of one person may have different roles.")
    return found


def waived_words(audit: Mapping[str, Any], show: Any) -> list[str]:
    """Findings that would have stopped the study and that its configuration waives."""
    found = []
    for item in audit.get("waived", []):
        what = item.get("message") or f"{str(item.get('kind', 'finding')).replace('_', ' ')}"
        cases = listed(show(case) for case in item.get("cases", []))
        found.append(
            f"Waived finding of the leakage audit: {what}{f' ({cases})' if cases else ''}."
        )
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
    differing = dict.fromkeys(said for item in transfers for said in item.get("differing", ()))
    return "; ".join([text, *left, *differing])


def lost_words(gone: Sequence[tuple[str, int, str, list[int]]]) -> str:
    """`spleen (scratch and mae with 1 labelled; dense with 1 and 2)`, class by class."""
    counts: dict[str, dict[str, list[int]]] = {}
    for arm, labelled, name, _ in gone:
        counts.setdefault(name, {}).setdefault(arm, []).append(labelled)
    said = []
    for name, by_arm in counts.items():
        alike: dict[tuple[int, ...], list[str]] = {}
        for arm, found in by_arm.items():
            alike.setdefault(tuple(sorted(found)), []).append(arm)
        parts = [f"{listed(arms)} with {listed(n)}" for n, arms in alike.items()]
        parts[0] += " labelled"
        said.append(f"{name} ({'; '.join(parts)})")
    return listed(said)
