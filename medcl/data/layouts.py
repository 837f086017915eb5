"""Layouts other programs define: nnU-Net's raw folder, nnssl's pretrain_data.json."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcl.config import Source
from medcl.data.checks import Finding
from medcl.data.entries import (
    Entry,
    case_name,
    lonely_label,
    not_used,
    visible_files,
)
from medcl.errors import MedclError
from medcl.files import read_json

# ------------------------------------------------------------------------------ nnU-Net raw


def nnunet(source: Source, path: Path, where: str) -> Iterator[Entry]:
    """imagesTr, imagesTs and labelsTr as dataset.json describes them; one channel of each case."""
    table = _read_table(path / "dataset.json", where, "nnunet")
    channels = table.get("channel_names") or table.get("modality") or {"0": "image"}
    if not isinstance(channels, Mapping):
        raise MedclError(f"{path / 'dataset.json'}: `channel_names` must map numbers to names")
    channel = _channel(channels, source, where)
    others = [str(name) for number, name in channels.items() if int(number) != channel]
    ending = str(table.get("file_ending", ".nii.gz"))
    listed = table.get("dataset")
    if isinstance(listed, Mapping):  # files anywhere, named one by one
        found = _listed(listed, path, channel)
    else:
        found = _in_folders(path, channel, ending)
    used: set[Path] = set()
    for name, image, label in found:
        used |= {file for file in (image, label) if file is not None}
        text = str(label) if label is not None else None
        if image is None:
            yield Entry(case_name(name), None, source.path, text).but(lonely_label(str(label)))
            continue
        entry = Entry(case_name(name), str(image), source.path, text)
        if others:
            told = f"{image}: channel {channel} of {len(channels)}; {', '.join(others)} left out"
            entry = entry.but(Finding("channel_chosen", "info", told))
        yield entry
    marked = re.compile(rf".*_\d{{4}}{re.escape(ending)}")
    for entry in not_used(used, source):
        if not marked.fullmatch(str(entry.image)):  # other channels were told with their case
            yield entry


def _channel(channels: Mapping[str, Any], source: Source, where: str) -> int:
    """The number of the channel the source asks for, by number or name."""
    names = {str(name).casefold(): int(number) for number, name in channels.items()}
    shown = ", ".join(f"{number} {name}" for number, name in channels.items())
    if source.channel is None:
        if len(channels) == 1:
            return int(next(iter(channels)))
        raise MedclError(
            f"{where}.channel: {len(channels)} channels per case ({shown}); name the one to use: "
            "several channels per case are not read yet"
        )
    asked = str(source.channel)
    if asked.casefold() in names:
        return names[asked.casefold()]
    if asked.isdigit() and int(asked) in names.values():
        return int(asked)
    near = difflib.get_close_matches(asked.casefold(), list(names), 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise MedclError(f"{where}.channel: no channel '{asked}' among {shown}{hint}")


def _listed(
    listed: Mapping[str, Any], path: Path, channel: int
) -> Iterator[tuple[str, Path | None, Path | None]]:
    for name, item in listed.items():
        images = item.get("images") or []
        label = item.get("label")
        image = path / images[channel] if channel < len(images) else None
        yield name, image, path / label if label else None


def _in_folders(
    path: Path, channel: int, ending: str
) -> Iterator[tuple[str, Path | None, Path | None]]:
    """A case is there if any of its channels is: a missing one is a finding of that case."""
    for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        files = visible_files(path / images) if (path / images).is_dir() else []
        maps = visible_files(path / labels) if (path / labels).is_dir() else []
        label_of = {f.name.removesuffix(ending): f for f in maps if f.name.endswith(ending)}
        pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
        names = [match[1] for file in files if (match := pattern.fullmatch(file.name))]
        for name in dict.fromkeys(names):
            image = path / images / f"{name}_{channel:04d}{ending}"
            yield name, image, label_of.pop(name, None)
        for name, label in label_of.items():
            yield name, None, label


# ----------------------------------------------------------------------------------- nnssl


def nnssl(source: Source, path: Path, where: str) -> Iterator[Entry]:
    """The images of a pretrain_data.json, all without labels.

    Subjects of its datasets are told apart by the dataset's name. `$NAME` before a path stands
    for the folder of the table, or for the one above it.
    """
    file = path / "pretrain_data.json" if path.is_dir() else path
    table = _read_table(file, where, "nnssl")
    try:
        for key, dataset in table["datasets"].items():
            origin = str(dataset.get("name") or dataset.get("dataset_index") or key)
            for subject, person in dataset["subjects"].items():
                for session, visit in person["sessions"].items():
                    for image in visit["images"]:
                        kind = str(image.get("modality") or "")
                        if source.images and not fnmatch.fnmatchcase(kind, source.images):
                            continue
                        names = (origin, subject, session, image.get("name") or kind)
                        yield Entry(
                            case_name("_".join(map(str, names))),
                            str(_place(str(image["image_path"]), file.parent)),
                            source.path,
                            None,
                            case_name(f"{origin}_{subject}"),
                            str(session),
                            extra={"sequence": kind},
                        )
    except (KeyError, TypeError, AttributeError) as error:
        raise MedclError(
            f"{file}: not a table of nnssl ({type(error).__name__}: {error}); it needs datasets, "
            "subjects, sessions and images with an `image_path`"
        ) from None


def _place(text: str, folder: Path) -> Path:
    if not text.startswith("$"):
        return folder / text  # an absolute path stays as it is
    below = text.partition("/")[2]
    return next(
        (f / below for f in (folder, folder.parent) if (f / below).exists()), folder / below
    )


def _read_table(file: Path, where: str, layout: str) -> dict[str, Any]:
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise MedclError(f"{where}.path: no {file}; is the layout {layout}?") from None
    except ValueError as error:
        raise MedclError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise MedclError(f"{file}: expected keys and values")
    return content
