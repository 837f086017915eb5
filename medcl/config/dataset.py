"""The dataset: where its files come from, and what they mean."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from medcl.config.base import Count, Modality, Name, Section, Share, Triple, Voxels
from medcl.config.messages import suggest


class Source(Section):
    """One place files come from."""

    layout: Literal["files", "folders", "csv", "msd", "nnunet", "bids", "nnssl", "dicom"] = Field(
        description="files: every image of a folder is a case; folders: patterns with {subject} "
        "and optionally {visit}; csv: a table with columns subject, image, label; msd: a folder "
        "with dataset.json; nnunet: nnU-Net's raw folder; bids: a BIDS dataset; nnssl: a "
        "pretrain_data.json; dicom: a tree with series in any order, each volume a case"
    )
    path: str = Field(".", description="folder or table, relative to the dataset's root")
    images: str | dict[Name, str] | None = Field(
        None,
        description="folders: pattern of the images; dicom: pattern of the series' folders (`*` "
        "crosses folders), all if absent; bids: suffix, entities before it, such as "
        "acq-highres_T1w; nnssl: pattern of the `modality`, all if absent. With channels in files "
        "of their own: {channel} in it stands for the channel's name, or a mapping says it for "
        "each channel (dicom: of the folder or the SeriesDescription)",
    )
    labels: str | None = Field(
        None,
        description="folders: pattern of the labels (label maps, RTSTRUCT or DICOM-SEG objects); "
        "with {class}, one mask file per class; dicom: pattern of the RTSTRUCT and DICOM-SEG "
        "objects to use, `*` for all, each for the series it was drawn on; bids: suffix of the "
        "derivatives, such as manual/dseg, or label-*_mask for one mask file per class",
    )
    channel: int | str | None = Field(
        None,
        description="nnunet, msd: name or number of the only channel to use, if there are several",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="csv: our column name -> the table's column name; a column for each of "
        "`channels` has its name",
    )
    modality: str | None = Field(None, description="overrides the dataset's modality")
    subject: str | None = Field(
        None,
        description="regular expression; its first group, found in the case name, is the subject",
    )
    exclude: list[str] = Field(default_factory=list, description="case names to leave out")


class Intensity(Section):
    """How voxel values become network inputs."""

    rule: Literal["window", "percentiles", "zscore"] = Field(
        description="window: fixed limits to 0..1; percentiles: robust limits of the volume's body "
        "to 0..1; zscore: mean and standard deviation of the volume's body"
    )
    low: float | None = Field(
        None, description="window: lower limit (HU for CT); percentiles: per cent"
    )
    high: float | None = Field(None, description="window: upper limit; percentiles: per cent")


class PlanKeys(Section):
    """Choices the user makes instead of the plan; each wins and is marked `given`."""

    dims: Literal[2, 3] | None = Field(
        None,
        description="2: the network sees slices across the axis of the largest spacing (the last "
        "of equal ones), and nothing is resampled along it; 3 if absent",
    )
    spacing: Triple | None = Field(
        None,
        description="mm along the axes of the canonical (RAS) volume; with dims 2, the largest "
        "only says which axis the slices lie across",
    )
    crop: Voxels | None = Field(None, description="voxels of a training crop")
    strides: list[Voxels] | None = Field(
        None,
        description="downsampling of each encoder level along each axis; the first is [1, 1, 1]",
    )
    intensity: Intensity | None = Field(None, description="see `plan.intensity.*`")
    channel_intensity: dict[Name, Intensity] = Field(
        default_factory=dict, description="channel -> its own rule, which wins over `intensity`"
    )
    threads: Count | None = Field(None, description="threads of a training process")


class Dicom(Section):
    """How DICOM series become volumes; what is mended is marked in the findings of the case."""

    several_volumes: Literal["split", "refuse"] = Field(
        "split",
        description="a series with several volumes (time points, echoes, b-values): each its own "
        "case with its value in the name, or refused",
    )
    allow_missing_slices: bool = Field(
        False,
        description="fill missing slices and even out uneven distances by linear interpolation",
    )
    gantry_tilt: Literal["refuse", "shear"] = Field(
        "refuse", description="shear: resample a tilted stack onto a grid with right angles"
    )
    fewest_slices: int = Field(
        3, ge=2, description="a series with fewer is refused; with 2 a gap would not show"
    )
    localisers: Literal["skip", "keep"] = Field(
        "skip", description="survey images: few slices in several orientations, or named so"
    )
    suv: bool = Field(
        False,
        description="PET in standardised uptake values by body weight instead of the unit its "
        "header names (Bq/mL after each slice's own slope)",
    )
    keep_identifiers: bool = Field(
        False, description="record names, dates and descriptions of converted series"
    )


class PhantomKeys(Section):
    """The generated torso data of the default study."""

    subjects: Count = Field(24, description="subjects; half of them have lesions")
    broken: bool = Field(True, description="add the deliberately broken cases")
    seed: int = Field(0, description="seed of everything drawn")


class Dataset(Section):
    """One file in `config/datasets/`."""

    name: Name = Field(description="name of the dataset")
    root: str = Field(
        ".", description="folder the sources are relative to, seen from the working folder"
    )
    sources: list[Source] = Field(min_length=1, description="where the files come from")
    modality: Modality = Field(description="decides the intensity rule")
    channels: list[Name] | dict[Name, Modality] = Field(
        default_factory=list,
        description="names of the images of a case that become the channels of the network's "
        "input, in this order; a mapping gives each its own modality. nnunet and msd without it: "
        "all that dataset.json names",
    )
    reference: Name | None = Field(
        None,
        description="channel whose grid the others are brought to, and on which labels and "
        "predictions lie; the first if absent",
    )
    classes: dict[str, Count] = Field(
        min_length=1,
        description="name of each class -> its value in the label maps; 0 is background",
    )
    labels: Literal["optional", "required"] = Field(
        "optional", description="optional: an image without a label joins the unlabelled pool"
    )
    structures: dict[str, list[str]] = Field(
        default_factory=dict,
        description="class -> names of its structures in RTSTRUCT, DICOM-SEG or mask files; `*` "
        "stands for anything, letter case for nothing; a class's own name if absent. Where classes "
        "overlap, the one that stands later in `classes` wins",
    )
    ignored_structures: list[str] = Field(
        default_factory=list,
        description="names of structures that are known and not wanted, though they look like a "
        "missing one",
    )
    fraction: Share = Field(
        0.5, description="of a fractional DICOM-SEG, from which on a voxel belongs to the segment"
    )
    label_grid: Literal["image", "any"] = Field(
        "image",
        description="image: labels lie on the voxels of their image; any: others are resampled "
        "(linear interpolation of each label, the largest wins), with a warning",
    )
    subjects: Literal["known", "unknown"] = Field(
        "known", description="unknown: cases are treated as subjects, and the report says so first"
    )
    phantom: PhantomKeys | None = Field(None, description="generate the data instead of reading it")
    dicom: Dicom = Field(default_factory=Dicom, description="see `dataset.dicom.*`")
    plan: PlanKeys = Field(default_factory=PlanKeys, description="choices that win over the plan's")

    @field_validator("classes")
    @classmethod
    def values_differ(cls, classes: dict[str, int]) -> dict[str, int]:
        if len(set(classes.values())) != len(classes):
            raise ValueError("two classes have the same value")
        if max(classes.values()) > 255:
            raise ValueError("label values must be at most 255")
        return classes

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(self.channels)

    def modality_of(self, channel: str) -> Modality:
        """The modality of a channel; that of the dataset where nothing else is said."""
        return (
            self.channels.get(channel, self.modality)
            if isinstance(self.channels, dict)
            else self.modality
        )

    @model_validator(mode="after")
    def channels_fit(self) -> Dataset:
        names = self.channel_names
        if len(set(names)) < len(names):
            raise ValueError("channels: a name stands twice")
        reference = self.reference or (names[0] if names else None)
        if names and self.reference and self.reference not in names:
            raise ValueError(f"reference: no such channel{suggest(self.reference, list(names))}")
        if reference and self.modality_of(reference) != self.modality:
            raise ValueError(
                f"channels.{reference}: is {self.modality_of(reference)}, but the dataset is "
                f"{self.modality}; `modality` is that of the reference channel"
            )
        for name in self.plan.channel_intensity if names else ():
            if name not in names:
                raise ValueError(
                    f"plan.channel_intensity.{name}: no such channel{suggest(name, list(names))}"
                )
        for number, source in enumerate(self.sources):
            if source.channel is not None and names:
                raise ValueError(
                    f"sources.{number}.channel: `channels` of the dataset chooses already; "
                    "remove one of the two"
                )
            if isinstance(source.images, dict) and set(source.images) != set(names):
                shown = ", ".join(source.images)
                raise ValueError(
                    f"sources.{number}.images: names {shown}, `channels` {', '.join(names)}; "
                    "name the same channels in both"
                )
        return self

    @model_validator(mode="after")
    def structures_belong_to_classes(self) -> Dataset:
        for label, names in self.structures.items():
            if label not in self.classes:
                raise ValueError(
                    f"structures.{label}: no such class{suggest(label, list(self.classes))}"
                )
            if not names:
                raise ValueError(f"structures.{label}: needs at least one name")
        return self
