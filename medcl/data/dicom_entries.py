"""The volumes of a tree of DICOM files as inputs of a dataset."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medcl.config import Dicom, Source
from medcl.data.channel_lists import Channels, by_study, merge, patterns
from medcl.data.checks import Finding
from medcl.data.dicom_tree import holds_dicom, read_tree
from medcl.data.entries import Entry, case_name, skipped_file, suffix_of, unlisted, walk
from medcl.data.pairing import Pairing, pair
from medcl.data.series import SKIPPED, read_files
from medcl.errors import MedclError


def dicom_entries(
    source: Source, path: Path, where: str, options: Dicom, channels: Channels
) -> Iterator[Entry]:
    """Every volume of every series in the tree; objects that mark structures join their series.

    With channels, the series of one study, each found by what `images` says of its folder, its
    description or its case name, which tells volumes of one series apart. Headers are read once.
    """
    texts = patterns(source, channels, where)
    if len(channels.names) > 1 and not texts:
        raise MedclError(
            f"{where}.images: say for each of the channels {', '.join(channels.names)} which "
            "folder or SeriesDescription its series has, such as {T2: '*t2*'}"
        )
    if not texts:
        for entry in _series(source, path, options):
            yield replace(entry, names=channels.names)
        return
    lists: dict[str, list[Entry]] = {name: [] for name in channels.names}
    for entry in _series(source.model_copy(update={"images": None}), path, options):
        if entry.series is None or entry.skipped:
            yield entry
            continue
        names = [name for name, text in texts.items() if _is_called(entry, path, text)]
        for name in names:
            lists[name].append(entry)
        if not names:
            yield skipped_file(Path(str(entry.image)), source)
    yield from merge(lists, channels, by_study)


def _is_called(entry: Entry, root: Path, text: str) -> bool:
    """Whether the folder, the description or the case name of a series fits, in any letter case."""
    assert entry.series is not None
    folder = Path(str(entry.image)).relative_to(root).as_posix()
    called = (folder, entry.series.description, entry.case)
    return any(fnmatch.fnmatchcase(name.casefold(), text.casefold()) for name in called)


def _series(source: Source, path: Path, options: Dicom) -> Iterator[Entry]:
    volumes: list[Path] = []
    tree = {}
    refused: list[OSError] = []
    for folder, files in walk(path, refused.append):
        volumes += [file for file in files if suffix_of(file.name)]
        tree[folder] = read_files([file for file in files if not suffix_of(file.name)])
    pairing = pair(tree.values(), path, source.labels) if source.labels else Pairing()
    chosen = {}
    for folder, found in tree.items():
        found = found.without(pairing.files)
        relative = folder.relative_to(path).as_posix()
        if not source.images or fnmatch.fnmatchcase(relative, str(source.images)):
            chosen[folder] = found
        elif holds_dicom(found):
            yield skipped_file(folder, source)
    inputs = read_tree(path, chosen, options)
    of_series = defaultdict(list)
    for item in inputs:
        if item.series is not None:
            of_series[item.uid].append(item.series)
    for item in inputs:
        entry = Entry(item.name, str(item.folder), source.path, series=item.series)
        here = of_series[item.uid] if item.series else []
        number = here.index(item.series) if item.series else 0
        entry = replace(entry, **pairing.label_of(item.uid, here, number))
        if item.problem is None:
            yield entry
        elif item.problem.code in SKIPPED:
            told = replace(Finding.of(item.problem), severity="info")
            yield entry.but(told, skipped=True)
        else:
            yield entry.but(Finding.of(item.problem))
    for file, finding in pairing.unmatched:
        name = case_name(file.relative_to(path).with_suffix("").as_posix())
        yield Entry(name, None, source.path, str(file)).but(finding)
    for file in sorted(volumes):
        yield skipped_file(file, source)
    yield from (unlisted(error, source) for error in refused)
