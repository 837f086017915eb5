"""The table of slides as a user writes it, and who of them is in which fold.

Every decision about patients depends on names and labels alone, in any order of the rows.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medcl.config import Folds, SlideDataset
from medcl.data.text_table import read_text_table
from medcl.errors import MedclError
from medcl.files import replacing
from medcl.slides.siblings import siblings

NEEDED = ("slide", "path", "patient", "label")
OPTIONAL = ("site", "microns_per_pixel", "mask", "truth")
COLUMNS = (*NEEDED, *OPTIONAL)
ROLES = ("training", "validation", "test")


@dataclass(frozen=True)
class Slide:
    """One row. `path`, `mask` and `truth` are seen from the working folder; label "": not known."""

    slide: str
    path: str
    patient: str
    label: str = ""
    site: str = ""
    microns_per_pixel: float | None = None
    mask: str | None = None
    truth: str | None = None


def read_table(dataset: SlideDataset) -> list[Slide]:
    """Read the table of a dataset. Raises MedclError with every problem of it, one a line."""
    root = Path(dataset.root)
    slides = read_slides(root / dataset.table, root)
    wrong = [
        f"{root / dataset.table}: {one.slide}: no class '{one.label}'; the classes are "
        f"{', '.join(dataset.classes)}"
        for one in slides
        if one.label and one.label not in dataset.classes
    ]
    if wrong:
        raise MedclError("\n".join(wrong))
    return slides


def read_slides(file: str | Path, root: str | Path = ".") -> list[Slide]:
    """Read a table whose paths are relative to `root`. Raises MedclError."""
    file = Path(file)
    try:
        table = read_text_table(file)
    except FileNotFoundError:
        raise MedclError(f"{file}: no such file; set `root` and `table`") from None
    columns = {name: table.column(name) for name in COLUMNS}
    if absent := [name for name in NEEDED if columns[name] is None]:
        raise MedclError(
            f"{file}: no column '{absent[0]}'; the columns are {', '.join(NEEDED)} and, where "
            f"wanted, {', '.join(OPTIONAL)}. Without patients, name each slide's own"
        )
    problems: list[str] = []
    slides: list[Slide] = []
    for number, row in table.rows:
        values = table.values(row)
        given = {column: values.get(name or "", "") for column, name in columns.items()}
        try:
            slides.append(_slide(given, Path(root)))
        except ValueError as error:
            problems.append(f"{file}: line {number}: {error}")
    names = [one.slide for one in slides]
    problems += [
        f"{file}: slide '{name}' stands {names.count(name)} times; give each its own name"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if not table.rows:
        problems.append(f"{file}: no slide in it")
    if problems:
        raise MedclError("\n".join(problems))
    return slides


def files_of(slides: Iterable[Slide]) -> set[Path]:
    """The files of slides, of their masks and their truths, whether they are there or not."""
    found: set[Path] = set()
    for one in slides:
        path = Path(one.path)
        found.update({path, *(Path(given) for given in (one.mask, one.truth) if given)})
        if path.is_file():
            with suppress(OSError):  # told where it is opened as a slide
                found.update(siblings(path))
    return found


def write_slides(file: str | Path, slides: Sequence[Slide]) -> None:
    """Write a table whose paths are as the slides have them."""
    with replacing(file) as partial, open(partial, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in slides:
            values = [getattr(one, column) for column in COLUMNS]
            writer.writerow(["" if value is None else value for value in values])


def _slide(given: Mapping[str, str], root: Path) -> Slide:
    for column in ("slide", "path", "patient"):
        if not given[column]:
            raise ValueError(f"no {column}")
    if "/" in given["slide"] or given["slide"].startswith("."):
        raise ValueError(f"slide '{given['slide']}': a name that can be no folder")
    microns = None
    if given["microns_per_pixel"]:
        try:
            microns = float(given["microns_per_pixel"])
        except ValueError:
            microns = 0.0
        if not microns > 0:
            raise ValueError(f"microns_per_pixel '{given['microns_per_pixel']}' is no size")
    places = {name: str(root / given[name]) if given[name] else None for name in ("mask", "truth")}
    return Slide(
        given["slide"],
        str(root / given["path"]),
        given["patient"],
        given["label"],
        given["site"],
        microns,
        **places,
    )


# -------------------------------------------------------------------------------------- folds


def deal(slides: Sequence[Slide], classes: Sequence[str], settings: Folds) -> dict[str, int]:
    """The fold of each patient: classes even, and patients (or sites) whole.

    Groups are dealt class by class, in an order by hash, to the fold that they bring most classes
    it has none of, then to the one with the fewest of their rarest class. Raises MedclError for a
    fold that would lack a class, for fewer groups than folds, and for patients of two sites.
    """
    group_of: dict[str, str] = {}
    for one in slides:
        group = one.site if settings.by == "site" else one.patient
        if not group:
            raise MedclError(f"folds.by: site, but slide {one.slide} has none")
        if group_of.setdefault(one.patient, group) != group:
            raise MedclError(
                f"patient {one.patient} has slides of two sites; use `folds.by: patient`"
            )
    label_of = labels_of(slides, classes)
    members: dict[str, list[str]] = {}
    for patient, group in group_of.items():
        members.setdefault(group, []).append(patient)
    if len(members) < settings.count:
        raise MedclError(
            f"folds.by: {settings.by}: {len(members)} {settings.by}s cannot be dealt to "
            f"{settings.count} folds and stay whole; lower `folds.count`"
            + (", or use `folds.by: patient`" if settings.by == "site" else "")
        )
    counts = {name: [0] * settings.count for name in ("", *classes)}

    def order(group: str) -> tuple[int, bytes]:
        """Rare classes first, so that the common ones even out the sizes."""
        highest = max(classes.index(label_of[p]) if label_of[p] else -1 for p in members[group])
        digest = hashlib.sha256(f"{settings.seed}/fold/{group}".encode()).digest()
        return -highest, digest

    fold_of: dict[str, int] = {}
    for group in sorted(members, key=order):
        labels = [label_of[patient] for patient in members[group]]
        rarest = max(labels, key=lambda x: classes.index(x) if x else -1)
        total = [sum(counts[name][fold] for name in counts) for fold in range(settings.count)]
        new = [
            sum(not counts[name][fold] for name in set(labels) - {""})
            for fold in range(settings.count)
        ]
        fold = min(range(settings.count), key=lambda f: (-new[f], counts[rarest][f], total[f], f))
        for patient, label in zip(members[group], labels, strict=True):
            fold_of[patient] = fold
            counts[label][fold] += 1
    for name in classes:
        for fold, count in enumerate(counts[name]):
            if not count:
                whole = ", or use `folds.by: patient`" if settings.by == "site" else ""
                raise MedclError(
                    f"fold {fold} has no patient of class '{name}' "
                    f"({sum(counts[name])} in all); lower `folds.count`, or add patients{whole}"
                )
    return fold_of


def labels_of(slides: Sequence[Slide], classes: Sequence[str]) -> dict[str, str]:
    """The class of each patient: the last one, in the order of `classes`, of its slides."""
    found: dict[str, str] = {}
    for one in slides:
        before = found.setdefault(one.patient, one.label)
        if one.label and (not before or classes.index(one.label) > classes.index(before)):
            found[one.patient] = one.label
    return found


def role_of(patient_fold: int, fold: int, folds: int) -> str:
    """What a patient is to the models that are tested on `fold`."""
    if patient_fold == fold:
        return "test"
    return "validation" if patient_fold == (fold + 1) % folds else "training"


@dataclass(frozen=True)
class Dealt:
    """folds.csv: the slides of the study and the fold of each."""

    slides: tuple[Slide, ...]
    fold: dict[str, int]
    count: int

    def of(self, role: str, fold: int) -> list[Slide]:
        """Slides with this role for the models tested on `fold`. Raises MedclError for leakage."""
        if not 0 <= fold < self.count:
            raise MedclError(f"no fold {fold}; there are {self.count}")
        return [s for s in self.slides if role_of(self.fold[s.slide], fold, self.count) == role]


def write_folds(file: str | Path, slides: Sequence[Slide], fold_of: Mapping[str, int]) -> None:
    """Write the slides with the fold of their patient."""
    with replacing(file) as partial, open(partial, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow([*COLUMNS, "fold"])
        for one in sorted(slides, key=lambda s: s.slide):
            values = [getattr(one, column) for column in COLUMNS]
            cells = ["" if value is None else value for value in values]
            writer.writerow([*cells, fold_of[one.patient]])


def read_folds(file: str | Path) -> Dealt:
    """Read folds.csv. Raises MedclError if a patient stands in two folds."""
    slides = read_slides(file)
    with open(file, newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    if rows and not (rows[0].get("fold") or "").isdigit():
        raise MedclError(f"{file}: no column 'fold'; write the table with `medcl slides-split`")
    fold = {row["slide"]: int(row["fold"]) for row in rows}
    of_patient: dict[str, int] = {}
    for one in slides:
        if of_patient.setdefault(one.patient, fold[one.slide]) != fold[one.slide]:
            raise MedclError(
                f"{file}: leakage: patient {one.patient} stands in folds "
                f"{of_patient[one.patient]} and {fold[one.slide]}; run `medcl slides-split`"
            )
    return Dealt(tuple(slides), fold, max(fold.values()) + 1)
