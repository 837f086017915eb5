"""What a study is judged by: how each metric is named, scaled and read, and of which weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A metric of `metrics.csv`.

    A value times `scale` is shown in `unit`, with `digits` decimals; `better` is 1 where larger
    values are better and -1 where smaller ones are.
    """

    key: str
    title: str
    unit: str
    scale: float
    digits: int
    better: int

    @property
    def points(self) -> bool:
        return self.unit == "points"


DICE = Measure("dice", "Dice", "points", 100.0, 1, 1)
SECONDARY = (
    Measure("hd95_mm", "HD95", "mm", 1.0, 1, -1),
    Measure("assd_mm", "ASSD", "mm", 1.0, 2, -1),
    Measure("nsd", "NSD", "points", 100.0, 1, 1),
    Measure("iou", "IoU", "points", 100.0, 1, 1),
)
# The two sets of weights a fine-tuning keeps, in words.
WEIGHTS = {
    "last": "the weights after the last step",
    "selected": "the weights selected on the validation subjects",
}
MEASURES = {measure.key: measure for measure in (DICE, *SECONDARY)}
