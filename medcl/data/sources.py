"""Layouts of datasets: where images and labels lie, and what each case is called.

A case is named after its file or folder, so that its name stays when others come or go. Nothing
is opened here but tables and the headers of DICOM trees; whether a file is any good is for
`data/checks.py` to say.
"""

from __future__ import annotations

import csv
import difflib
import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcl.config import Dicom, Source
from medcl.data.bids import bids
from medcl.data.cases import COLUMNS
from medcl.data.channel_lists import NONE, Channels, joined, merge, patterns
from medcl.data.checks import Finding
from medcl.data.dicom import DEFAULT, is_dicom
from medcl.data.dicom_entries import dicom_entries
from medcl.data.entries import Entry, holdable, unlisted
from medcl.data.entries import case_name as _name
from medcl.data.entries import lonely_label as _lonely
from medcl.data.entries import not_used as _not_used
from medcl.data.entries import suffix_of as _suffix
from medcl.data.entries import visible_files as _visible
from medcl.data.entries import walk as _walk
from medcl.data.layouts import msd, nnssl, nnunet
from medcl.data.volume import SUFFIXES
from medcl.errors import MedclError

MODALITIES = ("CT", "MR", "PET", "US", "other")
TABLE_COLUMNS = ("case", "subject", "visit", "image", "label", "modality")
TABLES = (".csv", ".tsv")


def list_entries(
    sources: Iterable[Source],
    root: str = ".",
    dicom: Dicom = DEFAULT,
    channels: Channels = NONE,
) -> list[Entry]:
    """Every input of every source, in order; raises MedclError where a source finds nothing."""
    entries: list[Entry] = []
    for index, source in enumerate(sources):
        where = f"sources[{index}]"
        path = Path(root) / source.path
        if not path.exists():
            raise MedclError(
                f"{where}.path: {path} does not exist; paths are relative to the dataset's root"
            )
        found = list(_entries(source, path, where, dicom, channels))
        if not found:
            raise MedclError(
                f"{where}: no images in {path} (layout {source.layout}); "
                "check the path, the layout and its patterns"
            )
        found = [_with_subject(holdable(entry), source, where) for entry in found]
        if source.modality is not None:
            if source.modality not in MODALITIES:
                raise MedclError(
                    f"{where}.modality: '{source.modality}' is none of {', '.join(MODALITIES)}"
                )
            found = [replace(e, modality=e.modality or source.modality) for e in found]
        entries += _exclude(found, source, where)
    return refuse_duplicates(entries)


def _entries(
    source: Source, path: Path, where: str, dicom: Dicom, channels: Channels
) -> Iterator[Entry]:
    if source.layout == "dicom":
        yield from dicom_entries(source, path, where, dicom, channels)
    elif source.layout in TABLED:
        yield from TABLED[source.layout](source, path, where, channels)
    elif texts := patterns(source, channels, where):
        reference = channels.names[channels.place_of_reference(channels.names)]
        lists = {
            name: list(LAYOUTS[source.layout](_only(source, name == reference, text), path, where))
            for name, text in texts.items()
        }
        yield from merge(lists, channels)
    else:  # every file holds all channels
        for entry in LAYOUTS[source.layout](source, path, where):
            names = channels.names
            yield replace(entry, channels=len(names), names=names) if names else entry


def _only(source: Source, labelled: bool, images: str) -> Source:
    """The source of one channel; labels belong to the reference."""
    keys: dict[str, Any] = {"images": images}
    return source.model_copy(update=keys if labelled else keys | {"labels": None})


def guess_sources(path: Path, *, labels: bool = True, channels: Channels = NONE) -> list[Source]:
    """The layout of a folder or file nobody described; paths are seen from the working folder.

    `labels`: use objects of a DICOM tree that mark structures. Files of several `channels` are
    known by nnU-Net's number or by the channel's name at the end of their names.
    """
    if not path.exists():
        raise MedclError(f"{path}: no such file or folder; check --source")
    text = str(path)
    if path.is_file():
        return [_source(layout="csv" if path.suffix.lower() in TABLES else "files", path=text)]
    if (path / "pretrain_data.json").is_file():
        return [_source(layout="nnssl", path=text)]
    if (path / "dataset.json").is_file():
        return [_source(layout="msd", path=text)]
    for images, maps in (("imagesTr", "labelsTr"), ("images", "labels")):
        if (path / images).is_dir() and (path / maps).is_dir():
            return [_guess_folders(path, images, maps, channels)]
    if marked := _channel_files(path, "", channels):
        return [_source(layout="folders", path=text, images=marked)]
    if any(_holds_dicom(files) for _, files in _walk(path)):
        return [_source(layout="dicom", path=text, labels="*" if labels else None)]
    return [_source(layout="files", path=text)]


def _source(**keys: str | dict[str, str] | None) -> Source:
    return Source.model_validate(keys)


