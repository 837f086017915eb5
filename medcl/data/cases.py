"""The table of cases every later stage reads: cases.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from medcl.errors import MedclError
from medcl.files import write_text

CHANGE = "run `medcl ingest` again"


@dataclass(frozen=True)
class Case:
    """One accepted case. Paths are as seen from the working directory.

    shape in voxels, spacing in mm and orientation are in file order. `voxel_sha256` is the hash of
    the decoded values, so that the same voxels stored twice are found; `extra` holds the columns
    of the user's own table, such as a cohort.

    `image` is the file whose grid the case has. `channel_images` lists the files of the channels in
    order, `a.nii.gz[1]` for the second volume of a file; it is empty where `image` is all of them.
    `image_sha256` is then the hash of those of all files. `dataset` is the name of the one the
    case belongs to.
    """

    case: str
    subject: str
    visit: str
    image: str
    label: str | None
    modality: str
    channels: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str
    image_sha256: str
    voxel_sha256: str
    label_sha256: str | None
    source: str
    dataset: str = ""
    channel_names: tuple[str, ...] = ()
    channel_images: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)


SEPARATOR = "|"  # of the names and of the files of channels
LISTS = ("channel_names", "channel_images")
COLUMNS = tuple(item.name for item in fields(Case) if item.name != "extra")


def write_cases(path: str | Path, cases: Iterable[Case]) -> None:
    """Write the cases in the order given; extra columns follow, sorted by name."""
    cases = list(cases)
    extra = sorted({name for case in cases for name in case.extra})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *extra])
    for case in cases:
        values = [
            _joined(getattr(case, name), case.case)
            if name in LISTS
            else _to_text(getattr(case, name))
            for name in COLUMNS
        ]
        writer.writerow([*values, *(case.extra.get(name, "") for name in extra)])
    write_text(path, text.getvalue())


def read_cases(path: str | Path) -> list[Case]:
    """Read what `write_cases` wrote; raises MedclError naming the file and line of a problem."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise MedclError(f"{path}: column {', '.join(missing)} is missing; {CHANGE}")
            cases = [_case(path, reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise MedclError(f"{path}: no such file; run `medcl ingest` first") from None
    names = [case.case for case in cases]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise MedclError(f"{path}: case {', '.join(twice)} stands there twice; {CHANGE}")
    return cases


def _joined(values: tuple[str, ...], case: str) -> str:
    if wrong := [value for value in values if SEPARATOR in value]:
        raise MedclError(f"{case}: '{wrong[0]}' holds {SEPARATOR}, which parts channels; rename it")
    return SEPARATOR.join(values)


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(SEPARATOR)) if text else ()


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "" if value is None else str(value)


def _case(path: str | Path, line: int, row: dict[str, str]) -> Case:
    if None in row or None in row.values():
        raise MedclError(f"{path}:{line}: not as many values as columns; {CHANGE}")
    try:
        x, y, z = map(int, row["shape"].split("x"))
        a, b, c = map(float, row["spacing"].split("x"))
        channels = int(row["channels"])
    except ValueError as error:
        raise MedclError(f"{path}:{line}: shape, spacing or channels: {error}; {CHANGE}") from None
    return Case(
        case=row["case"],
        subject=row["subject"],
        visit=row["visit"],
        image=row["image"],
        label=row["label"] or None,
        modality=row["modality"],
        channels=channels,
        shape=(x, y, z),
        spacing=(a, b, c),
        orientation=row["orientation"],
        image_sha256=row["image_sha256"],
        voxel_sha256=row["voxel_sha256"],
        label_sha256=row["label_sha256"] or None,
        source=row["source"],
        dataset=row["dataset"],
        channel_names=_list(row["channel_names"]),
        channel_images=_list(row["channel_images"]),
        extra={name: value for name, value in row.items() if name not in COLUMNS},
    )
