"""Which files are the channels of one case.

Channels lie in one file each, found by a text for each of them, or are the volumes along the
fourth axis of one file. Files belong together by subject and visit (of DICOM: patient and study),
and by nothing else; a case that lacks a channel, or has two files for one, is a finding.
"""

from __future__ import annotations

import difflib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medcl.config import Dataset, Source
from medcl.data.checks import Finding
from medcl.data.entries import ChannelFile, Entry, case_name
from medcl.errors import MedclError


@dataclass(frozen=True)
class Channels:
    """The names a dataset gives to the channels of a case, and the one whose grid counts."""

    names: tuple[str, ...] = ()
    reference: str | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Channels:
        return cls(dataset.channel_names, dataset.reference)

    def place_of_reference(self, names: Sequence[str]) -> int:
        """Raises MedclError where the reference is none of `names`."""
        if self.reference is None:
            return 0
        if self.reference not in names:
            near = difflib.get_close_matches(self.reference, names, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise MedclError(
                f"reference: no channel '{self.reference}' among {', '.join(names)}{hint}"
            )
        return list(names).index(self.reference)


NONE = Channels()


def patterns(source: Source, channels: Channels, where: str) -> dict[str, str]:
    """What `images` says for each channel; nothing where one file holds all of them."""
    images = source.images
    if isinstance(images, dict) and set(images) == set(channels.names):
        return {name: images[name] for name in channels.names}
    if images is None or (isinstance(images, str) and "{channel}" not in images):
        return {}
    if isinstance(images, dict) or not channels.names:
        shown = ", ".join(channels.names) or "none"
        raise MedclError(
            f"{where}.images: '{images}' asks for channels, `channels` of the dataset names "
            f"{shown}; list them there"
        )
    return {name: images.replace("{channel}", name) for name in channels.names}


def numbers_of(names: Mapping[int, str]) -> dict[str, int]:
    """Name -> number; of a name that several channels have, `CT_0` and `CT_1`."""
    several = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {
        f"{name}_{number}" if name in several else name: number for number, name in names.items()
    }


def choose(
    there: Mapping[str, int], source: Source, channels: Channels, where: str
) -> dict[str, int]:
    """Name -> number of the channels to use, of those `there`: the asked ones, or all."""
    if source.channel is None and not channels.names:
        return dict(there)
    asked = [str(source.channel)] if source.channel is not None else list(channels.names)
    by_case = {name.casefold(): name for name in there}
    by_number = {str(number): name for name, number in there.items()}
    found = {}
    for text in asked:
        name = by_case.get(text.casefold()) or by_number.get(text)
        if name is None:
            key = f"{where}.channel" if source.channel is not None else "channels"
            shown = ", ".join(f"{number} {name}" for name, number in there.items())
            near = difflib.get_close_matches(text.casefold(), list(by_case), 1)
            hint = f"; did you mean '{by_case[near[0]]}'?" if near else ""
            raise MedclError(f"{key}: no channel '{text}' among {shown}{hint}")
        found[text if channels.names else name] = there[name]
    return found


def left_out(
    entry: Entry, there: Mapping[str, int], chosen: Mapping[str, int]
) -> Iterator[Finding]:
    """What tells that channels of the entry are not used, where some are not."""
    others = [name for name, number in there.items() if number not in chosen.values()]
    if others:
        shown = ", ".join(f"{number} {name}" for name, number in chosen.items())
        told = f"{entry.image}: channel {shown} of {len(there)}; {', '.join(others)} left out"
        yield Finding("channel_chosen", "info", told)


def joined(entry: Entry, files: Mapping[str, str | None], channels: Channels) -> Entry:
    """The entry with one file for each channel; None is a missing one."""
    names = tuple(files)
    missing = [name for name, path in files.items() if path is None]
    reference = channels.place_of_reference(names)
    there = tuple(ChannelFile(name, path) for name, path in files.items() if path is not None)
    image = files[names[reference]] or next((file.path for file in there), None)
    entry = replace(
        entry, image=image, channels=len(names), names=names, files=there, reference=reference
    )
    entry = entry.but(*_shared(entry.case, there, "name another file for one of them"))
    return entry.but(_missing(entry, missing)) if missing else entry


def by_visit(entry: Entry) -> Hashable:
    return (entry.subject, entry.visit)


def by_study(entry: Entry) -> Hashable:
    assert entry.series is not None
    return (entry.series.subject, entry.series.study)


def merge(
    lists: Mapping[str, Sequence[Entry]],
    channels: Channels,
    key: Callable[[Entry], Hashable] = by_visit,
) -> Iterator[Entry]:
    """One entry for each case out of a list of entries for each channel."""
    cases: dict[Hashable, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    others: list[tuple[str, Entry]] = []
    for name, entries in lists.items():
        for entry in entries:
            if entry.skipped or entry.image is None:
                others.append((name, entry))
            else:
                cases[key(entry)][name].append(entry)
    for found in cases.values():
        yield _merged(found, channels)
    told = {entry.image for found in cases.values() for item in found.values() for entry in item}
    for _, entry in others:
        if entry.image is None:  # a label alone, unless its image is the channel that is missing
            if key is not by_visit or by_visit(entry) not in cases:
                yield entry
        elif entry.image not in told:
            told.add(entry.image)
            yield entry


def _merged(found: Mapping[str, Sequence[Entry]], channels: Channels) -> Entry:
    names = channels.names
    reference = channels.place_of_reference(names)
    first = found.get(names[reference]) or next(iter(found.values()))
    entry = first[0]
    files = tuple(
        ChannelFile(name, str(found[name][0].image), found[name][0].series)
        for name in names
        if name in found
    )
    if names[reference] not in found:
        entry = replace(entry, label=None, parts=())
    findings = dict.fromkeys(f for name in names for e in found.get(name, ()) for f in e.findings)
    parts = [part for part in (entry.subject, entry.visit) if part]
    entry = replace(
        entry,
        case=case_name("_".join(parts)) if parts else entry.case,
        channels=len(names),
        names=names,
        files=files,
        reference=reference,
        findings=tuple(findings),
    )
    for name, entries in found.items():
        if len(entries) > 1:
            shown = ", ".join(str(item.image) for item in entries)
            told = f"{len(entries)} images fit channel {name} of {entry.case}: {shown}"
            remedy = "make what `images` says of this channel narrower"
            entry = entry.but(Finding("several_channels", "error", told, remedy))
        if name != names[reference] and entries[0].label is not None:
            told = f"{entries[0].label}: was drawn on {name}, not on {names[reference]}; not used"
            remedy = f"set `reference: {name}`, or remove it"
            entry = entry.but(Finding("label_of_other_channel", "warning", told, remedy))
    entry = entry.but(*_shared(entry.case, files, "make what `images` says of these narrower"))
    missing = [name for name in names if name not in found]
    return entry.but(_missing(entry, missing)) if missing else entry


def _shared(case: str, files: Sequence[ChannelFile], remedy: str) -> Iterator[Finding]:
    """A finding on every image that would fill several channels."""
    by_image: dict[Hashable, list[str]] = {}
    for file in files:  # volumes of one series lie in the same folder
        place = id(file.series) if file.series else os.path.realpath(file.path)
        by_image.setdefault(place, []).append(file.name)
    for names in by_image.values():
        if len(names) > 1:
            told = f"{case}: one image fits channels {' and '.join(names)}"
            yield Finding("channel_used_twice", "error", told, remedy)


def _missing(entry: Entry, names: Sequence[str]) -> Finding:
    beside = f" beside {entry.image}" if entry.image else ""
    return Finding(
        "missing_channel",
        "error",
        f"{entry.case}: no {' and no '.join(names)}{beside}",
        "supply it, exclude the case, or take the channel out of `channels`",
    )
