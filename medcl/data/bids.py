"""BIDS: images by suffix and entities, labels among the derivatives."""

from __future__ import annotations

import fnmatch
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from medcl.config import Source
from medcl.data.cases import COLUMNS
from medcl.data.checks import Finding
from medcl.data.entries import (
    Entry,
    case_name,
    listed,
    lonely_label,
    stem_of,
    suffix_of,
    walk,
    with_aside,
)
from medcl.data.text_table import read_text_table
from medcl.errors import MedclError

DESCRIPTION = "dataset_description.json"  # which every BIDS dataset has
PERSON, MISSING = "participant_id", "n/a"
# Entities that say which of several derivatives a file is, not which image it was made from.
OF_DERIVATIVES = {"label", "desc", "seg", "atlas", "space", "res", "den", "hemi"}
OF_LABELS = {"dseg": "dseg", "mask": "label-*_mask"}  # suffix -> what to ask for


@dataclass(frozen=True)
class Named:
    """A file name in BIDS: key-value entities and a suffix."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @classmethod
    def of(cls, path: Path) -> Named | None:
        *pairs, suffix = stem_of(path.name).split("_")
        if not pairs or any("-" not in pair for pair in pairs):
            return None
        return cls(path, dict(pair.split("-", 1) for pair in pairs), suffix)

    def is_asked(self, asked: Named) -> bool:
        """Whether the suffix and the entities asked for fit; `*` stands for anything."""
        return fnmatch.fnmatchcase(self.suffix, asked.suffix) and all(
            key in self.entities and fnmatch.fnmatchcase(self.entities[key], value)
            for key, value in asked.entities.items()
        )

    def marks(self, image: Named) -> bool:
        """Whether this derivative was made from `image`, by the entities it repeats."""
        own = {key: v for key, v in self.entities.items() if key not in OF_DERIVATIVES}
        if self.entities.get("ses") != image.entities.get("ses"):
            return False
        space = self.entities.get("space")
        same_space = space in (None, "orig", image.suffix, image.entities.get("space"))
        return same_space and all(image.entities.get(key) == value for key, value in own.items())


def bids(source: Source, path: Path, where: str, *, labels: bool = True) -> Iterator[Entry]:
    """Images by suffix and entities; labels among the derivatives, by the entities they repeat.

    Without `labels` they are only set aside, if there are any.
    """
    if labels or not source.labels:
        yield from _bids(source, path, where)
        return
    try:
        drawn = [label.path for label in _derivatives(path, source.labels, where)]
    except MedclError:
        drawn = []
    blind = source.model_copy(update={"labels": None})
    yield from with_aside(_bids(blind, path, where), drawn)


def _bids(source: Source, path: Path, where: str) -> Iterator[Entry]:
    if not source.images:
        raise MedclError(
            f"{where}.images: this key is required by layout bids: a suffix, such as T1w, or "
            "entities and a suffix, such as acq-highres_T1w"
        )
    asked = _asked(str(source.images), f"{where}.images")
    named = _named(path)
    images = [image for image in named if image.is_asked(asked)]
    if not images:
        raise MedclError(
            f"{where}.images: no image in {path} is called *_{source.images}; "
            f"{_called(named, path)}"
        )
    labels = _derivatives(path, source.labels, where) if source.labels else []
    people = _participants(path / "participants.tsv")
    found, marked = _pair(images, labels)
    for image, own in zip(images, found, strict=True):
        yield _bids_entry(image, own, source, people)
    for label in labels:
        if len(marked[label.path]) == 1:
            continue
        entry = Entry(case_name(label.path.name), None, source.path, str(label.path))
        if not marked[label.path]:
            yield entry.but(lonely_label(str(label.path)))
        else:
            shown = ", ".join(map(str, marked[label.path]))
            told = f"{label.path}: fits {len(marked[label.path])} images: {shown}"
            remedy = "ask for one of them in `images`, or repeat its entities in the label's name"
            yield entry.but(Finding("label_ambiguous", "error", told, remedy))


def _pair(
    images: Sequence[Named], labels: Sequence[Named]
) -> tuple[list[list[Named]], Mapping[Path, list[Path]]]:
    """For each image the labels that fit it and no other; the images that each label fits."""
    marked: dict[Path, list[Path]] = defaultdict(list)
    of_subject: dict[str, list[Named]] = defaultdict(list)
    for label in labels:
        of_subject[label.entities["sub"]].append(label)
    found = [[label for label in of_subject[i.entities["sub"]] if label.marks(i)] for i in images]
    for image, theirs in zip(images, found, strict=True):
        for label in theirs:
            marked[label.path].append(image.path)
    own = [[label for label in theirs if len(marked[label.path]) == 1] for theirs in found]
    return own, marked


def _structures(labels: Sequence[Named]) -> tuple[tuple[str, str], ...]:
    """(structure, file) of masks whose names tell them apart; nothing for other labels."""
    if any(label.suffix != "mask" for label in labels):
        return ()
    parts = [(label.entities.get("label", label.suffix), str(label.path)) for label in labels]
    return tuple(parts) if len({name for name, _ in parts}) == len(parts) else ()


def _bids_entry(
    image: Named, labels: Sequence[Named], source: Source, people: Mapping[str, dict[str, str]]
) -> Entry:
    subject, visit = f"sub-{image.entities['sub']}", image.entities.get("ses", "")
    entry = Entry(
        case_name(image.path.name),
        str(image.path),
        source.path,
        str(labels[0].path) if labels else None,
        subject,
        f"ses-{visit}" if visit else "",
        extra=people.get(subject, {}),
    )
    if parts := _structures(labels):
        return replace(entry, parts=parts)
    if len(labels) > 1:
        shown = ", ".join(str(label.path) for label in labels)
        told = f"{image.path}: {len(labels)} labels fit, {shown}"
        return entry.but(
            Finding("several_labels", "error", told, "narrow `labels` by pipeline or entities")
        )
    return entry


def _asked(text: str, where: str) -> Named:
    named = Named.of(Path(f"x-x_{text}"))
    if named is None or suffix_of(text):
        raise MedclError(
            f"{where}: '{text}' is no suffix with entities; write T1w, or acq-highres_T1w"
        )
    entities = {key: value for key, value in named.entities.items() if key != "x"}
    return replace(named, entities=entities)


def kinds_of(root: Path, tell: Callable[[str], object] | None = None) -> dict[str, str | None]:
    """The suffixes of the images, that of most subjects first, each with its labels if it has any.

    Labels are those of one pipeline, which gives most images of a suffix one label, or masks of
    different structures. `tell` is given a sentence on other labels there are.
    """
    images: dict[str, list[Named]] = defaultdict(list)
    for image in _named(root):
        if image.suffix not in ("dseg", "mask", "probseg", "defacemask"):
            images[image.suffix].append(image)

    def rank(kind: str) -> tuple[int, bool, str]:
        found = images[kind]
        subjects = {image.entities["sub"] for image in found}
        return -len(subjects), found[0].path.parent.name != "anat", kind

    kinds = sorted(images, key=rank)
    labels = _labels_below(root / "derivatives")
    fits = {
        (kind, asked): _usable(images[kind], theirs)
        for kind in kinds
        for asked, theirs in labels.items()
    }
    usable = [key for key, (one, _) in fits.items() if one]
    best, chosen = max(usable, key=lambda key: fits[key][0], default=("", ""))
    left = [
        f"{asked} (*_{kind}: one label for {one} images, several for {several})"
        for (kind, asked), (one, several) in fits.items()
        if asked != chosen and one + several
    ]
    if left and tell is not None:
        tell(
            f"{root / 'derivatives'}: labels not used: {listed(left, 12)}; to use them, name them "
            "as `labels` in a dataset YAML, given as --settings"
        )
    return {kind: chosen if kind == best else None for kind in kinds}


def _labels_below(derivatives: Path) -> dict[str, list[Named]]:
    """What to ask for, such as manual/dseg -> the labels it finds."""
    found: dict[str, list[Named]] = defaultdict(list)
    for pipeline in sorted(derivatives.glob("*")):
        for label in _named(pipeline):
            asked = OF_LABELS.get(label.suffix)
            if asked and (label.suffix != "mask" or "label" in label.entities):
                found[f"{pipeline.name}/{asked}"].append(label)
    return found


def _usable(images: Sequence[Named], labels: Sequence[Named]) -> tuple[int, int]:
    """How many of the images have one label, and how many have several that are no parts of one."""
    found = [own for own in _pair(images, labels)[0] if own]
    one = sum(len(own) == 1 or bool(_structures(own)) for own in found)
    return one, len(found) - one


def _named(root: Path) -> list[Named]:
    """Every volume below the subjects' folders."""
    found = []
    for folder in sorted(root.glob("sub-*")):
        for _, files in walk(folder):
            for file in files:
                named = Named.of(file) if suffix_of(file.name) else None
                if named is not None and "sub" in named.entities:
                    found.append(named)
    return found


