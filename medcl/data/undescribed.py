"""A folder nobody described: each volume in it is an input or a label, or is told as neither."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medcl.config import Dicom, Source
from medcl.data.channel_lists import NONE, Channels
from medcl.data.channels import file_of
from medcl.data.checks import Finding
from medcl.data.dicom import DEFAULT
from medcl.data.entries import (
    Entry,
    among_images,
    holdable,
    skipped_file,
    suffix_of,
    unlisted,
    walk,
)
from medcl.data.guess import DESCRIPTIONS, guess_sources, labels_among
from medcl.data.sources import list_entries


def list_undescribed(
    path: Path,
    dicom: Dicom = DEFAULT,
    channels: Channels = NONE,
    *,
    labels: bool = True,
    tell: Callable[[str], object] | None = None,
) -> tuple[list[Source], list[Entry]]:
    """The layouts of a folder or file as they are guessed, and its inputs.

    Without `labels` what looks like one is only set aside. Raises MedclError where labels are
    wanted and nobody can tell whose they are; `tell` is given a sentence on those not used.
    """
    sources = guess_sources(path, channels, labels=labels, tell=tell)
    entries = list_entries(sources, dicom=dicom, channels=channels, labels=labels)
    root = path.parent if path.name in DESCRIPTIONS else path
    if not root.is_dir():
        return sources, entries
    if all(source.layout in ("files", "folders") for source in sources):
        drawn = labels_among(root)
        entries = [_set_aside(entry, drawn) for entry in entries]
    return sources, [*entries, *_untold(root, entries, sources[0])]


def _set_aside(entry: Entry, drawn: dict[str, str]) -> Entry:
    """The entry, skipped if it looks like a label and has none of its own."""
    why = drawn.get(str(entry.image))
    if entry.skipped or entry.label is not None or why is None:
        return entry
    return entry.but(among_images(str(entry.image), why), skipped=True)


def _untold(root: Path, entries: Sequence[Entry], source: Source) -> Iterator[Entry]:
    """The volumes that are in no entry, and the folders that may not be looked into."""
    images = {entry.image for entry in entries}
    told = {os.path.realpath(path) for entry in entries for path in _paths(entry)}
    refused: list[OSError] = []
    found: list[Entry] = []
    for _, files in walk(root, refused.append):
        for file in files:
            if suffix_of(file.name) and os.path.realpath(file) not in told:
                found.append(_not_used(file, source))
    found += [unlisted(error, source) for error in refused]
    held = map(holdable, found)  # a path that is no text stands in its entry as it is shown
    yield from (entry for entry in held if entry.image not in images)


def _not_used(file: Path, source: Source) -> Entry:
    told = f"{file}: does not fit the others of its folder"
    remedy = "describe the folder in a dataset YAML, see config/README.md, to use it"
    return replace(
        skipped_file(file, source), findings=(Finding("not_used", "info", told, remedy),)
    )


def _paths(entry: Entry) -> Iterator[str]:
    yield from (path for path in (entry.image, entry.label) if path)
    yield from (file_of(file.path)[0] for file in entry.files)
    yield from (path for _, path in entry.parts)
    yield from entry.aside
