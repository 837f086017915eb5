"""Is anything the models learn from also what they are chosen or judged by?

Pool (pretraining and fine-tuning), validation and test must share no subject and no image. An
overlap between roles, or the same voxels in two roles, stops the run; the same voxels twice within
a role are listed; the same label map for different images of two roles is a warning, and so is a
subject of another dataset with the name of a validation or test subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from medcl.config import Split
from medcl.data.cases import Case
from medcl.data.splits import ROLES, Splits

Finding = dict[str, Any]


def audit(
    cases: Sequence[Case], splits: Splits, split: Split, *, unknown_subjects: bool = False
) -> dict[str, Any]:
    """Return the content of `audit.json`; `stopped` and `reason` say whether the run may go on."""
    role = {row.case: row.role for row in splits.rows}
    overlaps = _overlaps(splits, split)
    duplicates = _same(cases, role, "voxels", lambda case: case.voxel_sha256)
    labels = _same(
        [case for case in cases if case.label is not None],
        role,
        "labels",
        lambda case: case.label_sha256 or "",
    )
    voxels = {case.case: case.voxel_sha256 for case in cases}
    warnings = [
        found
        for found in labels
        if len(found["roles"]) > 1 and len({voxels[case] for case in found["cases"]}) > 1
    ]
    reasons = [_overlap_reason(found) for found in overlaps]
    reasons += [_duplicate_reason(found) for found in duplicates if len(found["roles"]) > 1]
    return {
        "format": 1,
        "overlaps": overlaps,
        "duplicates": duplicates,
        "warnings": warnings,
        "same_names": _same_names(cases, role),
        "unknown_subjects": unknown_subjects,
        "stopped": bool(reasons),
        "reason": "\n".join(reasons) or None,
    }


def _overlaps(splits: Splits, split: Split) -> list[Finding]:
    """Subjects with more than one role, in the table or by the names the user gives."""
    roles: dict[str, set[str]] = {}
    for row in splits.rows:
        roles.setdefault(row.subject, set()).add(row.role)
    for key, names in (("test", split.test), ("validation", split.validation)):
        for name in names if isinstance(names, list) else ():
            roles.setdefault(name, set()).add(key)
    return [
        {"subject": subject, "roles": _sorted(found), "cases": splits.cases_of([subject])}
        for subject, found in sorted(roles.items())
        if len(found) > 1
    ]


def _same(
    cases: Iterable[Case], role: dict[str, str], kind: str, digest: Callable[[Case], str]
) -> list[Finding]:
    """Groups of cases with an equal digest; an empty digest equals nothing."""
    groups: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.case):
        if digest(case):
            groups.setdefault(digest(case), []).append(case)
    return [
        {
            "kind": kind,
            "cases": [case.case for case in group],
            "subjects": sorted({case.subject for case in group}),
            "roles": _sorted({role[case.case] for case in group}),
        }
        for group in groups.values()
        if len(group) > 1
    ]


def _same_names(cases: Iterable[Case], role: dict[str, str]) -> list[Finding]:
    """Subjects of datasets that are only pretrained on, called as one that is held out."""
    held_out = {case.subject: role[case.case] for case in cases if role[case.case] != "pool"}
    pairs = {
        (case.subject, name)
        for case in cases
        if case.dataset and (name := case.subject.removeprefix(f"{case.dataset}/")) in held_out
        if name != case.subject
    }
    return [
        {"subjects": [ours, theirs], "roles": [held_out[ours], "pool"]}
        for theirs, ours in sorted(pairs)
    ]


def _sorted(roles: Iterable[str]) -> list[str]:
    return sorted(roles, key=ROLES.index)


def _overlap_reason(found: Finding) -> str:
    return (
        f"audit: subject '{found['subject']}' (cases {', '.join(found['cases'])}) is in "
        f"{' and '.join(found['roles'])}; name it for one role only"
    )


def _duplicate_reason(found: Finding) -> str:
    return (
        f"audit: cases {', '.join(found['cases'])} hold the same voxels and are in "
        f"{' and '.join(found['roles'])}; give them one subject in the source table, or name all "
        "but one of them under `exclude` of their source"
    )