def _derivatives(path: Path, labels: str, where: str) -> list[Named]:
    if PurePosixPath(labels).is_absolute() or PureWindowsPath(labels).drive:
        raise MedclError(
            f"{where}.labels: '{labels}' is an absolute path; write it as seen from "
            f"{path / 'derivatives'}, such as manual/dseg"
        )
    pipeline, _, text = labels.rpartition("/")
    asked = _asked(text, f"{where}.labels")
    above = path / "derivatives"
    folders = sorted(above.glob(pipeline or "*"))
    if not folders:
        there = sorted(folder.name for folder in above.iterdir()) if above.is_dir() else []
        hint = f"it has {listed(there)}" if there else "that is where BIDS keeps labels"
        raise MedclError(
            f"{where}.labels: {above} has no folder '{pipeline or '*'}'; {hint}; write such as "
            "manual/dseg"
        )
    named = [item for folder in folders for item in _named(folder)]
    if found := [item for item in named if item.is_asked(asked)]:
        return found
    raise MedclError(
        f"{where}.labels: no label in {above} is called *_{text}; {_called(named, above)}"
    )


def _called(named: Sequence[Named], folder: Path) -> str:
    """The suffixes there are."""
    if not named:
        return f"{folder} has no folders sub-* with volumes named as BIDS does; correct the path"
    suffixes = Counter(item.suffix for item in named)
    there = (f"{number} *_{name}" for name, number in suffixes.items())
    return f"there are {listed(there, 12)}; correct it"


def _participants(table: Path) -> dict[str, dict[str, str]]:
    """Columns of participants.tsv by participant; what BIDS marks as missing is empty."""
    if not table.is_file():
        return {}
    content = read_text_table(table)
    if PERSON not in content.header:
        raise MedclError(
            f"{table}: no column '{PERSON}', only {', '.join(content.header)}; rename one"
        )
    people = {}
    for _, row in content.rows:
        values = content.values(row)
        person = values.pop(PERSON)
        people[f"sub-{person.removeprefix('sub-')}"] = {
            (name if name not in COLUMNS else f"table_{name}"): "" if value == MISSING else value
            for name, value in values.items()
        }
    return people
