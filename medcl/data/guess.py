"""The layout of a folder or file that nobody described."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from medcl.config import Source
from medcl.data.bids import DESCRIPTION, kinds_of
from medcl.data.case_table import TABLES
from medcl.data.channel_lists import NONE, Channels
from medcl.data.entries import stem_of, suffix_of, visible_files, walk
from medcl.data.name_marks import (
    ALONE,
    FOLDER,
    Marks,
    channel_of,
    label_like,
    label_marks,
    marks_of,
)
from medcl.data.nnunet import FOLDERS
from medcl.data.volume import SUFFIXES
from medcl.errors import MedclError
from medcl.files import is_dicom

DESCRIPTIONS = ("dataset.json", "pretrain_data.json", DESCRIPTION)
IMAGES = re.compile(r"images?|imgs?|scans?|volumes?", re.IGNORECASE)


def guess_sources(
    path: Path,
    channels: Channels = NONE,
    *,
    labels: bool = True,
    tell: Callable[[str], object] | None = None,
) -> list[Source]:
    """The layout of a folder or file nobody described; paths are seen from the working folder.

    Labels are named where there are some, objects of a DICOM tree that mark structures included.
    Files of several `channels` are known by nnU-Net's number or by the channel's name at the end
    of their names. `tell` is given a sentence on labels that are there and not named. Raises
    MedclError where `labels` are wanted and it is not clear whose they are.
    """
    if not path.exists():
        raise MedclError(f"{path}: no such file or folder; check --source")
    if path.name in DESCRIPTIONS:
        path = path.parent
    text, suffix = str(path), path.suffix.lower()
    if path.is_file() and suffix in (".yaml", ".yml"):
        raise MedclError(f"{path}: describes a dataset; give it as --settings")
    if path.is_file():
        table = suffix in (*TABLES, ".xlsx")  # which is told to be exported
        return [_source(layout="csv" if table else "files", path=text)]
    if (path / "pretrain_data.json").is_file():
        return [_source(layout="nnssl", path=text)]
    if (path / "dataset.json").is_file():
        return [_source(layout="msd", path=text)]
    if (path / DESCRIPTION).is_file() and (found := _guess_bids(path, channels, tell)):
        return found
    if pairs := _pairs(path):
        return [_guess_folders(path, images, maps, channels) for images, maps in pairs]
    if flat := _guess_beside(path, [path], channels):
        below = [folder for folder in sorted(path.iterdir()) if _holds_images(folder)]
        if labels and (maps := [folder for folder in below if FOLDER.fullmatch(folder.name)]):
            raise _unknown(path, str(maps[0]))
        more = [guess_sources(folder, channels, labels=labels, tell=tell) for folder in below]
        return [flat, *(source for found in more for source in found)]
    if any(_holds_dicom(files) for _, files in walk(path)):
        return [_source(layout="dicom", path=text, labels="*")]
    if nested := _guess_nested(path, channels):
        return [nested]
    if labels and (drawn := labels_among(path)):
        raise _unknown(path, min(drawn))
    return [_source(layout="files", path=text)]


def labels_among(root: Path) -> dict[str, str]:
    """The volumes below a folder that look like labels by their folder or name -> why."""
    volumes = [file for _, files in walk(root) for file in files if suffix_of(file.name)]
    stems = label_like({stem_of(file.name) for file in volumes})
    found = {}
    for file in volumes:
        folders = file.relative_to(root).parts[:-1]
        if maps := next((name for name in folders if FOLDER.fullmatch(name)), None):
            found[str(file)] = f"lies in '{maps}', a folder of labels by its name"
        elif stem_of(file.name) in stems:
            found[str(file)] = "is a label by its name"
    return found


def _unknown(path: Path, label: str) -> MedclError:
    return MedclError(
        f"{path}: holds labels, such as {label}, but which image each belongs to is not known; "
        "describe it in a dataset YAML, see config/README.md"
    )


def _source(**keys: str | dict[str, str] | None) -> Source:
    return Source.model_validate(keys)


def _guess_bids(
    path: Path, channels: Channels, tell: Callable[[str], object] | None
) -> list[Source]:
    """One source for each suffix; where each of the `channels` is a suffix, one for all."""
    kinds = kinds_of(path, tell)
    if len(channels.names) > 1 and set(channels.names) <= set(kinds):
        images = {name: name for name in channels.names}
        return [_source(layout="bids", path=str(path), images=images)]
    return [
        _source(layout="bids", path=str(path), images=kind, labels=labels)
        for kind, labels in kinds.items()
    ]


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The folders of images with those of their labels: nnU-Net's, or one of each."""
    names = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir()]
    if all(name in names for name in FOLDERS[0]):
        first, *others = FOLDERS
        return [first, *(pair for pair in others if _volumes(path / pair[0]))]
    images = [name for name in names if IMAGES.fullmatch(name)]
    labels = [name for name in names if ALONE.fullmatch(name)]
    if len(images) != 1 or len(labels) != 1:
        return []
    if any(_holds_dicom(files) for _, files in walk(path / images[0])):
        return []
    return [(images[0], labels[0])]


