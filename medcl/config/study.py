"""The study: arms, label counts, replicates, and how each stage works."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medcl.config.base import Count, Name, Positive, Section, Share
from medcl.config.dataset import Dataset


class Split(Section):
    """Who is held out. Counts are subjects."""

    test: Count | list[str] = Field(
        5,
        description="test subjects: number or names; no share, because it would move when "
        "labels come or go",
    )
    validation: Count | list[str] = Field(
        4, description="validation subjects; a run with n labels uses the first max(2, n) of them"
    )
    seed: int = Field(0, description="seed of the split and of the orders of labelled subjects")
    waive: list[Literal["near_duplicates"]] = Field(
        default_factory=list,
        description="findings of the audit that would stop the run and shall not, after a look at "
        "them; the report then begins with them: near_duplicates, images of different subjects "
        "and roles that are nearly the same",
    )


class Training(Section):
    """What every training has in common."""

    batch: Count = Field(2, description="items of one step, over all devices")
    accumulate: Count = Field(1, description="parts a batch is computed in")
    learning_rate: Positive = Field(1e-3, description="peak, after the warm-up")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-2, description="AdamW's")
    warmup: Share = Field(0.1, description="share of the steps with a rising learning rate")
    clip: Positive = Field(12.0, description="largest norm of the gradient")
    precision: Literal["auto", "float32", "bf16"] = Field("auto", description="auto: bf16 on a GPU")
    save_every_s: Positive = Field(60.0, description="seconds between checkpoints")


class Options(BaseModel):
    """A name and the keyword arguments of the constructor it stands for."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="a registered name, or file.py:Class")

    @model_validator(mode="before")
    @classmethod
    def name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Network(Options):
    """The network every arm shares; further keys are the options of that network."""

    name: str = Field("unet", description="an entry of NETWORKS, or file.py:Class")


class Phase(Section):
    """A pretext task that goes on with the network another one trained."""

    objective: Options = Field(
        description="as `objective`; its parts of the network are trained, the others stay"
    )
    steps: Count = Field(description="optimiser steps")
    learning_rate: Positive | None = Field(None, description="peak; the first phase's if absent")


class Pretrain(Training):
    """One pretext task, or several one after the other."""

    objective: Options = Field(
        description="`name` (or file.py:Class) and the options of that objective"
    )
    steps: Count = Field(description="optimiser steps")
    then: list[Phase] = Field(
        default_factory=list, description="further phases, each on the network of the one before"
    )
    seeds: Count = Field(
        1, description="pretrainings with different seeds, assigned to replicates in turn"
    )


class Finetune(Training):
    """Supervised training on the labelled subset."""

    steps: Count | Annotated[dict[Count, Count], Field(min_length=1)] = Field(
        300, description="optimiser steps; or a mapping: from this many labels on -> steps"
    )
    foreground: Share = Field(
        0.67, description="share of crops centred on a voxel of a drawn class"
    )
    foreground_weight: Positive = Field(
        5.0, description="weight of every class but the background in the cross-entropy"
    )
    validate_every: Count = Field(100, description="steps between validations")
    augment: bool = Field(True, description="spatial and intensity augmentation")

    def steps_for(self, labelled: int) -> int:
        """Steps of a run with `labelled` labelled subjects."""
        if isinstance(self.steps, int):
            return self.steps
        fitting = [count for count in self.steps if count <= labelled]
        return self.steps[max(fitting) if fitting else min(self.steps)]


class Arm(Section):
    """One way of training; without `pretrain` it starts from scratch."""

    pretrain: Pretrain | None = Field(None, description="the pretext task; absent: from scratch")


class Predict(Section):
    """Sliding-window prediction."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="of neighbouring windows")
    batch: Count = Field(4, description="windows computed together")
    dicom_seg: bool = Field(
        False,
        description="of test cases that came as DICOM series, also write each prediction as a "
        "DICOM-SEG object that refers to the series, `<case>.seg.dcm` beside `<case>.nii.gz`",
    )


class Evaluate(Section):
    """Metrics on the original grid."""

    nsd_tolerance_mm: Positive = Field(
        2.0, description="tolerance of the normalised surface distance"
    )


class Report(Section):
    """What the report shows."""

    title: str | None = Field(None, description="heading; the study's name if absent")
    identifiers: Literal["hashed", "keep"] = Field("hashed", description="case names in the report")
    overlays: int = Field(3, ge=0, description="worst and best cases shown as pictures")


class Study(Section):
    """The whole configuration of a study."""

    study: Name = Field(description="name; results go to results/<study>")
    dataset: Dataset = Field(description="a file in config/datasets, or its content")
    root: str | None = Field(None, description="overrides the dataset's root (--config root=PATH)")
    results: Annotated[str, Field(pattern=r"^[^\s'\"]+$")] = Field(
        "results", description="folder of the results; no spaces or quotes in its name"
    )
    split: Split = Field(default_factory=Split, description="who is held out")
    network: Network = Field(default_factory=Network, description="the network every arm shares")
    arms: dict[Name, Arm] = Field(
        min_length=1, description="name -> what the arm does before fine-tuning"
    )
    labelled: list[Count] = Field(min_length=1, description="numbers of labelled subjects")
    replicates: Annotated[int, Field(ge=1, le=32)] = Field(
        5, description="labelled subsets, each with its own fine-tuning seed"
    )
    finetune: Finetune = Field(default_factory=Finetune, description="the same for every arm")
    predict: Predict = Field(default_factory=Predict, description="sliding window")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="metrics")
    report: Report = Field(default_factory=Report, description="report")

    @field_validator("arms", mode="before")
    @classmethod
    def empty_arm(cls, value: Any) -> Any:
        return (
            {k: v if v is not None else {} for k, v in value.items()}
            if isinstance(value, dict)
            else value
        )

    @field_validator("labelled")
    @classmethod
    def sorted_once(cls, labelled: list[int]) -> list[int]:
        if len(set(labelled)) != len(labelled):
            raise ValueError("a number of labelled subjects stands twice")
        return sorted(labelled)

    @model_validator(mode="after")
    def has_control(self) -> Study:
        if len(self.arms) > 1 and all(arm.pretrain for arm in self.arms.values()):
            raise ValueError(
                "no arm starts from scratch; add `scratch: {}` to `arms` as the control"
            )
        return self
