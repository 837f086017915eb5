"""One input of a dataset, and what all layouts share: names of cases, walks through folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from medcl.config import Source
from medcl.data.checks import Finding
from medcl.data.dicom import Series
from medcl.data.volume import SUFFIXES


@dataclass(frozen=True)
class ChannelFile:
    """One channel of a case: a file, one volume of it (`scan.nii.gz[1]`), or a DICOM folder."""

    name: str
    path: str
    series: Series | None = None


@dataclass(frozen=True)
class Entry:
    """One input. `image` is a file or a folder with a DICOM series, `series` its headers if read.

    `names` are those of its channels, if they have any. Where the channels are not simply those
    of `image`, `files` lists them, and `image` is that of the reference: `files[reference]`.

    `dataset` is the name of the one it belongs to.

    `parts` make up the label where it is no single file: (structure, mask file), or ("", DICOM
    object) for objects that name their structures; `label` is then the first of them.

    subject None: the DICOM header or the case name says. modality None: header or dataset say;
    the pass over the headers fills in both, `modalities`, those of the channels, and `grid`: shape,
    spacing in mm and orientation.

    `aside`: labels that are known and not wanted, of this case or of its source; none is an image.
    """

    case: str
    image: str | None
    source: str
    label: str | None = None
    subject: str | None = None
    visit: str = ""
    modality: str | None = None
    channels: int = 1
    extra: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    skipped: bool = False
    parts: tuple[tuple[str, str], ...] = ()
    series: Series | None = None
    names: tuple[str, ...] = ()
    files: tuple[ChannelFile, ...] = ()
    reference: int = 0
    dataset: str = ""
    grid: tuple[tuple[int, int, int], tuple[float, float, float], str] | None = None
    modalities: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[ChannelFile, ...]:
        """What the image is read from: a file for each channel, or one that holds them all."""
        assert self.image is not None
        return self.files or (ChannelFile("", self.image, self.series),)

    @property
    def channels_each(self) -> int:
        """How many channels each of `images` holds."""
        return 1 if self.files else self.channels

    def but(self, *findings: Finding, skipped: bool = False) -> Entry:
        """The same entry with more findings."""
        return replace(self, findings=(*self.findings, *findings), skipped=skipped or self.skipped)


def with_aside(entries: Iterator[Entry], labels: Iterable[object]) -> Iterator[Entry]:
    """The entries of a source, the first of which knows its labels."""
    for first in entries:
        yield replace(first, aside=tuple(map(str, labels)))
        break
    yield from entries


def not_used(used: set[Path], source: Source) -> Iterator[Entry]:
    """Volumes that lie beside used ones and belong to no case: said, not passed over."""
    for folder in sorted({file.parent for file in used}):
        for file in visible_files(folder) if folder.is_dir() else ():
            if file not in used and suffix_of(file.name):
                yield skipped_file(file, source)


def skipped_file(file: Path, source: Source) -> Entry:
    reason = f"{file}: belongs to no case of layout {source.layout}"
    finding = Finding("not_used", "info", reason, "change the pattern or table to use it")
    return Entry(case_name(file.name), str(file), source.path).but(finding, skipped=True)


def among_images(file: str, why: str) -> Finding:
    return Finding("label_among_images", "info", f"{file}: {why}; not taken for an image")


def lonely_label(
    label: str, why: str = "", remedy: str = "supply the image, or remove the label"
) -> Finding:
    told = f"{label}: a label without an image{f': {why}' if why else ''}"
    return Finding("label_without_image", "error", told, remedy)


def guessed_subject(why: str, remedy: str) -> Finding:
    return Finding("subject_guessed", "warning", why, remedy)


def person_of(entry: Entry) -> tuple[str, list[Finding]]:
    """Whose case it is: what the source says, else the headers; that it was guessed is told."""
    series = entry.series
    if entry.subject or series is None or series.subject:
        return entry.subject or (series and series.subject) or entry.case, []
    told = "no PatientID in the headers: the volumes of a study count as one person"
    if not series.person:
        told = "neither PatientID nor study in the headers: each volume counts as a person"
    remedy = "give `subject` of the source, or set `subjects: unknown`"
    return series.person or entry.case, [guessed_subject(told, remedy)]


def listed(names: Iterable[object], most: int = 4) -> str:
    """The first of several names, and how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def file_below(folder: Path, text: str) -> Path:
    """The file a table names, seen from `folder`; a backslash parts folders, as on Windows."""
    path = folder / text
    return path if "\\" not in text or path.exists() else folder / text.replace("\\", "/")


def walk(
    root: Path, unlisted: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[Path]]]:
    """Folders and their files, sorted, hidden ones left out; links to folders are followed once.

    `unlisted` is told of every folder that may not be looked into.
    """
    seen = set()
    for folder, folders, files in os.walk(root, onerror=unlisted, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), [Path(folder, f) for f in sorted(files) if not f.startswith(".")]


def unlisted(error: OSError, source: Source) -> Entry:
    """In the place of all that lies in a folder that may not be looked into."""
    told = f"{error.filename}: cannot be listed, {error.strerror}"
    remedy = "allow reading it, or move it out of the dataset"
    entry = Entry(case_name(Path(error.filename).name), error.filename, source.path)
    return entry.but(Finding("unreadable", "error", told, remedy))


def holdable(entry: Entry) -> Entry:
    """The entry, or what stands in its place where no table of text can hold its paths."""
    paths = [entry.image, entry.label, *(path for _, path in entry.parts)]
    paths += [file.path for file in entry.files]
    wrong = next((path for path in paths if path and not _is_text(path)), None)
    if wrong is None:
        return entry
    shown = wrong.encode("utf-8", "backslashreplace").decode()
    finding = Finding("unusable_name", "error", f"{shown}: no UTF-8", "rename it")
    return Entry(entry.case, shown, entry.source, dataset=entry.dataset).but(finding)


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def visible_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))


def suffix_of(name: str) -> str:
    """.nii.gz and the like, "" for what is no volume."""
    return next((s for s in sorted(SUFFIXES, reverse=True) if name.lower().endswith(s)), "")


def stem_of(name: str) -> str:
    """A name without the suffix of a volume."""
    return name[: len(name) - len(suffix_of(name))]


def case_name(path: str) -> str:
    """A case name from a relative path: parts joined by _, without the suffix of a volume."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem_of(path)).lstrip("_.-") or "case"