def _guess_folders(path: Path, images: str, maps: str, channels: Channels) -> Source:
    """`maps` need not be there; raises MedclError where no file of `images` is an image."""
    files, drawn = ([f.name for f in _volumes(path / folder)] for folder in (images, maps))
    if not files:
        if deeper := next((f for _, files in walk(path / images) for f in files if
                           suffix_of(f.name)), None):  # fmt: skip
            raise MedclError(
                f"{path / images}: images lie in folders of their own, such as {deeper}; describe "
                f"it in a dataset YAML, layout folders, images: {_nested_pattern(path, deeper)}"
            )
        raise MedclError(f"{path / images}: no images ({', '.join(SUFFIXES)}); check --source")
    stems = [stem_of(file) for file in files]
    marks = marks_of(stems, [stem_of(file) for file in drawn])
    labels = _pattern(f"{maps}/", marks.before_label, marks.behind_label, drawn)
    if marked := _channel_files(files, f"{images}/", channels):
        return _source(layout="folders", path=str(path), images=marked, labels=labels)
    channel = marks.behind_image
    if channel and (several := sorted(s for s in stems if channel_of(s) not in ("", channel))):
        raise MedclError(
            f"{path / images}: several files per case ({several[0]}); describe them in a dataset "
            'YAML, channels: ["0000", "0001"], layout folders, '
            f"images: {images}/{{subject}}_{{channel}}{_ending(files)}"
        )
    pattern = _pattern(f"{images}/", marks.before_image, channel, files)
    return _source(layout="folders", path=str(path), images=pattern, labels=labels)


def _nested_pattern(path: Path, image: Path) -> str:
    """images/p1/p1_ct.nii.gz -> images/{subject}/{subject}_ct.nii.gz."""
    images, subject, *parts = image.relative_to(path).parts
    *between, name = (part.replace(subject, "{subject}") for part in parts)
    return "/".join((images, "{subject}", *("*" for _ in between), name))


def _guess_beside(path: Path, folders: Sequence[Path], channels: Channels) -> Source | None:
    """Images and their labels in one folder, or images whose names end in a channel's.

    `folders`: `path` itself, or those in it, one for each subject.
    """
    below = "" if path in folders else "*/"
    files = [file.name for folder in folders for file in _volumes(folder)]
    marks = label_marks([stem_of(file) for file in files])
    drawn = [file for file in files if marks and _is_marked(file, marks)]
    images = [file for file in files if file not in set(drawn)]
    labels = _pattern(below, marks.before_label, marks.behind_label, drawn) if marks else None
    if marked := _channel_files(images, below, channels):
        return _source(layout="folders", path=str(path), images=marked, labels=labels)
    if marks is None:
        return None
    pattern = _pattern(below, marks.before_image, marks.behind_image, images)
    return _source(layout="folders", path=str(path), images=pattern, labels=labels)


def _guess_nested(path: Path, channels: Channels) -> Source | None:
    """A folder for each subject, with an image and its label."""
    deepest = {file.parent for _, files in walk(path) for file in files if suffix_of(file.name)}
    if not deepest or any(folder.parent != path for folder in deepest):
        return None
    names = Counter(file.name for folder in deepest for file in _volumes(folder))
    drawn = [name for name in names if ALONE.fullmatch(stem_of(name))]
    images = [name for name in names if name not in drawn]
    if len(drawn) == len(images) == 1:
        keys = {"images": f"{{subject}}/{images[0]}", "labels": f"{{subject}}/{drawn[0]}"}
        return _source(layout="folders", path=str(path), **keys)
    return _guess_beside(path, sorted(deepest), channels) if max(names.values()) == 1 else None


def _pattern(below: str, before: str, behind: str, files: list[str]) -> str | None:
    return f"{below}{before}{{subject}}{behind}{_ending(files)}" if files else None


def _is_marked(file: str, marks: Marks) -> bool:
    stem = stem_of(file)
    return stem.startswith(marks.before_label) and stem.endswith(marks.behind_label)


def _channel_files(files: list[str], below: str, channels: Channels) -> dict[str, str]:
    """The pattern of each channel's files, if every file carries the mark of one."""
    if len(channels.names) < 2 or not files:
        return {}
    stems = [stem_of(file) for file in files]
    numbers = tuple(f"_{number:04d}" for number in range(len(channels.names)))
    for marks in (numbers, tuple(f"_{name}" for name in channels.names)):
        if all(stem.endswith(marks) for stem in stems):
            return {
                name: f"{below}{{subject}}{mark}{_ending(files)}"
                for name, mark in zip(channels.names, marks, strict=True)
            }
    return {}


def _volumes(folder: Path) -> list[Path]:
    there = visible_files(folder) if folder.is_dir() else []
    return [file for file in there if suffix_of(file.name)]


def _ending(files: Iterable[str]) -> str:
    """The suffix of most."""
    return Counter(map(suffix_of, files)).most_common(1)[0][0]


def _holds_images(folder: Path) -> bool:
    seen = folder.is_dir() and not folder.name.startswith(".")
    return seen and any(
        _holds_dicom(files) or any(suffix_of(file.name) for file in files)
        for _, files in walk(folder)
    )


def _holds_dicom(files: list[Path]) -> bool:
    return any(file.suffix.lower() == ".dcm" or is_dicom(file) for file in files)
