"""Is anything the models learn from also what they are chosen or judged by?

Pool (pretraining and fine-tuning), validation and test must share no subject and no image, from
whatever source they come. A subject with two roles stops the run; so do the same voxels in two
roles, and images of different subjects in two roles that are nearly the same, unless the
configuration waives them by name. The same within a role is listed; the same label map for
different images of two roles is a warning, and so is a subject of another dataset with the name of
a validation or test subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int8

from medcl.config import Split
from medcl.data.cases import Case
from medcl.data.near import near_duplicates
from medcl.data.splits import ROLES, Splits

Finding = dict[str, Any]


def audit(
    cases: Sequence[Case],
    splits: Splits,
    split: Split,
    *,
    thumbnails: Mapping[str, Int8[np.ndarray, "16 16 16"]] | None = None,
    unknown_subjects: bool = False,
) -> dict[str, Any]:
    """Return the content of `audit.json`; `stopped` and `reason` say whether the run may go on.

    Without `thumbnails` near duplicates are not looked for, and stand there as null.
    """
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
    near = None if thumbnails is None else _nearly_same(cases, role, thumbnails)
    reasons = [_overlap_reason(found) for found in overlaps]
    waived: list[Finding] = []
    for kind, listed, reason in (
        ("duplicates", duplicates, _duplicate_reason),
        ("near_duplicates", near, _near_reason),
    ):
        across = [found for found in listed or () if len(found["roles"]) > 1]
        if kind in split.waive:
            waived += [_waived(found) for found in across]
        else:
            reasons += [reason(found) for found in across]
    return {
        "format": 1,
        "overlaps": overlaps,
        "duplicates": duplicates,
        "near_duplicates": near,
        "waived": waived,
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


def _nearly_same(
    cases: Sequence[Case],
    role: dict[str, str],
    thumbnails: Mapping[str, Int8[np.ndarray, "16 16 16"]],
) -> list[Finding]:
    """Pairs of cases of different subjects that are nearly, and not exactly, the same."""
    cases = sorted(cases, key=lambda case: case.case)
    pictures = np.stack([thumbnails[case.case] for case in cases])
    found = []
    for near in near_duplicates(pictures, [case.subject for case in cases]):
        pair = (cases[near.first], cases[near.second])
        if pair[0].voxel_sha256 != pair[1].voxel_sha256:
            found.append(
                {
                    "cases": [case.case for case in pair],
                    "subjects": sorted({case.subject for case in pair}),
                    "roles": _sorted({role[case.case] for case in pair}),
                    "similarity": round(near.similarity, 3),
                    "mirrored": near.mirrored,
                }
            )
    return found


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
        f"{' and '.join(found['roles'])}; give them one subject in the source table, name all "
        "but one of them under `exclude` of their source, or set `split.waive: [duplicates]`"
    )


def _waived(found: Finding) -> Finding:
    """A finding for the head of the report; one of the same voxels has no `similarity`."""
    near = "similarity" in found
    what = f"nearly the same image ({_likeness(found)}) stands" if near else "the same voxels stand"
    message = (
        f"{what} in {' and '.join(found['roles'])} and {'was' if near else 'were'} let pass by "
        "split.waive in the configuration: test scores may be too good"
    )
    kind = "near_duplicate" if near else "duplicate"
    return {"kind": kind, "cases": found["cases"], "message": message}


def _likeness(found: Finding) -> str:
    mirrored = ", mirrored from left to right" if found["mirrored"] else ""
    return f"correlation {found['similarity']}{mirrored}"


def _near_reason(found: Finding) -> str:
    return (
        f"audit: cases {', '.join(found['cases'])} of subjects {', '.join(found['subjects'])} are "
        f"nearly the same image ({_likeness(found)}) and are in "
        f"{' and '.join(found['roles'])}; look at both, and give them one subject, name one under "
        "`exclude` of its source, or set `split.waive: [near_duplicates]`"
    )
