"""What file names have beside the subject: the mark of a label, or of a channel.

All names are stems, without the suffix of a volume.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Container, Iterable
from typing import NamedTuple

WORDS = r"(?:manual_?)?(?:segm?s?|segmentations?|labels?|labelmaps?|masks?|gt|ground_?truth)"
BEHIND = re.compile(rf"[_.-]{WORDS}$", re.IGNORECASE)  # p1_seg
BEFORE = re.compile(rf"{WORDS}[_.-]?(?=\d)", re.IGNORECASE)  # segmentation-12
ALONE = re.compile(WORDS, re.IGNORECASE)
NUMBER = re.compile(r"[_.-]?\d+$")
FOLDER = re.compile(rf"{WORDS}(?:Tr|Ts)?", re.IGNORECASE)
CHANNEL = re.compile(r"(.+)(_\d{4})")  # nnU-Net's number of a channel


class Marks(NamedTuple):
    """What stands around the subject in most names."""

    before_image: str = ""
    behind_image: str = ""
    before_label: str = ""
    behind_label: str = ""


def marks_of(images: Collection[str], labels: Collection[str]) -> Marks:
    """The marks of images and labels that lie in folders of their own.

    A number `_0000` is nnU-Net's channel only where labels lack it, or, without labels to tell,
    where each subject has it.
    """
    if found := _behind(images, labels):
        return Marks(behind_image=found[0], behind_label=found[1])
    before = [_front(names) for names in (images, labels)]
    bare = ([name.removeprefix(before[0]) for name in images],
            [name.removeprefix(before[1]) for name in labels])  # fmt: skip
    if found := _behind(*bare):
        return Marks(before[0], found[0], before[1], found[1])
    channels = _first_channels(images)
    everywhere = len(images) > 0 and all(map(CHANNEL.fullmatch, images))
    if set(channels.values()) != {"_0000"} or not everywhere:
        return Marks()
    one_of_many = len(channels) == 1 and len(images) > 1  # subjects 0000, 0001 and so on
    return Marks() if one_of_many else Marks(behind_image="_0000")


def channel_of(stem: str) -> str:
    """`_0001` of p_0001, or nothing."""
    match = CHANNEL.fullmatch(stem)
    return match[2] if match else ""


def label_marks(names: Collection[str]) -> Marks | None:
    """The marks of labels that lie among their images; None where no name is that of one.

    A mark behind images, as in p1_ct and p1_seg, is known only if all images of labels have it.
    """
    behind = Counter(found[0] for name in names if (found := BEHIND.search(name)))
    before = Counter(found[0] for name in names if (found := BEFORE.match(name)))
    for mark, _ in behind.most_common(1):
        subjects = {name.removesuffix(mark) for name in names if name.endswith(mark)}
        images = [name for name in names if not name.endswith(mark)]
        rests = _rests(images, subjects)
        if rests or any(_longest_beginning(subject, set(images)) for subject in subjects):
            return Marks(behind_image=rests.pop() if len(rests) == 1 else "", behind_label=mark)
    for mark, _ in before.most_common(1):
        subjects = {name.removeprefix(mark) for name in names if name.startswith(mark)}
        images = [name for name in names if not name.startswith(mark)]
        front = _front(images)
        if subjects & {image.removeprefix(front) for image in images}:
            return Marks(before_image=front, before_label=mark)
    return None


def label_like(names: Collection[str]) -> set[str]:
    """The names that are those of labels by any mark, each beside the name of an image.

    `p1_seg`, or `p1_seg2`, is one beside p1, p1_ct or p1_fu; without any of these it may be the
    name of an image.
    """
    behind = {name: BEHIND.search(NUMBER.sub("", name)) for name in names}
    images = {name for name in names if not (behind[name] or BEFORE.match(name))}
    begun = {name[: match.start()] for name in images for match in re.finditer(r"[_.-]", name)}
    begun |= images
    numbers = {re.sub(r"^\D*", "", name) for name in images}
    found = set()
    for name in names:
        if mark := behind[name]:
            subject = name[: mark.start()]
            like = subject in begun or bool(_longest_beginning(subject, images))
        else:
            before = BEFORE.match(name)
            like = before is not None and name[before.end() :] in numbers
        if like or ALONE.fullmatch(name):
            found.add(name)
    return found


def _behind(images: Collection[str], labels: Collection[str]) -> tuple[str, str] | None:
    """What most have behind the name they share; None where no label shares one."""
    there, channels = set(images), _first_channels(images)
    found: Counter[tuple[str, str]] = Counter()
    for label in sorted(labels):
        if label in there:
            found["", ""] += 1
        elif label in channels:
            found[channels[label], ""] += 1
        elif image := _longest_beginning(label, there):
            found["", label.removeprefix(image)] += 1
    return found.most_common(1)[0][0] if found else None


def _first_channels(images: Iterable[str]) -> dict[str, str]:
    """Subject -> the first of its channels."""
    first: dict[str, str] = {}
    for match in filter(None, map(CHANNEL.fullmatch, sorted(images))):
        first.setdefault(match[1], match[2])
    return first


def _front(names: Collection[str]) -> str:
    """What all names have before their number."""
    found = {match[0] if (match := re.match(r"\D*(?=\d)", name)) else "" for name in names}
    return found.pop() if len(found) == 1 else ""


def _rests(images: Iterable[str], subjects: Container[str]) -> set[str]:
    """What names of images have behind a subject: nothing, `_ct` of p1_ct, or several."""
    rests = set()
    for image in images:
        more = re.fullmatch(r"(.+)([_.-][A-Za-z0-9]+)", image)
        if image in subjects:
            rests.add("")
        elif more and more[1] in subjects:
            rests.add(more[2])
    return rests


def _longest_beginning(name: str, images: Container[str]) -> str:
    """The image behind whose name this one goes on, p1 of p1_liver; or nothing."""
    ends = [match.start() for match in re.finditer(r"[_.-]", name)]
    return next((name[:end] for end in reversed(ends) if name[:end] in images), "")
