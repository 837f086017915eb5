"""Layouts without a table: every volume of a folder, or patterns with subjects and classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medcl.config import Source
from medcl.data.checks import Finding
from medcl.data.entries import Entry, case_name, lonely_label, not_used, suffix_of, unlisted, walk
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
    files: set[Path] = field(default_factory=set)


def folders(source: Source, path: Path, where: str, naming: Naming) -> Iterator[Entry]:
    """Patterns with {subject} and optionally {visit}; a folder that matches is a DICOM series.

    `naming` tells which of several ways to read the name of a mask names a class.
    """
    if not source.images:
        raise MedclError(
            f"{where}.images: this key is required by layout folders, "
            "such as images/{subject}.nii.gz"
        )
    pattern = Pattern(str(source.images), f"{where}.images")
    images = [(key_of(readings[0]), file) for file, readings in pattern.paths(path)]
    if not images:
        raise pattern.no_match(path)
    known = dict.fromkeys(key for key, _ in images)
    labels, masks = _Labels(), False
    if source.labels:
        marks = Pattern(source.labels, f"{where}.labels", ("subject", "visit", "class"))
        if ("visit" in pattern) != ("visit" in marks):
            raise MedclError(
                f"{where}: {{visit}} stands in one of images and labels; use it in both"
            )
        masks = "class" in marks
        labels = _labels(marks, path, known, naming)
    for key, file in images:
        yield _entry(key, file, source, labels, masks=masks)
    first = _called(images[0][0])
    for key, paths in labels.lonely.items():
        name = case_name("_".join(filter(None, key)))
        lack = f"no image is of {_called(key)}; the first image is of {first}"
        remedy = _remedy(key, known)
        for label in paths[:1] if masks else paths:
            entry = Entry(name, None, source.path, label, *key)
            yield entry.but(lonely_label(label, lack, remedy))
    yield from not_used({*(file for _, file in images), *labels.files}, source)


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


def _labels(pattern: Pattern, root: Path, known: Container[Key], naming: Naming) -> _Labels:
    """The labels of the images there are; raises MedclError where no path fits the pattern."""
    labels = _Labels()
    for file, readings in pattern.paths(root):
        labels.files.add(file)
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
    if not labels.files:
        raise pattern.no_match(root)
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
