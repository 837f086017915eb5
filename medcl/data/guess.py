"""The layout of a folder or file that nobody described."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from medcl.config import Source
from medcl.data.case_table import TABLES
from medcl.data.channel_lists import NONE, Channels
from medcl.data.dicom import is_dicom
from medcl.data.entries import stem_of, suffix_of, visible_files, walk
from medcl.data.volume import SUFFIXES
from medcl.errors import MedclError


def guess_sources(path: Path, *, labels: bool = True, channels: Channels = NONE) -> list[Source]:
    """The layout of a folder or file nobody described; paths are seen from the working folder.

    `labels`: use them, objects of a DICOM tree that mark structures included. Files of several
    `channels` are known by nnU-Net's number or by the channel's name at the end of their names.
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
            return [_guess_folders(path, images, maps, channels, labels=labels)]
    if marked := _channel_files(path, "", channels):
        return [_source(layout="folders", path=text, images=marked)]
    if any(_holds_dicom(files) for _, files in walk(path)):
        return [_source(layout="dicom", path=text, labels="*" if labels else None)]
    return [_source(layout="files", path=text)]


def _source(**keys: str | dict[str, str] | None) -> Source:
    return Source.model_validate(keys)


def _guess_folders(
    path: Path, images: str, maps: str, channels: Channels, *, labels: bool
) -> Source:
    endings = {
        folder: Counter(
            suffix for file in visible_files(path / folder) if (suffix := suffix_of(file.name))
        ).most_common(1)
        for folder in (images, maps)
    }
    if not endings[images]:
        raise MedclError(f"{path / images}: no images ({', '.join(SUFFIXES)}); check --source")
    ending = endings[images][0][0]
    names = [stem_of(file.name) for file in visible_files(path / images)]
    used = f"{maps}/{{subject}}{endings[maps][0][0]}" if labels and endings[maps] else None
    if marked := _channel_files(path / images, f"{images}/", channels):
        return _source(layout="folders", path=str(path), images=marked, labels=used)
    channel = _channel_mark(path / images, names)
    return _source(
        layout="folders",
        path=str(path),
        images=f"{images}/{{subject}}{channel}{ending}",
        labels=used,
    )


def _channel_files(folder: Path, below: str, channels: Channels) -> dict[str, str]:
    """The pattern of each channel's files, if every file carries the mark of one."""
    files = [file.name for file in visible_files(folder) if suffix_of(file.name)]
    if len(channels.names) < 2 or not files:
        return {}
    ending = Counter(map(suffix_of, files)).most_common(1)[0][0]
    stems = [stem_of(file) for file in files]
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


def _holds_dicom(files: list[Path]) -> bool:
    return any(file.suffix.lower() == ".dcm" or is_dicom(file) for file in files)
