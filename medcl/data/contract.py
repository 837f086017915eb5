"""What a case must fulfil, and what became of each input: shared by both passes over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcl.config import Dataset, Dicom
from medcl.data.annotations import Drawing
from medcl.data.cases import Case
from medcl.data.checks import Finding
from medcl.data.dicom import DEFAULT
from medcl.data.entries import Entry
from medcl.data.labels import LabelRules
from medcl.data.structures import Naming


@dataclass(frozen=True)
class Rules:
    """What a case is judged by. `volumes`: where converted files go, None to write none.

    `channels` maps a channel to its modality.
    """

    volumes: Path | None
    modality: str = "other"
    label_rules: LabelRules = field(default_factory=LabelRules)
    labels_required: bool = False
    dicom: Dicom = DEFAULT
    channels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset, volumes: Path | None, dicom: Dicom) -> Rules:
        drawing = Drawing(dataset.fraction, resample=dataset.label_grid == "any")
        required = dataset.labels == "required"
        rules = LabelRules(Naming.of(dataset), drawing)
        channels = {name: dataset.modality_of(name) for name in dataset.channel_names}
        return cls(volumes, dataset.modality, rules, required, dicom, channels)


@dataclass(frozen=True)
class Outcome:
    """What became of one entry; `case` only where it was accepted.

    `values` are those of its label, `range` the lowest and the highest of its image; `thumbnail`
    holds the bytes of one, in base64.
    """

    entry: Entry
    status: str
    findings: tuple[Finding, ...]
    case: Case | None = None
    values: tuple[int, ...] = ()
    range: tuple[float, float] | None = None
    thumbnail: str | None = None

    def record(self) -> dict[str, Any]:
        """The row of ingest.json."""
        subject = self.case.subject if self.case else self.entry.subject
        record = {
            "dataset": self.entry.dataset,
            "case": self.entry.case,
            "subject": subject or self.entry.case,
            "status": self.status,
            "findings": [finding.to_dict() for finding in self.findings],
            "image": self.case.image if self.case else self.entry.image,
            "label": self.case.label if self.case else self.entry.label,
            "source": self.entry.source,
        }
        return record | ({"series": self.entry.image} if self.entry.series else {})


def wrong(findings: Sequence[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def add(findings: list[Finding], more: Iterable[Finding]) -> None:
    """Add what has not been found before: the voxels are judged with what the headers told."""
    findings += [finding for finding in more if finding not in findings]


def failed(entry: Entry, error: Exception) -> Finding:
    """An oversight of ours, which stops no other case."""
    told = f"{entry.image}: {type(error).__name__}: {error}"
    return Finding("failed", "error", told, "report this, and exclude the case")
