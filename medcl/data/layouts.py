"""Layouts other programs define by one JSON file: nnssl's table, and the Decathlon's."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from medcl.config import Source
from medcl.data.channel_lists import Channels, choose, joined, left_out
from medcl.data.entries import Entry, case_name, file_below, listed, not_used, stem_of
from medcl.data.nnunet import channels_of, nnunet, read_description
from medcl.errors import MedclError
from medcl.files import read_json

LONGEST_SHOWN = 80  # characters of a value that an error repeats


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
    except FileNotFoundError:
        raise MedclError(f"{where}.path: {path} has no dataset.json; is the layout msd?") from None
    except ValueError as error:
        raise _unlike(table, f"no JSON, {error}") from None
    if isinstance(content, dict) and "training" not in content and "file_ending" in content:
        yield from nnunet(source, path, where, channels)
        return
    listed_cases = _listed_cases(content, table)
    there = channels_of(content, table)
    cases = [
        (
            [file_below(path, image) for image in _images(image, label, there, table)],
            file_below(path, label) if label else None,
        )
        for image, label in listed_cases
    ]
    chosen = choose(there, source, channels, where)
    whole = list(chosen.values()) == list(range(len(there)))
    named = tuple(chosen) if channels.names or len(chosen) > 1 else ()
    used: set[Path] = set()
    for (files, drawn), name in zip(cases, _names(cases), strict=True):
        used.update(files, [drawn] if drawn else [])
        entry = Entry(
            case_name(name),
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


def _listed_cases(content: Any, table: Path) -> list[tuple[Any, Any]]:
    """(image, label) of every case as it is written there, tests behind and without labels."""
    if not isinstance(content, dict):
        raise _unlike(table, "no keys and values")
    training, tests = content.get("training"), content.get("test") or []
    if not isinstance(training, list):
        raise _unlike(table, f"`training` is {_short(training)}")
    if not isinstance(tests, list):
        raise _unlike(table, f"`test` is {_short(tests)}, no list of images")
    for item in training:
        if not isinstance(item, dict) or not {"image", "label"} <= set(item):
            raise _unlike(table, f"`training` lists {_short(item)}")
    for item in tests:
        if isinstance(item, dict) and "image" not in item:
            raise _unlike(table, f"`test` lists {_short(item)}, which has no `image`")
    cases = [(item["image"], item["label"]) for item in training]
    return cases + [(item["image"] if isinstance(item, dict) else item, None) for item in tests]


def _unlike(table: Path, why: str) -> MedclError:
    return MedclError(
        f"{table}: not a table of the Decathlon: {why}; it needs `training`, a list of cases with "
        "`image` and `label`"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _images(image: Any, label: Any, there: Mapping[str, int], table: Path) -> list[str]:
    """The files of a case, one or one for each channel; MedclError where they are neither."""
    images = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(item, str) and item for item in images):
        raise MedclError(
            f"{table}: image {image!r}: expected a path, or a list with one for each channel"
        )
    if not isinstance(label, str | None):
        raise MedclError(f"{table}: label {label!r} of {images[0]}: expected the path of one file")
    count = len(images) if len(images) > 1 else len(there)
    if sorted(there.values()) != list(range(count)):
        shown = ", ".join(f"{number} {name}" for name, number in there.items())
        what = f"is the first of {count} images" if len(images) > 1 else "is the image"
        raise MedclError(
            f"{table}: {images[0]} {what} of a case, but `modality` names {shown}; name each "
            'channel by its place, from 0 on, such as {"0": "FLAIR", "1": "T1"}'
        )
    return images


def _names(cases: Sequence[tuple[Sequence[Path], Path | None]]) -> list[str]:
    """The name of each case's file; of several files the first of these that no other case has.

    What their names begin with; the name of the label, or else of the first file; their folder.
    """
    proposed = [_proposed(files, label) for files, label in cases]
    taken = [Counter(names) for names in zip(*proposed, strict=True)]
    return [
        next((n for n, others in zip(names, taken, strict=True) if n and others[n] == 1), names[1])
        for names in proposed
    ]


def _proposed(files: Sequence[Path], label: Path | None) -> tuple[str, str, str]:
    if len(files) == 1:
        return (files[0].name,) * 3
    names = [re.split(r"[_.-]", stem_of(file.name)) for file in files]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
    return "_".join(parts[0] for parts in same), (label or files[0]).name, files[0].parent.name
