"""The inputs of a dataset: what every source lists, by its layout.

A case is named after its file or folder, so that its name stays when others come or go. Nothing
is opened here but tables and the headers of DICOM trees; whether a file is any good is for
`data/checks.py` to say.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from medcl.config import Dicom, Source
from medcl.data.bids import bids
from medcl.data.case_table import MODALITIES, csv_table
from medcl.data.channel_lists import NONE, Channels, merge, patterns
from medcl.data.checks import Finding
from medcl.data.class_names import compare_classes
from medcl.data.dicom import DEFAULT
from medcl.data.dicom_entries import dicom_entries
from medcl.data.entries import Entry, among_images, holdable, listed
from medcl.data.folders import files, folders
from medcl.data.layouts import msd, nnssl
from medcl.data.nnunet import nnunet
from medcl.data.structures import Naming
from medcl.errors import MedclError

LAYOUTS = {"files": files, "nnssl": nnssl}
# Where a table says which channels there are.
TABLED = {"csv": csv_table, "msd": msd, "nnunet": nnunet}
ANY = Naming()
ASIDE = "a label by the description of its source"


def list_entries(
    sources: Iterable[Source],
    root: str = ".",
    dicom: Dicom = DEFAULT,
    channels: Channels = NONE,
    naming: Naming = ANY,
    *,
    labels: bool = True,
) -> list[Entry]:
    """Every input of every source, in order; `naming`: the classes of labels, if they are wanted.

    Without `labels` only images are listed, and what is known to be a label is none of them.
    Raises MedclError where a source finds nothing, or contradicts the classes.
    """
    entries: list[Entry] = []
    for index, source in enumerate(sources):
        where = f"sources[{index}]"
        path = Path(root) / source.path
        if not path.exists():
            raise MedclError(
                f"{where}.path: {path} does not exist; paths are relative to the dataset's root"
            )
        found = list(_entries(source, path, where, dicom, channels, naming, labels=labels))
        if not found:
            raise MedclError(
                f"{where}: no images in {path} (layout {source.layout}); "
                "check the path, the layout and its patterns"
            )
        found = [_with_subject(holdable(entry), source, where) for entry in found]
        if source.layout in ("msd", "nnunet") and naming.classes is not None and labels:
            told = compare_classes(path / "dataset.json", naming.classes)
            found = [entry.but(*told) if entry.image and entry.label else entry for entry in found]
        if source.modality is not None:
            if source.modality not in MODALITIES:
                raise MedclError(
                    f"{where}.modality: '{source.modality}' is none of {', '.join(MODALITIES)}"
                )
            found = [replace(e, modality=e.modality or source.modality) for e in found]
        entries += _exclude(found, source, where)
    return refuse_duplicates(without_labels(entries, label_files(entries)))


def _entries(
    source: Source,
    path: Path,
    where: str,
    dicom: Dicom,
    channels: Channels,
    naming: Naming,
    *,
    labels: bool,
) -> Iterator[Entry]:
    if source.layout == "dicom":
        yield from dicom_entries(source if labels else _blind(source), path, where, dicom, channels)
    elif source.layout in TABLED:
        yield from TABLED[source.layout](source, path, where, channels)
    elif texts := patterns(source, channels, where):
        reference = channels.names[channels.place_of_reference(channels.names)]
        labelled = {reference} if labels else ()
        lists = {
            name: list(_plain(_only(source, text), path, where, naming, labels=name in labelled))
            for name, text in texts.items()
        }
        yield from merge(lists, channels)
    else:  # every file holds all channels
        for entry in _plain(source, path, where, naming, labels=labels):
            names = channels.names
            yield replace(entry, channels=len(names), names=names) if names else entry


def _only(source: Source, images: str) -> Source:
    """The source of one channel."""
    return source.model_copy(update={"images": images})


def _plain(
    source: Source, path: Path, where: str, naming: Naming, *, labels: bool
) -> Iterator[Entry]:
    if source.layout == "folders":
        return folders(source, path, where, naming, labels=labels)
    if source.layout == "bids":
        return bids(source, path, where, labels=labels)
    return LAYOUTS[source.layout](source if labels else _blind(source), path, where)


def _blind(source: Source) -> Source:
    return source.model_copy(update={"labels": None})


def _with_subject(entry: Entry, source: Source, where: str) -> Entry:
    if source.subject is None or entry.skipped:
        return entry
    try:
        match = re.search(source.subject, entry.case)
        subject = match and match[1]
    except (re.error, IndexError) as error:
        raise MedclError(
            f"{where}.subject: '{source.subject}': {error}; write a regular expression with a "
            "group, such as (sub\\d+)_"
        ) from None
    if subject:
        return replace(entry, subject=subject)
    return entry.but(
        Finding(
            "unknown_subject",
            "error",
            f"{entry.case}: '{source.subject}' finds no subject in the name",
            f"widen {where}.subject, or exclude the case",
        )
    )


def _exclude(entries: list[Entry], source: Source, where: str) -> list[Entry]:
    names = [entry.case for entry in entries]
    for name in source.exclude:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean '{near[0]}'?" if near else "see the names in ingest.json"
            raise MedclError(f"{where}.exclude: no case is called '{name}'; {hint}")
    told = Finding("excluded", "info", f"left out by {where}.exclude")
    return [e.but(told, skipped=True) if e.case in source.exclude else e for e in entries]


def label_files(entries: Iterable[Entry]) -> dict[str, str]:
    """Where every label lies, links followed -> what it is, such as `the label of p1`."""
    found: dict[str, str] = {}
    for entry in entries:
        found |= {os.path.realpath(path): ASIDE for path in entry.aside}
        found |= {path: f"the label of {entry.case}" for path in _labels(entry)}
    return found


def without_labels(entries: Iterable[Entry], labels: Mapping[str, str]) -> list[Entry]:
    """The entries, images that are one of the labels skipped; one with a label is refused."""
    found = []
    for entry in entries:
        drawn = None if entry.skipped or not labels else _label_of(entry, labels)
        if drawn is not None and entry.label is None:
            entry = entry.but(among_images(str(entry.image), f"is {drawn}"), skipped=True)
        elif drawn is not None:
            told = f"{entry.image}: is the image of {entry.case} and {drawn}"
            remedy = "name another file for one of them"
            entry = entry.but(Finding("label_among_images", "error", told, remedy))
        found.append(entry)
    return found


def _label_of(entry: Entry, labels: Mapping[str, str]) -> str | None:
    """What one of the entry's images is, if a label."""
    paths = [entry.image or "", *(file.path for file in entry.files)]
    return next((d for path in paths if path and (d := labels.get(os.path.realpath(path)))), None)


