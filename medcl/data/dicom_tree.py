"""A tree of DICOM files becomes named cases, whatever lies where.

A case is named after the folder of its files. Where a folder holds several series their number
follows, where a series holds several volumes what tells them apart: `p7_s6_b800`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcl.config import Dicom
from medcl.data.checks import Finding
from medcl.data.dicom import ENDINGS, Series, as_series, judge_rest
from medcl.data.dicom_header import Header
from medcl.data.series import Files, Found, group, slices_of, volumes_of
from medcl.data.volume import VolumeError


@dataclass(frozen=True, eq=False)
class Input:
    """One volume of a tree under its name, or what is wrong with it. `uid`: of its series."""

    name: str
    folder: Path
    uid: str = ""
    series: Series | None = None
    problem: VolumeError | None = None


def read_tree(root: Path, folders: Mapping[Path, Files], options: Dicom) -> list[Input]:
    """Every volume among the files of `folders`, all below `root`."""
    images: list[Header] = []
    rest: dict[Path, tuple[list[Finding], list[VolumeError]]] = {}
    for folder, files in folders.items():
        images += files.images
        if holds_dicom(files):
            rest[folder] = judge_rest(folder, files)
    series = group(images)
    of_folder: dict[Path, list[int]] = defaultdict(list)
    for number, headers in enumerate(series):
        for folder in {Path(os.path.dirname(header.path)) for header in headers}:
            of_folder[folder].append(number)
    notes: dict[int, list[Finding]] = defaultdict(list)
    stopped: dict[int, VolumeError] = {}
    inputs = []
    for folder, (told, errors) in rest.items():
        here = of_folder.get(folder, [])
        if len(here) == 1:  # a damaged file may have been one of its slices
            notes[here[0]] += told
            if errors:
                stopped.setdefault(here[0], errors[0])
            continue
        inputs += _beside(root, folder, told, errors, alone=not here)
        for number in here if errors else ():
            notes[number].append(
                Finding(
                    "damaged_beside",
                    "warning",
                    f"{folder}: {len(errors)} files cannot be read and may belong to this series",
                    "copy them again from their origin, or move them out of the folder",
                )
            )
    for number, whole in _parts(series):
        more = f"{_where(series[number])}: {_where(whole)} holds these slices and more"
        remedy = "add the case to `exclude`, or use the other"
        notes[number].append(Finding("part_of_series", "warning", more, remedy))
    found: list[tuple[int, Found]] = []
    for number, headers in enumerate(series):
        if number in stopped:
            found.append((number, Found(tuple(headers), "", stopped[number])))
        else:
            found += [(number, item) for item in _volumes(headers, options)]
    for name, (number, item) in zip(_names(root, found), found, strict=True):
        uid = item.headers[0].text("SeriesInstanceUID")
        if isinstance(item.result, VolumeError):
            inputs.append(Input(name, item.folder, uid, problem=item.result))
        else:
            made = as_series(item.folder, item, notes[number], options)
            inputs.append(Input(name, item.folder, uid, made))
    return sorted(inputs, key=lambda item: item.name)


def _volumes(headers: list[Header], options: Dicom) -> list[Found]:
    where = _where(headers)
    try:
        return volumes_of(where, headers, options)
    except Exception as error:  # an oversight of ours stops no other series
        told = f"{where}: {type(error).__name__}: {error}"
        problem = VolumeError("failed", told, "report this, and exclude the case")
        return [Found(tuple(headers), "", problem)]


def _parts(series: list[list[Header]]) -> Iterator[tuple[int, list[Header]]]:
    """(number, the other) where all slices of a series are some of those of another folder."""
    holders: dict[tuple, list[int]] = defaultdict(list)
    slices = [slices_of(headers) for headers in series]
    for number, own in enumerate(slices):
        for one in own:
            holders[one].append(number)
    for number, own in enumerate(slices):
        for other in holders[next(iter(own))]:
            if own < slices[other]:
                yield number, series[other]
                break


def holds_dicom(files: Files) -> bool:
    """Whether any of the files is DICOM, or looks as if it had been."""
    return bool(files.images or files.others) or any(
        error.marked or path.suffix.lower() in ENDINGS for path, error in files.damaged.items()
    )


def _beside(
    root: Path,
    folder: Path,
    notes: list[Finding],
    errors: list[VolumeError],
    *,
    alone: bool,
) -> list[Input]:
    """Files of no series: other objects in one input, damaged files in another."""
    inputs = []
    name = _case_name(root, folder)
    if errors:
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        first = VolumeError(errors[0].code, errors[0].message + more, errors[0].remedy)
        inputs.append(Input(name if alone else f"{name}_unreadable", folder, problem=first))
    if notes:
        more = f", and {len(notes) - 3} more" if len(notes) > 3 else ""
        told = "; ".join(note.message for note in notes[:3]) + more
        other = VolumeError("not_an_image", told, "nothing to do")
        plain = alone and not errors
        inputs.append(Input(name if plain else f"{name}_other", folder, problem=other))
    return inputs


def _where(headers: list[Header]) -> str:
    """How a series is called in messages."""
    folder = Found(tuple(headers), "", VolumeError("", "", "")).folder
    number = headers[0].text("SeriesNumber")
    return f"{folder} (series {number})" if number else str(folder)


def _names(root: Path, found: list[tuple[int, Found]]) -> list[str]:
    """The case name of each volume; volumes of one name get a mark of their own."""
    series_in = defaultdict(set)
    for number, item in found:
        series_in[item.folder].add(number)
    names = []
    for _, item in found:
        several = len(series_in[item.folder]) > 1
        series = f"s{item.headers[0].text('SeriesNumber')}" if several else ""
        names.append("_".join(filter(None, (_case_name(root, item.folder), series, item.name))))
    times = Counter(names)
    for index, (name, (_, item)) in enumerate(zip(names, found, strict=True)):
        if times[name] > 1:
            header = item.headers[0]
            unique = f"{header.text('SeriesInstanceUID')} {item.name} {header.path}"
            names[index] = f"{name}_{hashlib.sha256(unique.encode()).hexdigest()[:6]}"
    return names


def _case_name(root: Path, folder: Path) -> str:
    relative = os.path.relpath(folder, root)
    text = folder.resolve().name if relative == "." else relative
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip("_.-") or "case"
