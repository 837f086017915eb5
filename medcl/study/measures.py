"""What a study is judged by: how each metric is named, scaled and read, and of which weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A metric of `metrics.csv`.

    A value times `scale` is shown in `unit`, with `digits` decimals; `better` is 1 where larger
    values are better and -1 where smaller ones are. `meaning`: for who does not know it.
    """

    key: str
    title: str
    unit: str
    scale: float
    digits: int
    better: int
    meaning: str

    @property
    def points(self) -> bool:
        return self.unit == "points"


DICE = Measure(
    "dice", "Dice", "points", 100.0, 1, 1,
    "overlap of prediction and reference, 100 points where they agree",
)  # fmt: skip
SECONDARY = (
    Measure(
        "hd95_mm", "HD95", "mm", 1.0, 1, -1,
        "distance that 95 % of the surface points of prediction and reference do not exceed",
    ),
    Measure("assd_mm", "ASSD", "mm", 1.0, 2, -1, "mean distance of the two surfaces"),
    Measure(
        "nsd", "NSD", "points", 100.0, 1, 1,
        "share of the two surfaces that agree within a tolerance, 100 points at best",
    ),
    Measure(
        "iou", "IoU", "points", 100.0, 1, 1,
        "shared part of prediction and reference, 100 points where they agree",
    ),
)  # fmt: skip
# The two sets of weights a fine-tuning keeps, in words.
WEIGHTS = {
    "last": "the weights after the last step",
    "selected": "the weights selected on the validation subjects",
}
MEASURES = {measure.key: measure for measure in (DICE, *SECONDARY)}