def _guess_folders(path: Path, images: str, labels: str, channels: Channels) -> Source:
    endings = {
        folder: Counter(
            suffix for file in _visible(path / folder) if (suffix := _suffix(file.name))
        ).most_common(1)
        for folder in (images, labels)
    }
    if not endings[images]:
        raise MedclError(f"{path / images}: no images ({', '.join(SUFFIXES)}); check --source")
    ending = endings[images][0][0]
    names = [file.name.removesuffix(ending) for file in _visible(path / images)]
    label = endings[labels][0][0] if endings[labels] else ending
    if marked := _channel_files(path / images, f"{images}/", channels):
        maps = f"{labels}/{{subject}}{label}"
        return _source(layout="folders", path=str(path), images=marked, labels=maps)
    channel = _channel_mark(path / images, names)
    return _source(
        layout="folders",
        path=str(path),
        images=f"{images}/{{subject}}{channel}{ending}",
        labels=f"{labels}/{{subject}}{label}",
    )


def _channel_files(folder: Path, below: str, channels: Channels) -> dict[str, str]:
    """The pattern of each channel's files, if every file carries the mark of one."""
    files = [file.name for file in _visible(folder) if _suffix(file.name)]
    if len(channels.names) < 2 or not files:
        return {}
    ending = Counter(map(_suffix, files)).most_common(1)[0][0]
    stems = [file.removesuffix(_suffix(file)) for file in files]
    numbers = tuple(f"_{number:04d}" for number in range(len(channels.names)))
    for marks in (numbers, tuple(f"_{name}" for name in channels.names)):
        if all(stem.endswith(marks) for stem in stems):
            return {
                name: f"{below}{{subject}}{mark}{ending}"
                for name, mark in zip(channels.names, marks, strict=True)
            }
    return {}


def _channel_mark(folder: Path, names: list[str]) -> str:
    """nnU-Net's `_0000` behind every name, or nothing."""
    if not names or not all(re.search(r"_\d{4}$", name) for name in names):
        return ""
    if several := [name for name in names if not name.endswith("_0000")]:
        raise MedclError(
            f"{folder}: several files per case ({several[0]}); describe them in a dataset YAML, "
            'channels: ["0000", "0001"], layout folders, '
            "images: imagesTr/{subject}_{channel}.nii.gz"
        )
    return "_0000"


def _files(source: Source, path: Path, where: str) -> Iterator[Entry]:
    """Every volume of a folder, or a single one."""
    if path.is_file():
        yield Entry(_name(path.name), str(path), source.path)
        return
    refused: list[OSError] = []
    for _, files in _walk(path, refused.append):
        for file in files:
            if _suffix(file.name):
                yield Entry(_name(str(file.relative_to(path))), str(file), source.path)
    yield from (unlisted(error, source) for error in refused)


