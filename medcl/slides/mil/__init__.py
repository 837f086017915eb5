"""Aggregators by name. A new one is one file here and one line below, or `file.py:Class`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcl.errors import MedclError
from medcl.options import check, resolve
from medcl.slides.mil.abmil import ABMIL
from medcl.slides.mil.base import Aggregator
from medcl.slides.mil.clam import CLAM
from medcl.slides.mil.dsmil import DSMIL
from medcl.slides.mil.ins import INS
from medcl.slides.mil.max import Max
from medcl.slides.mil.mean import Mean
from medcl.slides.mil.scmil import SCMIL
from medcl.slides.mil.transmil import TransMIL

AGGREGATORS: dict[str, type[Aggregator]] = {
    "abmil": ABMIL,
    "clam": CLAM,
    "dsmil": DSMIL,
    "ins": INS,
    "max": Max,
    "mean": Mean,
    "scmil": SCMIL,
    "transmil": TransMIL,
}


def kind_of(name: str) -> type[Aggregator]:
    """The class called `name`. Raises MedclError for a name that is none."""
    kind = resolve(AGGREGATORS, name, "aggregator")
    if not issubclass(kind, Aggregator):
        raise MedclError(
            f"aggregator {name}: {kind.__name__} is no medcl.slides.mil.base.Aggregator"
        )
    return kind


def build(
    options: Mapping[str, Any],
    *,
    features: int,
    classes: int,
    class_weights: Sequence[float] | None = None,
) -> Aggregator:
    """Build the aggregator called `options["name"]`; the other options are its keyword arguments.

    Raises MedclError for an unknown name or option and for a value out of range.
    """
    if "name" not in options:
        raise MedclError(f"aggregator.name: this key is required; one of {', '.join(AGGREGATORS)}")
    name = str(options["name"])
    kind: Any = kind_of(name)
    given = {key: value for key, value in options.items() if key != "name"}
    checked = check(kind, given, f"aggregator {name}")
    return kind(features, classes, class_weights, **checked)