def refuse_duplicates(entries: list[Entry]) -> list[Entry]:
    """Two inputs of one name: the same file is used once, different files are both refused.

    Of one image with and without a label, the labelled entry is used.
    """
    groups = defaultdict(list)
    for index, entry in enumerate(entries):
        if not entry.skipped:
            groups[entry.case].append(index)
    for name, indices in groups.items():
        if len(indices) == 1:
            continue
        inputs = [entries[i].image or entries[i].label or "" for i in indices]
        labels = {i: own for i in indices if (own := _labels(entries[i]))}
        one = len({_images(entries[i]) for i in indices}) == 1
        same = one and len(set(labels.values())) < 2
        told = f"{len(indices)} inputs are called {name}: {', '.join(inputs)}"
        if one and not same:
            shown = listed(sorted({path for paths in labels.values() for path in paths}))
            told = f"{name}: one image has several labels: {shown}"
        used = next(iter(labels), indices[0]) if same else None
        for index in indices:
            if index == used:
                continue
            entries[index] = entries[index].but(
                Finding(
                    "duplicate_name",
                    "info" if same else "error",
                    told,
                    "it is used once" if same else "rename one, or add {visit} or a column `case`",
                ),
                skipped=same,
            )
    return entries


def _images(entry: Entry) -> tuple[str, ...]:
    paths = [entry.image or entry.label or "", *(file.path or "" for file in entry.files)]
    return tuple(os.path.realpath(path) for path in paths)


def _labels(entry: Entry) -> tuple[str, ...]:
    paths = [entry.label or "", *(path for _, path in entry.parts)]
    return tuple(os.path.realpath(path) for path in paths if path)