def _folders(source: Source, path: Path, where: str) -> Iterator[Entry]:
    """Patterns with {subject} and optionally {visit}; a folder that matches is a DICOM series."""
    if not source.images:
        raise MedclError(
            f"{where}.images: this key is required by layout folders, "
            "such as images/{subject}.nii.gz"
        )
    images = _match(path, str(source.images), f"{where}.images")
    labels = (
        _match(path, source.labels, f"{where}.labels", ("subject", "visit", "class"))
        if source.labels
        else []
    )
    if source.labels and ("{visit}" in source.images) != ("{visit}" in source.labels):
        raise MedclError(f"{where}: {{visit}} stands in one of images and labels; use it in both")
    label_of = defaultdict(list)
    for key, file, structure in labels:
        label_of[key].append((structure, str(file)))
    masks = "{class}" in (source.labels or "")
    for (subject, visit), file, _ in images:
        matched = label_of.pop((subject, visit), [])
        entry = Entry(
            _name(f"{subject}_{visit}" if visit else subject),
            str(file),
            source.path,
            matched[0][1] if matched else None,
            subject,
            visit,
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
        yield entry
    for (subject, visit), files in label_of.items():
        name = _name(f"{subject}_{visit}" if visit else subject)
        for _, label in files[:1] if masks else files:
            yield Entry(name, None, source.path, label, subject, visit).but(_lonely(label))
    yield from _not_used({file for _, file, _ in (*images, *labels)}, source)


def _match(
    root: Path, pattern: str, where: str, names: Sequence[str] = ("subject", "visit")
) -> list[tuple[tuple[str, str], Path, str]]:
    """((subject, visit), path, class) of all that match, sorted by path."""
    wrong = [name for name in re.findall(r"{(.*?)}", pattern) if name not in names]
    if wrong or "{subject}" not in pattern or "**" in pattern:
        others = " and ".join(f"{{{name}}}" for name in names[1:])
        raise MedclError(
            f"{where}: '{pattern}' must hold {{subject}}, may hold {others} and *, nothing else"
        )
    wild, regex, seen = "", "", set()
    for part in re.split(r"({subject}|{visit}|{class}|\*)", pattern.removeprefix("./")):
        if part in ("{subject}", "{visit}", "{class}"):
            name = part.strip("{}")
            wild += "*"
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
        else:
            wild += part if part == "*" else glob.escape(part)
            regex += "[^/]*" if part == "*" else re.escape(part)
    found = []
    for path in sorted(root.glob(wild)):
        text = path.relative_to(root).as_posix()
        if (match := re.fullmatch(regex, text)) and not path.name.startswith("."):
            values = match.groupdict()
            key = (values["subject"], values.get("visit") or "")
            found.append((key, path, values.get("class") or ""))
    return found


def _csv(source: Source, path: Path, where: str, channels: Channels) -> Iterator[Entry]:
    """One row, one case; paths in the table are relative to it. Other columns are kept."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
        columns = _columns(source, list(reader.fieldnames or ()), path, where, channels.names)
        rows = list(reader)
    for number, row in enumerate(rows, start=2):
        values = {ours: (row.get(theirs) or "").strip() for ours, theirs in columns.items()}
        files = {
            key: str(path.parent / values[key]) if values.get(key) else None
            for key in ("image", "label", *channels.names)
        }
        image, label = files.pop("image"), files.pop("label")
        if "image" not in columns:
            image = next((file for file in files.values() if file), None)
        subject, visit = values.get("subject") or None, values.get("visit", "")
        stem = "_".join(filter(None, (subject, visit))) or Path(image or label or "row").name
        modality = values.get("modality") or None
        extra = {
            (name if name not in COLUMNS else f"table_{name}"): value or ""
            for name, value in row.items()
            if name and name not in columns.values()
        }
        name = _name(values.get("case") or stem)
        entry = Entry(name, image, source.path, label, subject, visit, modality, 1, extra)
        if "image" in columns and channels.names:  # one file holds all channels
            entry = replace(entry, channels=len(channels.names), names=channels.names)
        elif image is not None and channels.names:
            entry = joined(entry, files, channels)
        if image is None:
            missing = Finding(
                "missing_image_file", "error", f"{path}:{number}: no image", "fill in the column"
            )
            entry = entry.but(_lonely(label) if label else missing)
        if modality is not None and modality not in MODALITIES:
            entry = replace(entry, modality=None).but(
                Finding(
                    "unknown_modality",
                    "error",
                    f"{path}:{number}: modality '{modality}'",
                    f"write one of {', '.join(MODALITIES)}",
                )
            )
        yield entry


def _columns(
    source: Source, header: list[str], path: Path, where: str, channels: Sequence[str]
) -> dict[str, str]:
    """Our column name -> the table's; without a column `image` there is one for each channel."""
    known = (*TABLE_COLUMNS, *channels)
    for ours in source.columns:
        if ours not in known:
            raise MedclError(f"{where}.columns.{ours}: no such column; use {', '.join(known)}")
    columns = {name: name for name in known if name in header} | source.columns
    if channels and "image" not in columns:
        columns = {name: name for name in channels} | columns
    for ours, theirs in columns.items():
        if theirs not in header:
            near = difflib.get_close_matches(theirs, header, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(header)}"
            raise MedclError(f"{where}.columns.{ours}: {path} has no column '{theirs}'; {hint}")
    if "image" not in columns and not channels:
        raise MedclError(
            f"{path}: no column 'image', only {', '.join(header)}; "
            f"rename one, or name it in {where}.columns"
        )
    return columns


LAYOUTS = {"files": _files, "folders": _folders, "bids": bids, "nnssl": nnssl}
# Where a table says which channels there are.
TABLED = {"csv": _csv, "msd": msd, "nnunet": nnunet}


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


def refuse_duplicates(entries: list[Entry]) -> list[Entry]:
    """Two inputs of one name: the same file is used once, different files are both refused."""
    groups = defaultdict(list)
    for index, entry in enumerate(entries):
        if not entry.skipped:
            groups[entry.case].append(index)
    for name, indices in groups.items():
        if len(indices) == 1:
            continue
        inputs = [entries[i].image or entries[i].label or "" for i in indices]
        same = len({os.path.realpath(path) for path in inputs}) == 1
        for index in indices[1:] if same else indices:
            entries[index] = entries[index].but(
                Finding(
                    "duplicate_name",
                    "info" if same else "error",
                    f"{len(indices)} inputs are called {name}: {', '.join(inputs)}",
                    "it is used once" if same else "rename one, or add {visit} or a column `case`",
                ),
                skipped=same,
            )
    return entries


def _holds_dicom(files: list[Path]) -> bool:
    return any(file.suffix.lower() == ".dcm" or is_dicom(file) for file in files)
