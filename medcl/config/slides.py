"""A study of whole-slide images: slides, folds of patients, encoders of tiles, aggregators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medcl.config.base import Count, Name, Positive, Section, Share
from medcl.config.checks import Problem, refuse
from medcl.config.study import Options, Training

FILE = r"^[^\s'\"]+$"


class SlidePhantom(Section):
    """The generated slides of the default slide study."""

    patients: int = Field(24, ge=2, description="patients; half of them have a tumour")
    slides_per_patient: Count = Field(2, description="slides of each")
    broken: bool = Field(True, description="add three deliberately broken slides")
    seed: int = Field(0, description="seed of everything drawn")


class TissueKeys(Section):
    """How tissue is found."""

    microns_per_pixel: Positive = Field(8.0, description="side of a pixel of the mask")
    method: Literal["otsu", "fixed"] = Field(
        "otsu", description="of the threshold; fixed: `saturation` is the threshold itself"
    )
    saturation: Share = Field(0.04, description="least threshold of the saturation")
    saturation_most: Share = Field(0.12, description="greatest threshold that Otsu's may have")
    black: Share = Field(0.2, description="brightest channel below which a pixel is no tissue")
    pen: bool = Field(True, description="remove marker ink")
    sharpness: Annotated[float, Field(ge=0)] = Field(
        2.0, description="least variance of the Laplacian; 0 keeps smooth areas"
    )
    closing_um: Annotated[float, Field(ge=0)] = Field(
        32.0, description="gaps up to this width in micrometres are closed"
    )
    hole_mm2: Annotated[float, Field(ge=0)] = Field(0.01, description="smaller holes are filled")
    piece_mm2: Annotated[float, Field(ge=0)] = Field(0.01, description="smaller pieces are removed")


class TileKeys(Section):
    """Which tiles a slide is cut into."""

    microns_per_pixel: Positive | None = Field(
        0.5, description="side of a pixel of a tile; null: the slide's own"
    )
    tile: Count = Field(256, description="pixels along a side")
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of a side")
    least_tissue: Share = Field(0.5, description="share of a tile that has to be tissue")
    allow_upsampling: bool = Field(
        False, description="accept slides more than 1.1 times coarser than asked for"
    )


class SlideDataset(Section):
    """One file in `config/datasets/` that describes slides."""

    name: Name = Field(description="name of the dataset")
    root: str = Field(".", description="folder of the table, seen from the working folder")
    table: str = Field(
        "slides.csv",
        description="CSV with the columns slide, path, patient, label (may be empty) and, where "
        "wanted, site, microns_per_pixel, mask (PNG or GeoJSON of the tissue) and truth (PNG of "
        "the whole slide); paths are relative to the root",
    )
    classes: list[str] = Field(
        min_length=2, description="labels in the table; of two, the second is the positive one"
    )
    truth: Count = Field(
        1, description="value in the truth images of what the last class looks for"
    )
    phantom: SlidePhantom | None = Field(None, description="draw the slides instead")
    tissue: TissueKeys = Field(default_factory=TissueKeys, description="how tissue is found")
    tiles: TileKeys = Field(default_factory=TileKeys, description="how slides are cut")

    @field_validator("classes")
    @classmethod
    def classes_differ(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) != len(classes):
            raise ValueError("a class stands twice")
        return classes


class Folds(Section):
    """Who is tested by whom."""

    count: int = Field(
        4,
        ge=3,
        description="each fold is tested once, by models that saw neither it nor the next one, "
        "whose patients choose the threshold of a study of two classes",
    )
    by: Literal["patient", "site"] = Field(
        "patient", description="site: all patients of a site stay together"
    )
    seed: int = Field(0, ge=0, description="seed of the folds")


class TilePretrain(Training):
    """Contrast of tiles."""

    batch: int = Field(64, ge=2, description="tiles of one step")
    objective: Options = Field(description="`name` and the options of a pretext task for tiles")
    steps: Count = Field(description="optimiser steps")
    tiles_per_slide: Count = Field(1000, description="tiles of a slide that are used at most")
    patients: Literal["training", "all"] = Field(
        "training",
        description="all: tiles of validation and test patients too, never their labels; the "
        "report says so",
    )


class SlideEncoder(Section):
    """Where the weights of an encoder of tiles come from; empty: they are random."""

    pretrain: TilePretrain | None = Field(None, description="contrast of tiles")
    weights: Annotated[str, Field(pattern=FILE)] | None = Field(
        None, description="an encoder.pt of `slides-pretrain` of your own"
    )
    waive: list[Literal["test_slides"]] = Field(
        default_factory=list,
        description="findings about `weights` that would stop the run and shall not; the report "
        "then begins with them: test_slides, they were pretrained on slides of test patients",
    )
    seeds: Count = Field(1, description="trainings of this encoder, shared by the runs in turn")

    @model_validator(mode="after")
    def one_origin(self) -> SlideEncoder:
        if self.pretrain and self.weights:
            raise ValueError("gives both `pretrain` and `weights`; choose one")
        if self.waive and not self.weights:
            raise ValueError("`waive` is about `weights`, and none are given")
        return self

    @property
    def by_fold(self) -> bool:
        """Whether each fold needs an encoder of its own."""
        return self.pretrain is not None and self.pretrain.patients == "training"


class Mil(Training):
    """Training of an aggregator."""

    batch: Count = Field(8, description="bags of one step")
    steps: Count = Field(300, description="optimiser steps; the last weights are used")
    cap: Count = Field(4096, description="tiles of a bag in training")
    chunk: Count = Field(4096, description="tiles of a bag computed together in prediction")
    class_weights: bool = Field(
        True,
        description="every class counts equally: by its weight in the loss, but for aggregators "
        "whose batches hold all classes equally often",
    )


class SlidePrimary(Section):
    """The comparison the study is made for; absent names are the first that fit."""

    encoder: Name | None = Field(None, description="encoder asked about")
    control: Name | None = Field(None, description="encoder it is compared with")
    aggregator: Name | None = Field(None, description="aggregator of both")


class SlideReport(Section):
    """What the report shows."""

    title: str | None = Field(None, description="heading; the study's name if absent")
    identifiers: Literal["hashed", "keep"] = Field("hashed", description="names of slides")
    heatmaps: int = Field(6, ge=0, description="heat maps shown")


class SlideStudy(Section):
    """The whole configuration of a study of slides."""

    kind: Literal["slides"] = Field(description="`slides`")
    study: Name = Field(description="name; results go to results/<study>")
    dataset: SlideDataset = Field(description="a file in config/datasets, or its content")
    root: str | None = Field(None, description="overrides the dataset's root")
    results: Annotated[str, Field(pattern=FILE)] = Field(
        "results", description="folder of the results; no spaces or quotes in its name"
    )
    folds: Folds = Field(default_factory=Folds, description="folds of patients")
    seeds: Annotated[int, Field(ge=1, le=32)] = Field(
        5, description="trainings of every aggregator in every fold; intervals need 5"
    )
    encoder: Options = Field(
        default_factory=lambda: Options(name="narrow"), description="network of all encoders"
    )
    encoders: dict[Name, SlideEncoder] = Field(
        min_length=1, description="name -> where its weights come from"
    )
    aggregators: dict[Name, Options] = Field(
        min_length=1, description="name -> `name` (or file.py:Class) and options"
    )
    mil: Mil = Field(default_factory=Mil, description="training of the aggregators")
    primary: SlidePrimary = Field(
        default_factory=SlidePrimary, description="what the study is made for"
    )
    report: SlideReport = Field(default_factory=SlideReport, description="report")

    @field_validator("encoders", mode="before")
    @classmethod
    def empty_encoder(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {k: v if v is not None else {} for k, v in value.items()}

    @model_validator(mode="after")
    def sections_fit(self) -> SlideStudy:
        refuse("SlideStudy", [*_primary(self), *_trainings(self)])
        return self

    @property
    def asked(self) -> str:
        """The encoder the study asks about: the first with trained weights, else the first."""
        trained = [name for name, one in self.encoders.items() if one.pretrain or one.weights]
        return self.primary.encoder or [*trained, *self.encoders][0]

    @property
    def control(self) -> str | None:
        """The encoder it is compared with: the first random one, else the first other one."""
        if self.primary.control:
            return self.primary.control
        others = [name for name in self.encoders if name != self.asked]
        plain = [n for n in others if not (self.encoders[n].pretrain or self.encoders[n].weights)]
        return next(iter([*plain, *others]), None)

    @property
    def aggregator(self) -> str:
        return self.primary.aggregator or next(iter(self.aggregators))


def _primary(study: SlideStudy) -> Iterator[Problem]:
    encoders, aggregators = list(study.encoders), list(study.aggregators)
    named = {"encoder": encoders, "control": encoders, "aggregator": aggregators}
    for key, known in named.items():
        name = getattr(study.primary, key)
        if name is not None and name not in known:
            yield ("primary", key), f"no '{name}'; one of {', '.join(known)}", name
    if study.primary.encoder and study.primary.encoder == study.primary.control:
        yield ("primary",), "an encoder cannot be compared with itself", study.primary.encoder


def _trainings(study: SlideStudy) -> Iterator[Problem]:
    """Aggregators that `mil` cannot train: told before any encoder is trained for them."""
    steps, batch, classes = study.mil.steps, study.mil.batch, len(study.dataset.classes)
    for name, options in study.aggregators.items():
        given = (options.model_extra or {}).get("warm_steps")
        warm = given if isinstance(given, int) else 1  # of `null`, half of the steps and at least 1
        if options.name == "ins" and warm >= steps:
            yield (
                ("aggregators", name, "warm_steps"),
                f"{warm} of the {steps} steps of `mil.steps` teach bag labels, which leaves none "
                "for pseudo-labels; train longer, or lower it",
                given,
            )
        if options.name == "scmil" and batch < 2 * classes:
            yield (
                ("mil", "batch"),
                f"{batch} bags a step, and aggregators.{name} needs {2 * classes}: two of each of "
                f"{classes} classes",
                batch,
            )
