"""nnU-Net's raw folder: imagesTr, imagesTs and labelsTr as dataset.json describes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcl.config import Source
from medcl.data.channel_lists import NONE, Channels, choose, joined, left_out, numbers_of
from medcl.data.checks import Finding
from medcl.data.entries import (
    Entry,
    case_name,
    file_below,
    listed,
    lonely_label,
    not_used,
    suffix_of,
    visible_files,
)
from medcl.errors import MedclError
from medcl.files import read_json

FOLDERS = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))


def nnunet(source: Source, path: Path, where: str, channels: Channels = NONE) -> Iterator[Entry]:
    """Every case of which any channel is there; files of channels that are not used are told."""
    table = read_description(path / "dataset.json", where, "nnunet")
    there = channels_of(table, path / "dataset.json")
    chosen = choose(there, source, channels, where)
    ending = str(table.get("file_ending", ".nii.gz"))
    by_name = table.get("dataset")
    used: set[Path] = set()
    if isinstance(by_name, Mapping):  # files anywhere, named one by one
        listed_files = _files_by_name(by_name, path / "dataset.json")
        found = _listed(listed_files, path, chosen)
        # The images of every channel, used or not.
        used |= {file_below(path, f) for files, _ in listed_files.values() for f in files if f}
    else:
        found = _in_folders(path, chosen, ending)
    for name, images, label in found:
        used |= {file for file in (*images.values(), label) if file is not None}
        entry = Entry(case_name(name), None, source.path, str(label) if label else None)
        if not images:
            yield entry.but(_lonely(Path(str(label)), name, path, there.values()))
            continue
        if len(chosen) == 1:
            image = next(iter(images.values()))
            entry = replace(entry, image=str(image), names=channels.names)
        else:
            files = {name: str(f) if f.exists() else None for name, f in images.items()}
            entry = joined(entry, files, channels)
        yield entry.but(*left_out(entry, there, chosen))
    marked = _marked(ending)
    for entry in not_used(used, source):
        # Channels of a case in the folders that are not used are told with their case.
        if isinstance(by_name, Mapping) or not marked.fullmatch(Path(str(entry.image)).name):
            yield entry


def read_description(file: Path, where: str, layout: str) -> dict[str, Any]:
    """The content of a JSON file that describes a dataset; MedclError where there is none."""
    try:
        content = read_json(file)
    except FileNotFoundError:
        above = file.parent.parent
        hint = f"is the layout {layout}? layout folders needs no such file"
        if (above / file.name).is_file():
            hint = f"did you mean {above}, which holds it?"
        raise MedclError(f"{where}.path: no {file}; {hint}") from None
    except ValueError as error:
        raise MedclError(f"{file}: not JSON: {error}; correct it there") from None
    if not isinstance(content, dict):
        raise MedclError(f"{file}: expected keys and values")
    return content


def channels_of(table: Mapping[str, Any], file: Path) -> dict[str, int]:
    """Name -> number, from `channel_names`, or `modality` as it was called before."""
    key = next((key for key in ("channel_names", "modality") if table.get(key)), "")
    named = table[key] if key else {"0": "image"}
    try:
        return numbers_of({int(number): str(name) for number, name in named.items()})
    except (AttributeError, ValueError):
        raise MedclError(
            f'{file}: `{key}` must map numbers to names, such as {{"0": "T2"}}; got {named}'
        ) from None


def _files_by_name(
    by_name: Mapping[str, Any], file: Path
) -> dict[str, tuple[list[str | None], str | None]]:
    """Case -> its images, one for each channel, and its label; MedclError where they are none."""
    found = {}
    for name, item in by_name.items():
        if not isinstance(item, Mapping):
            raise MedclError(f"{file}: dataset.{name}: expected `images` and `label`, got {item!r}")
        images, label = item.get("images") or [], item.get("label") or None
        if not isinstance(images, list) or not all(isinstance(i, str | None) for i in images):
            raise MedclError(
                f"{file}: dataset.{name}.images: {images!r}; write a list of paths, one for each "
                "channel"
            )
        if not isinstance(label, str | None):
            raise MedclError(f"{file}: dataset.{name}.label: {label!r}; write the path of one file")
        found[name] = (images, label)
    return found


def _listed(
    by_name: Mapping[str, tuple[list[str | None], str | None]],
    path: Path,
    chosen: Mapping[str, int],
) -> Iterator[tuple[str, dict[str, Path], Path | None]]:
    for name, (listed_images, label) in by_name.items():
        files = dict(enumerate(listed_images))
        images = {  # one that is not listed has a name no file has
            key: file_below(path, files.get(number) or f"{name}_{number:04d}: not listed")
            for key, number in chosen.items()
        }
        yield name, images if files else {}, file_below(path, label) if label else None


def _in_folders(
    path: Path, chosen: Mapping[str, int], ending: str
) -> Iterator[tuple[str, dict[str, Path], Path | None]]:
    """A case is there if any of its channels is: a missing one is a finding of that case."""
    content = {
        name: visible_files(path / name) if (path / name).is_dir() else []
        for names in FOLDERS
        for name in names
    }
    marked, cut = _marked(ending), len(ending)
    if not any(marked.fullmatch(file.name) for images, _ in FOLDERS for file in content[images]):
        raise _no_images(path, content, ending)
    for images, labels in FOLDERS:
        label_of = {
            file.name[:-cut]: file
            for file in content[labels]
            if file.name.lower().endswith(ending.lower())
        }
        file_of: dict[str, dict[int, Path]] = {}
        for file in content[images]:
            if match := marked.fullmatch(file.name):
                file_of.setdefault(match[1], {})[int(match[2])] = file
        for name, files in file_of.items():
            found = {
                key: files.get(number, path / images / f"{name}_{number:04d}{ending}")
                for key, number in chosen.items()
            }
            yield name, found, label_of.pop(name, None)
        for name, label in label_of.items():
            yield name, {}, label


def _marked(ending: str) -> re.Pattern[str]:
    """CASE_0000.nii.gz; the ending in any letter case."""
    return re.compile(rf"(.+)_(\d{{4}})(?i:{re.escape(ending)})")


def _no_images(path: Path, content: Mapping[str, list[Path]], ending: str) -> MedclError:
    """Why no file is an image of a case."""
    files = [file for images, _ in FOLDERS for file in content[images]]
    folders = " or ".join(images for images, _ in FOLDERS)
    if not files:
        there = sorted(item.name for item in path.iterdir() if not item.name.startswith("."))
        return MedclError(
            f"{path}: no images in {folders}; it holds {listed(there)}; correct the path, or "
            "choose another layout"
        )
    endings = Counter(suffix_of(file.name) or file.suffix for file in files)
    if ending.lower() not in endings:
        return MedclError(
            f"{path / 'dataset.json'}: `file_ending` is '{ending}' (.nii.gz if absent), but "
            f"{files[0].parent} holds {listed(endings)} files; correct it"
        )
    return MedclError(
        f"{files[0]}: no image of {folders} ends in a channel's number, such as _0000{ending}; "
        "rename them, or use layout folders"
    )


def _lonely(label: Path, name: str, path: Path, numbers: Iterable[int]) -> Finding:
    """A label without an image: often a number is missing in a name, or stands in the wrong one."""
    ending = label.name.removeprefix(name)
    marked = re.fullmatch(r"(.+)_(\d{4})", name)
    if marked and int(marked[2]) in numbers:
        remedy = f"labels carry no channel's number: call it {marked[1]}{ending}"
        return lonely_label(str(label), remedy=remedy)
    images = {maps: images for images, maps in FOLDERS}.get(label.parent.name, "")
    if images and (twin := path / images / label.name).is_file():
        why = f"{twin} has no channel's number"
        return lonely_label(str(label), why, f"call the image {name}_0000{ending}")
    return lonely_label(str(label))
