"""Layouts other programs define by one JSON file: nnssl's table, and the Decathlon's."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from medcl.config import Source
from medcl.data.channel_lists import Channels, choose, joined, left_out, numbers_of
from medcl.data.entries import Entry, case_name, file_below, listed, not_used, stem_of
from medcl.data.nnunet import nnunet, read_description
from medcl.errors import MedclError
from medcl.files import read_json


def nnssl(source: Source, path: Path, where: str) -> Iterator[Entry]:
    """The images of a pretrain_data.json, all without labels.

    Subjects of its datasets are told apart by the dataset's name. `$NAME` before a path stands
    for the folder of the table, or for the one above it.
    """
    file = path / "pretrain_data.json" if path.is_dir() else path
    table = read_description(file, where, "nnssl")
    kinds: dict[str, None] = {}
    taken = 0
    try:
        for key, dataset in table["datasets"].items():
            origin = str(dataset.get("name") or dataset.get("dataset_index") or key)
            for subject, person in dataset["subjects"].items():
                for session, visit in person["sessions"].items():
                    for image in visit["images"]:
                        kind = str(image.get("modality") or "")
                        kinds[kind] = None
                        if source.images and not fnmatch.fnmatchcase(kind, str(source.images)):
                            continue
                        taken += 1
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
    if not taken:
        raise MedclError(
            f"{where}.images: no image of {file} has the modality '{source.images}'; it has "
            f"{listed(kinds, 12) or 'no images'}; correct it"
        )


def _place(text: str, folder: Path) -> Path:
    if not text.startswith("$"):
        return file_below(folder, text)  # an absolute path stays as it is
    below = text.replace("\\", "/").partition("/")[2]
    return next(
        (f / below for f in (folder, folder.parent) if (f / below).exists()), folder / below
    )


def msd(source: Source, path: Path, where: str, channels: Channels) -> Iterator[Entry]:
    """Medical Segmentation Decathlon: what dataset.json lists; its tests have no labels.

    Several modalities of a case are volumes along the fourth axis of its file, or a list of files.
    """
    table = path / "dataset.json"
    try:
        content: Any = read_json(table)
        names = content.get("modality") or content.get("channel_names") or {}
        if "training" not in content and "file_ending" in content:
            yield from nnunet(source, path, where, channels)
            return
        there = numbers_of({int(number): str(name) for number, name in names.items()})
        there = there or {"image": 0}
        cases = [(item["image"], item["label"]) for item in content["training"]]
        cases += [
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
    used: set[Path] = set()
    for image, label in cases:
        images = _images(image, label, there, table)
        files = [file_below(path, item) for item in images]
        drawn = file_below(path, label) if label else None
        used.update(files, [drawn] if drawn else [])
        entry = Entry(
            case_name(_shared_name(files)),
            str(files[0]),
            source.path,
            str(drawn) if drawn else None,
            channels=len(chosen),
            names=named,
        )
        if len(files) > 1:
            parts = {name: str(files[at]) for name, at in chosen.items()}
            entry = joined(entry, parts, channels)
            if len(parts) == 1:
                entry = replace(entry, files=(), names=channels.names)
        elif not whole:
            entry = joined(entry, {n: f"{files[0]}[{at}]" for n, at in chosen.items()}, channels)
            entry = replace(entry, image=str(files[0]), names=named)
        yield entry.but(*left_out(entry, there, chosen))
    yield from not_used(used, source)


def _images(image: Any, label: Any, there: Mapping[str, int], table: Path) -> list[str]:
    """The files of a case, one or one for each channel; MedclError where they are neither."""
    images = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(item, str) and item for item in images):
        raise MedclError(
            f"{table}: image {image!r}: expected a path, or a list with one for each channel"
        )
    if not isinstance(label, str | None):
        raise MedclError(f"{table}: label {label!r} of {images[0]}: expected the path of one file")
    if len(images) > 1 and sorted(there.values()) != list(range(len(images))):
        shown = ", ".join(f"{number} {name}" for name, number in there.items())
        raise MedclError(
            f"{table}: {images[0]} is the first of {len(images)} images of a case, but `modality` "
            f'names {shown}; name each by its place, such as {{"0": "FLAIR", "1": "T1"}}'
        )
    return images


def _shared_name(files: Sequence[Path]) -> str:
    """The name of a file; of several what their names begin with, or else their folder's."""
    if len(files) == 1:
        return files[0].name
    names = [re.split(r"[_.-]", stem_of(file.name)) for file in files]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
    return "_".join(parts[0] for parts in same) or files[0].parent.name
