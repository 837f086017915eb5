"""Layouts without a table: every volume of a folder, or patterns with subjects and classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medcl.config import Source
from medcl.data.checks import Finding
from medcl.data.entries import (
    Entry,
    among_images,
    case_name,
    lonely_label,
    not_used,
    suffix_of,
    unlisted,
    walk,
    with_aside,
)
from medcl.data.patterns import Pattern, Reading, key_of
from medcl.data.structures import Naming
from medcl.errors import MedclError

Key = tuple[str, str]  # subject and visit


def files(source: Source, path: Path, where: str) -> Iterator[Entry]:
    """Every volume of a folder, or a single one."""
    if path.is_file():
        yield Entry(case_name(path.name), str(path), source.path)
        return
    refused: list[OSError] = []
    for _, found in walk(path, refused.append):
        for file in found:
            if suffix_of(file.name):
                yield Entry(case_name(str(file.relative_to(path))), str(file), source.path)
    yield from (unlisted(error, source) for error in refused)


@dataclass
class _Labels:
    """Labels by their case: (class or "", path); those of no image; those of several."""

    of: dict[Key, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    lonely: dict[Key, list[str]] = field(default_factory=lambda: defaultdict(list))
    unclear: dict[Key, list[Finding]] = field(default_factory=lambda: defaultdict(list))


def folders(
    source: Source, path: Path, where: str, naming: Naming, *, labels: bool = True
) -> Iterator[Entry]:
    """Patterns with {subject} and optionally {visit}; a folder that matches is a DICOM series.

    `naming` tells which of several ways to read the name of a mask names a class. What fits the
    pattern of the labels is never an image, `labels` or not: without, it is only set aside.
    """
    if not source.images:
        raise MedclError(
            f"{where}.images: this key is required by layout folders, "
            "such as images/{subject}.nii.gz"
        )
    pattern = Pattern(str(source.images), f"{where}.images")
    found = [(key_of(readings[0]), file) for file, readings in pattern.paths(path)]
    if not found:
        raise pattern.no_match(path)
    marks: dict[Path, list[Reading]] = {}
    unclear: dict[Path, Finding] = {}
    masks = False
    if source.labels:
        drawn = Pattern(source.labels, f"{where}.labels", ("subject", "visit", "class"))
        masks = "class" in drawn
        marks, unclear = _marks(dict(drawn.paths(path)), found, naming)
        if labels and ("visit" in pattern) != ("visit" in drawn):
            raise MedclError(
                f"{where}: {{visit}} stands in one of images and labels; use it in both"
            )
        if labels and not marks and not unclear:
            raise drawn.no_match(path)
    images = [(key, file) for key, file in found if file not in marks and file not in unclear]
    if not images:
        raise MedclError(
            f"{where}.labels: all {len(found)} paths that fit '{source.images}', such as "
            f"{found[0][1]}, fit '{source.labels}' too; make it narrower"
        )
    known = dict.fromkeys(key for key, _ in images)
    sorted_labels = _labels(marks, known, naming) if labels else _Labels()
    entries = (_entry(key, file, source, sorted_labels, masks=masks) for key, file in images)
    yield from entries if labels else with_aside(entries, marks)
    for key, file in found:
        if file in marks:
            told = among_images(str(file), f"fits the pattern of the labels, '{source.labels}'")
            yield _entry(key, file, source, _Labels(), masks=False).but(told, skipped=True)
        elif file in unclear:
            yield _entry(key, file, source, _Labels(), masks=False).but(unclear[file])
    yield from _lonely(sorted_labels, known, source, masks=masks)
    yield from not_used({*(file for _, file in found), *marks}, source)


def _lonely(
    labels: _Labels, known: Mapping[Key, None], source: Source, *, masks: bool
) -> Iterator[Entry]:
    """The labels of no image; of masks that belong together the first."""
    first = _called(next(iter(known)))
    for key, paths in labels.lonely.items():
        name = case_name("_".join(filter(None, key)))
        lack = f"no image is of {_called(key)}; the first image is of {first}"
        remedy = _remedy(key, known)
        for label in paths[:1] if masks else paths:
            entry = Entry(name, None, source.path, label, *key)
            yield entry.but(lonely_label(label, lack, remedy))


def _entry(key: Key, file: Path, source: Source, labels: _Labels, *, masks: bool) -> Entry:
    matched = labels.of.get(key, [])
    entry = Entry(
        case_name("_".join(filter(None, key))),
        str(file),
        source.path,
        matched[0][1] if matched else None,
        *key,
        parts=tuple(matched) if masks else (),
    )
    if len(matched) > 1 and not masks:
        several = Finding(
            "several_labels",
            "error",
            f"{file}: {len(matched)} labels match, {', '.join(path for _, path in matched)}",
            "make the pattern of the labels narrower",
        )
        entry = entry.but(several)
    return entry.but(*labels.unclear.get(key, ()))


def _marks(
    fitting: Mapping[Path, list[Reading]], images: Sequence[tuple[Key, Path]], naming: Naming
) -> tuple[dict[Path, list[Reading]], dict[Path, Finding]]:
    """The files that are labels, of those that fit their pattern, and those that may be images.

    `{subject}_{class}.nii.gz` fits an image `p_fu.nii.gz` beside its masks as well. That is an
    image if there is a mask of it, `p_fu_liver.nii.gz`, and `fu` is no class.
    """
    key_at = {file: key for key, file in images}
    keys = set(key_at.values())
    drawn_on: dict[Key, list[Path]] = defaultdict(list)  # by masks whose class is known
    for file, readings in fitting.items():
        for reading in readings:
            if "class" in reading and naming.knows(reading["class"]):
                drawn_on[key_of(reading)].append(file)
    marks: dict[Path, list[Reading]] = {}
    unclear: dict[Path, Finding] = {}
    for file, readings in fitting.items():
        if file not in key_at or "class" not in readings[0]:
            marks[file] = readings
            continue
        own = key_at[file]
        masks = [other for other in drawn_on[own] if other != file]
        of_others = [r for r in readings if key_of(r) in keys and key_of(r) != own]
        if naming.classes is None:
            is_mask, may_be = bool(of_others), False
        elif any(naming.knows(r["class"]) or naming.resembles(r["class"]) for r in readings):
            # p_liver_tumour is a mask on p_liver only if it can be none of p.
            masks = [m for m in masks if _is_of(own, fitting[m], naming)]
            is_mask, may_be = not masks, bool(masks and of_others)
        else:
            is_mask, may_be = False, bool(of_others) and not masks
        if is_mask:
            marks[file] = readings
        elif may_be:
            unclear[file] = _image_or_mask(file, of_others[0])
    return marks, unclear


def _is_of(key: Key, readings: Sequence[Reading], naming: Naming) -> bool:
    """Whether a mask is one of this image and of no other by the classes that are known."""
    return all(key_of(r) == key for r in readings if naming.knows(r["class"]))


def _image_or_mask(file: Path, reading: Reading) -> Finding:
    told = f"{file}: an image, or '{reading['class']}' of {_called(key_of(reading))}"
    remedy = (
        "name the class under `structures` or `ignored_structures` if it is a mask; else give "
        "masks a folder or a mark of their own"
    )
    return Finding("label_ambiguous", "error", told, remedy)


def _labels(marks: Mapping[Path, list[Reading]], known: Container[Key], naming: Naming) -> _Labels:
    """The labels of the images there are, and those of none."""
    labels = _Labels()
    for file, readings in marks.items():
        of_images = [reading for reading in readings if key_of(reading) in known]
        found = _likely(of_images or readings, naming)
        if not of_images:
            labels.lonely[key_of(found[0])].append(str(file))
        elif len(found) > 1:
            for key, finding in _unclear(file, found):
                labels.unclear[key].append(finding)
        else:
            (reading,) = found
            labels.of[key_of(reading)].append((reading.get("class", ""), str(file)))
    return labels


def _likely(readings: Sequence[Reading], naming: Naming) -> list[Reading]:
    """Of readings of one label the one with the longest subject; of masks those that name a class.

    A mask that names none is of no use to any case: its first reading is as good as the others.
    """
    if "class" not in readings[0]:
        return [readings[0]]
    distinct = {(key_of(reading), reading["class"]): reading for reading in readings}
    for fits in (naming.knows, naming.resembles):
        if named := [reading for reading in distinct.values() if fits(reading["class"])]:
            return named
    return [readings[0]]


def _unclear(file: Path, readings: Sequence[Reading]) -> Iterator[tuple[Key, Finding]]:
    """One finding for each case a mask may belong to."""
    ways = " or ".join(f"'{r['class']}' of {_called(key_of(r))}" for r in readings)
    remedy = "rename it, or part {subject} and {class} by a folder or a mark of their own"
    finding = Finding("label_ambiguous", "error", f"{file}: may be {ways}", remedy)
    for key in dict.fromkeys(key_of(reading) for reading in readings):
        yield key, finding


def _remedy(key: Key, known: Container[Key]) -> str:
    """What to do about a label of nobody: often its name only ends in a word more."""
    subject, visit = key
    for end in range(len(subject) - 1, 0, -1):
        if (subject[:end], visit) in known:
            more = f"{{subject}}{subject[end:]}"
            return f"write {more} in `labels` if it is of '{subject[:end]}', or supply the image"
    return "supply the image, or remove the label"


def _called(key: Key) -> str:
    subject, visit = key
    return f"'{subject}', visit '{visit}'" if visit else f"'{subject}'"
