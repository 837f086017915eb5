"""Layouts other programs define: nnU-Net's raw folder, nnssl's table, the Decathlon's."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcl.config import Source
from medcl.data.channel_lists import NONE, Channels, choose, joined
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


def nnunet(source: Source, path: Path, where: str, channels: Channels = NONE) -> Iterator[Entry]:
    """imagesTr, imagesTs and labelsTr as dataset.json describes them."""
    table = _read_table(path / "dataset.json", where, "nnunet")
    named = table.get("channel_names") or table.get("modality") or {"0": "image"}
    if not isinstance(named, Mapping):
        raise MedclError(f"{path / 'dataset.json'}: `channel_names` must map numbers to names")
    there = {str(name): int(number) for number, name in named.items()}
    chosen = choose(there, source, channels, where)
    others = [name for name, number in there.items() if number not in chosen.values()]
    ending = str(table.get("file_ending", ".nii.gz"))
    listed = table.get("dataset")
    if isinstance(listed, Mapping):  # files anywhere, named one by one
        found = _listed(listed, path, chosen)
    else:
        found = _in_folders(path, chosen, ending)
    used: set[Path] = set()
    for name, images, label in found:
        used |= {file for file in (*images.values(), label) if file is not None}
        text = str(label) if label is not None else None
        if not images:
            yield Entry(case_name(name), None, source.path, text).but(lonely_label(str(label)))
            continue
        entry = Entry(case_name(name), None, source.path, text)
        if len(chosen) == 1:
            image = next(iter(images.values()))
            entry = replace(entry, image=str(image), names=channels.names)
        else:
            files = {name: str(f) if f.exists() else None for name, f in images.items()}
            entry = joined(entry, files, channels)
        if others:
            shown = ", ".join(f"{number} {name}" for name, number in chosen.items())
            told = f"{entry.image}: channel {shown} of {len(there)}; {', '.join(others)} left out"
            entry = entry.but(Finding("channel_chosen", "info", told))
        yield entry
    marked = re.compile(rf".*_\d{{4}}{re.escape(ending)}")
    for entry in not_used(used, source):
        if not marked.fullmatch(str(entry.image)):  # other channels were told with their case
            yield entry


def _listed(
    listed: Mapping[str, Any], path: Path, chosen: Mapping[str, int]
) -> Iterator[tuple[str, dict[str, Path], Path | None]]:
    for name, item in listed.items():
        files = dict(enumerate(item.get("images") or []))
        images = {key: path / files.get(number, "") for key, number in chosen.items()}
        label = item.get("label")
        there = any(number in files for number in chosen.values())
        yield name, images if there else {}, path / label if label else None


def _in_folders(
    path: Path, chosen: Mapping[str, int], ending: str
) -> Iterator[tuple[str, dict[str, Path], Path | None]]:
    """A case is there if any of its channels is: a missing one is a finding of that case."""
    for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        files = visible_files(path / images) if (path / images).is_dir() else []
        maps = visible_files(path / labels) if (path / labels).is_dir() else []
        label_of = {f.name.removesuffix(ending): f for f in maps if f.name.endswith(ending)}
        pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
        names = [match[1] for file in files if (match := pattern.fullmatch(file.name))]
        for name in dict.fromkeys(names):
            found = {
                key: path / images / f"{name}_{number:04d}{ending}"
                for key, number in chosen.items()
            }
            yield name, found, label_of.pop(name, None)
        for name, label in label_of.items():
            yield name, {}, label


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
                        if source.images and not fnmatch.fnmatchcase(kind, str(source.images)):
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


# ----------------------------------------------------------------------------- Decathlon


def msd(source: Source, path: Path, where: str, channels: Channels) -> Iterator[Entry]:
    """Medical Segmentation Decathlon: what dataset.json lists; its tests have no labels.

    Several modalities of a case are volumes along the fourth axis of its file.
    """
    table = path / "dataset.json"
    try:
        content: Any = read_json(table)
        names = content.get("modality") or content.get("channel_names") or {}
        if "training" not in content and "file_ending" in content:
            yield from nnunet(source, path, where, channels)
            return
        there = {str(name): int(number) for number, name in names.items()} or {"image": 0}
        listed = [(item["image"], item["label"]) for item in content["training"]]
        listed += [
            (item["image"] if isinstance(item, dict) else item, None)
            for item in content.get("test") or []
        ]
    except FileNotFoundError:
        raise MedclError(f"{where}.path: {path} has no dataset.json; is the layout msd?") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedclError(
            f"{table}: not a table of the Decathlon ({type(error).__name__}: {error}); "
            "it needs `training` with `image` and `label`"
        ) from None
    chosen = choose(there, source, channels, where)
    whole = list(chosen.values()) == list(range(len(there)))
    named = tuple(chosen) if channels.names or len(chosen) > 1 else ()
    used = set()
    for image, label in listed:
        files = [path / item if item else None for item in (image, label)]
        used |= {file for file in files if file}
        entry = Entry(
            case_name(Path(image).name),
            str(files[0]),
            source.path,
            str(files[1]) if files[1] else None,
            channels=len(chosen),
            names=named,
        )
        if not whole:
            entry = joined(entry, {n: f"{files[0]}[{at}]" for n, at in chosen.items()}, channels)
            entry = replace(entry, image=str(files[0]), names=named)
        yield entry
    yield from not_used(used, source)


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
