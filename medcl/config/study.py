"""The study: arms, label counts, replicates, and how each stage works."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from medcl.config import checks
from medcl.config.base import Count, Name, Positive, Section, Share
from medcl.config.dataset import Dataset
from medcl.config.protocol import Bound, Primary, Tune


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
    waive: list[Literal["duplicates", "near_duplicates"]] = Field(
        default_factory=list,
        description="findings of the audit that would stop the run and shall not, after a look at "
        "them; the report then begins with them: duplicates, the same voxels in two roles; "
        "near_duplicates, images of different subjects and roles that are nearly the same",
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
    probe_every: Annotated[int, Field(ge=0)] = Field(
        0,
        description="steps between probes of the feature maps, for the log and the report alone: "
        "fitted to labelled subjects of the pool and measured on others of them, never on "
        "validation or test subjects; 0: none",
    )
    probe: Literal["linear", "knn"] = Field(
        "linear", description="kind of these probes; knn takes long on large volumes"
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
    mode: Literal["full", "sawtooth", "linear", "knn"] = Field(
        "full",
        description="full: the whole network; sawtooth: first the decoder beside a frozen encoder, "
        "then the whole network; linear, knn: a probe of the frozen pretrained feature maps, by "
        "logistic regression or by nearest labelled voxels",
    )
    encoder_rate: Share = Field(
        1.0, description="learning rate of the encoder, as a share of the rest's; 0: frozen"
    )
    encoder_frozen: Share = Field(
        0.2, description="sawtooth: share of the steps with a frozen encoder"
    )
    mixup: Annotated[float, Field(ge=0)] = Field(
        0.0, description="mixes pairs of crops by shares from Beta(mixup, mixup); 0: none"
    )
    core_tuning: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of core-tuning's contrast of the classes; 0: none"
    )

    @model_validator(mode="after")
    def pairs_to_mix(self) -> Finetune:
        if self.mixup and self.batch < 2:
            raise ValueError("mixup mixes crops of a batch; give batch: 2 or more, or mixup: 0")
        return self

    def steps_for(self, labelled: int) -> int:
        """Steps of a run with `labelled` labelled subjects."""
        if isinstance(self.steps, int):
            return self.steps
        fitting = [count for count in self.steps if count <= labelled]
        return self.steps[max(fitting) if fitting else min(self.steps)]

    def changed_by(self, changes: Finetune | None) -> Finetune:
        """These settings with the keys that `changes` was given; the others stay."""
        if changes is None:
            return self
        return Finetune.model_validate(self.model_dump() | changes.model_dump(exclude_unset=True))


class Selftrain(Section):
    """Training anew with labels that the networks of another arm give to the pool."""

    of: Name = Field(
        description="arm whose fine-tuned network of the same labels and replicate labels the "
        "pool; this one starts from the same weights and is fine-tuned alike"
    )
    rounds: Count = Field(1, description="of labelling the pool and training anew")
    members: Count = Field(
        1, description="networks, each fine-tuned with a seed of its own, that label together"
    )
    confidence: Share = Field(
        0.8, description="mean probability a voxel's label needs to be learnt from"
    )
    keep: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of the pool's cases, those labelled most confidently"
    )
    share: Share = Field(0.5, description="of the crops, from the cases so labelled")


class Arm(Section):
    """One way of training; empty: from scratch. Its weights come from one place at most."""

    pretrain: Pretrain | None = Field(None, description="the pretext task")
    weights: Annotated[str, Field(pattern=r"^[^\s'\"]+$")] | None = Field(
        None, description="an encoder.pt or model.pt of your own to start from"
    )
    start: Name | None = Field(
        None, description="arm whose pretraining this one starts from, without another one"
    )
    cost_of: Name | None = Field(
        None,
        description="cost-matched control: from scratch, with the seconds of that arm's "
        "pretraining spent on further steps (on the CPU those of its cores, which other work on "
        "the machine does not stretch)",
    )
    selftrain: Selftrain | None = Field(
        None, description="train anew on labels another arm gives to the pool"
    )
    labelled: list[Count] | None = Field(
        None, min_length=1, description="numbers of labelled subjects of this arm; absent: all"
    )
    control: bool = Field(
        False,
        description="compare the other arms with this one too; always so without `pretrain` "
        "and `start`",
    )
    finetune: Finetune | None = Field(
        None, description="keys of `finetune` that differ in this arm; the report says which"
    )

    @property
    def from_scratch(self) -> bool:
        """Random weights and the study's own number of steps."""
        return not (self.pretrain or self.weights or self.base or self.cost_of)

    @property
    def base(self) -> str | None:
        """The arm whose weights this one starts from."""
        return self.selftrain.of if self.selftrain else self.start

    @field_serializer("finetune")
    def only_changes(self, changes: Finetune | None) -> dict[str, Any] | None:
        return None if changes is None else changes.model_dump(mode="json", exclude_unset=True)


class Predict(Section):
    """Sliding-window prediction."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="of neighbouring windows")
    batch: Count = Field(4, description="windows computed together")
    ensemble: bool = Field(
        False,
        description="also predict with all replicates of an arm together, by the mean of their "
        "probabilities: a table of its own in the report, outside every comparison",
    )
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
    pretrain_on: list[Dataset] = Field(
        default_factory=list,
        description="further datasets (files or their content) whose images join the unlabelled "
        "pool and nothing else; their labels are not read",
    )
    root: str | None = Field(None, description="overrides the dataset's root (--config root=PATH)")
    results: Annotated[str, Field(pattern=r"^[^\s'\"]+$")] = Field(
        "results", description="folder of the results; no spaces or quotes in its name"
    )
    split: Split = Field(default_factory=Split, description="who is held out")
    network: Network = Field(default_factory=Network, description="the network every arm shares")
    arms: dict[Name, Arm] = Field(min_length=1, description="name -> what makes the arm")
    labelled: list[Count] = Field(min_length=1, description="numbers of labelled subjects")
    replicates: Annotated[int, Field(ge=1, le=32)] = Field(
        5, description="labelled subsets, each with its own fine-tuning seed"
    )
    primary: Primary = Field(
        default_factory=Primary, description="what the study is made for; the rest is secondary"
    )
    bound: Bound | None = Field(None, description="an arm trained on all labels; absent: none")
    tune: Tune | None = Field(
        None, description="chooses each arm's learning rate; absent: `finetune.learning_rate`"
    )
    finetune: Finetune = Field(
        default_factory=Finetune, description="of every arm that does not say otherwise"
    )
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

    @property
    def control(self) -> str | None:
        """The arm every other is compared with; None for a lone arm.

        The first from scratch, one with the study's own fine-tuning before one with another.
        """
        scratch = [name for name, arm in self.arms.items() if arm.from_scratch]
        plain = [name for name in scratch if self.arms[name].finetune is None]
        return (plain or scratch)[0] if len(self.arms) > 1 and scratch else None

    def counts(self, arm: str) -> list[int]:
        """Numbers of labelled subjects an arm is run with."""
        own = self.arms[arm].labelled
        return [n for n in self.labelled if own is None or n in own]

    @model_validator(mode="after")
    def sections_fit(self) -> Study:
        checks.check(self)
        return self
