"""Datasets used together: one is labelled and judged, the images of the others are looked at only.

What joins from another dataset goes to the unlabelled pool: its labels are left behind before any
is opened. Its cases and subjects carry its name, `other.case` and `other/subject`, so that two
people of one number stay two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medcl.config import Dataset, Dicom
from medcl.data.cases import Case
from medcl.data.channel_lists import Channels
from medcl.data.entries import Entry, person_of, with_aside
from medcl.data.sources import label_files, list_entries, without_labels
from medcl.data.structures import Naming
from medcl.errors import MedclError

OF_LABELS = {"label_without_image", "several_labels", "label_of_other_channel"}


def list_dataset(dataset: Dataset, dicom: Dicom) -> list[Entry]:
    """Every input of the labelled dataset."""
    channels, naming = Channels.of(dataset), Naming.of(dataset)
    found = list_entries(dataset.sources, dataset.root, dicom, channels, naming)
    return [replace(entry, dataset=dataset.name) for entry in found]


def images_of(dataset: Dataset, dicom: Dicom, channels: Channels) -> list[Entry]:
    """Every image of a dataset; the first has its labels `aside`."""
    found = list_entries(
        dataset.sources, dataset.root, dicom, channels, Naming.of(dataset), labels=False
    )
    images = (
        replace(
            entry,
            label=None,
            parts=(),
            findings=tuple(f for f in entry.findings if f.code not in OF_LABELS),
        )
        for entry in found
        if entry.image is not None or not any(f.code in OF_LABELS for f in entry.findings)
    )
    return list(with_aside(images, label_files(found)))


def joining(dataset: Dataset, images: Sequence[Entry], others: Sequence[Entry] = ()) -> list[Entry]:
    """The images of a dataset that is pretrained on, told apart by the dataset's name.

    The labels of the `others`, entries of the datasets used with it, are none of them.
    """
    name = dataset.name
    joined = []
    for entry in without_labels(images, label_files(others)):
        subject, guessed = person_of(entry)
        case = f"{name}.{entry.case}"
        named = replace(entry, case=case, subject=f"{name}/{subject}", dataset=name, aside=())
        joined.append(named.but(*guessed))
    return joined


def check_alike(name: str, cases: Sequence[Case]) -> None:
    """Raise MedclError where another dataset's cases have other channels than those of `name`."""
    ours = {_kind(case) for case in cases if case.dataset == name}
    for case in cases:
        if ours and case.dataset != name and _kind(case) not in ours:
            raise MedclError(
                f"pretrain_on: '{case.dataset}' has {_told(_kind(case))} (case {case.case}), "
                f"'{name}' {' or '.join(map(_told, sorted(ours)))}; choose the same with `channels`"
            )


def _kind(case: Case) -> tuple[int, tuple[str, ...]]:
    return case.channels, case.channel_names


def _told(kind: tuple[int, tuple[str, ...]]) -> str:
    count, names = kind
    channels = f"{count} channel{'s' * (count != 1)}"
    return f"{channels} ({', '.join(names)})" if names else channels
