"""Patients as the user's whole table has them, also where the study lost some of their slides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medcl.slides.table import Slide


def without_class(label_of: Mapping[str, str], kept: Iterable[Slide]) -> list[str]:
    """Labelled patients none of whose `kept` slides is of their class: of the slides that could
    show it none is left, and by the others they would count as of another class.
    """
    shown = {(one.patient, one.label) for one in kept}
    return sorted(p for p, label in label_of.items() if label and (p, label) not in shown)
