"""The user's YAML as typed sections; every problem at once, with file, key path and suggestion.

These models are the single source of the configuration: the JSON Schema in `workflow/schemas/`
and the key table in `config/README.md` are generated from them (`python -m medcl schema`).
Options of an objective or a network are the keyword arguments of its constructor; their schema is
generated too, so that this module needs neither torch nor monai.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medcl.errors import MedclError
from medcl.files import read_json, read_yaml

SCHEMAS = Path(__file__).resolve().parent.parent / "workflow" / "schemas"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

Name = Annotated[str, Field(pattern=NAME)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[Positive, Positive, Positive]
Voxels = tuple[Count, Count, Count]
Modality = Literal["CT", "MR", "PET", "US", "other"]


class ConfigError(MedclError):
    """All problems of a configuration, one a line."""


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=BaseModel)

# ------------------------------------------------------------------------------- the dataset


class Source(Section):
    """One place files come from."""

    layout: Literal["files", "folders", "csv", "msd", "nnunet", "bids", "nnssl", "dicom"] = Field(
        description="files: every image of a folder is a case; folders: patterns with {subject} "
        "and optionally {visit}; csv: a table with columns subject, image, label; msd: a folder "
        "with dataset.json; nnunet: nnU-Net's raw folder; bids: a BIDS dataset; nnssl: a "
        "pretrain_data.json; dicom: a tree with series in any order, each volume a case"
    )
    path: str = Field(".", description="folder or table, relative to the dataset's root")
    images: str | None = Field(
        None,
        description="folders: pattern of the images; dicom: pattern of the series' folders (`*` "
        "crosses folders), all if absent; bids: suffix, entities before it, such as "
        "acq-highres_T1w; nnssl: pattern of the `modality`, all if absent",
    )
    labels: str | None = Field(
        None,
        description="folders: pattern of the labels (label maps, RTSTRUCT or DICOM-SEG objects); "
        "with {class}, one mask file per class; dicom: pattern of the RTSTRUCT and DICOM-SEG "
        "objects to use, `*` for all, each for the series it was drawn on; bids: suffix of the "
        "derivatives, such as manual/dseg, or label-*_mask for one mask file per class",
    )
    channel: int | str | None = Field(
        None, description="nnunet: name or number of the channel to use, if there are several"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="csv: our column name -> the table's column name"
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

    spacing: Triple | None = Field(
        None, description="mm along the axes of the canonical (RAS) volume"
    )
    crop: Voxels | None = Field(None, description="voxels of a training crop")
    strides: list[Voxels] | None = Field(
        None,
        description="downsampling of each encoder level along each axis; the first is [1, 1, 1]",
    )
    intensity: Intensity | None = Field(None, description="see `plan.intensity.*`")
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

    @model_validator(mode="after")
    def structures_belong_to_classes(self) -> Dataset:
        for label, names in self.structures.items():
            if label not in self.classes:
                raise ValueError(
                    f"structures.{label}: no such class{_suggest(label, list(self.classes))}"
                )
            if not names:
                raise ValueError(f"structures.{label}: needs at least one name")
        return self


# --------------------------------------------------------------------------------- the study


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


# ----------------------------------------------------------------------------------- loading


def load_study(source: str | Path | Mapping[str, Any], *, file: str | None = None) -> Study:
    """Read and check a study given as a YAML file or as a mapping (`file` names it in messages).

    Raises ConfigError with every problem of the study, of its dataset file and of the options of
    its objectives and network, one a line.
    """
    if isinstance(source, Mapping):
        raw: Any = dict(source)
        file = file or "configuration"
    else:
        file = str(source)
        raw = _read(file)
    problems: list[str] = []
    dataset_file = file
    if isinstance(raw.get("dataset"), str):
        dataset_file = _find(raw["dataset"])
        try:
            raw = {**raw, "dataset": _read(dataset_file, asked_by=f"{file}: dataset")}
        except ConfigError as error:
            problems.append(str(error))
    dataset = raw.get("dataset")
    if isinstance(dataset, Mapping):
        if raw.get("root") is not None:
            dataset = {**dataset, "root": str(raw["root"])}
        elif dataset.get("phantom") and raw.get("study"):
            dataset = {**dataset, "root": f"{raw.get('results', 'results')}/{raw['study']}/phantom"}
        raw = {**raw, "dataset": dataset}
    study = None
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        for line in _problems(Study, error):
            if line.startswith("dataset: ") and problems:
                continue  # said already: its file could not be read
            in_dataset = line.startswith("dataset.") and dataset_file != file
            problems.append(
                f"{dataset_file}: {line.removeprefix('dataset.')}"
                if in_dataset
                else f"{file}: {line}"
            )
    problems += [f"{file}: {line}" for line in _option_problems(raw)]
    if problems:
        raise ConfigError("\n".join(problems))
    assert study is not None
    return study


def load_section(model: type[S], text_or_file: str) -> S:
    """Read one section from a YAML file or from YAML (or JSON) text."""
    try:
        is_file = Path(text_or_file).is_file()
    except OSError:  # text longer than a file name may be
        is_file = False
    file = text_or_file if is_file else "settings"
    try:
        raw = _read(text_or_file) if is_file else yaml.safe_load(text_or_file)
    except yaml.YAMLError as error:
        raise ConfigError(f"settings: not valid YAML: {' '.join(str(error).split())}") from None
    if isinstance(raw, str):
        raise ConfigError(f"{raw}: no such file")
    try:
        return model.model_validate(raw or {})
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{file}: {line}" for line in _problems(model, error))
        ) from None


def _find(file: str) -> str:
    """A shipped file is found from any working folder."""
    shipped = SCHEMAS.parent.parent / file
    return str(shipped) if not Path(file).exists() and shipped.exists() else file


def _read(file: str, *, asked_by: str | None = None) -> dict[str, Any]:
    where = f"{asked_by}: " if asked_by else ""
    try:
        raw = read_yaml(file)
    except FileNotFoundError:
        near = difflib.get_close_matches(
            file, [str(p) for p in Path(file).parent.glob("*.y*ml")], 1
        )
        hint = (
            f"; did you mean '{near[0]}'?" if near else "; paths are relative to the working folder"
        )
        raise ConfigError(f"{where}{file}: no such file{hint}") from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{where}{file}: not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}{file}: expected keys and values, found {type(raw).__name__}")
    return raw


def _problems(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """One line per problem: key path, what is wrong, the value, and the nearest valid key."""
    seen = set()
    for item in error.errors(include_url=False):
        loc = [part for part in item["loc"] if not _is_union_branch(part)]
        path = ".".join(map(str, loc)) or "(top level)"
        if item["type"] == "extra_forbidden":
            line = f"{path}: no such key{_suggest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
        elif item["type"] == "missing":
            line = f"{path}: this key is required"
        else:
            message = item["msg"].removeprefix("Value error, ")
            value = item.get("input")
            shown = (
                ""
                if isinstance(value, (dict, list)) and len(str(value)) > 80
                else f", got {value!r}"
            )
            line = f"{path}: {message[0].lower()}{message[1:]}{shown}"
        if line not in seen:
            seen.add(line)
            yield line


def _is_union_branch(part: int | str) -> bool:
    """Pydantic adds the tried type to the path of a union; it is not a key of the user."""
    return isinstance(part, str) and (
        part in {"int", "float", "str", "list[str]", "[key]"}
        or "constrained" in part
        or "[" in part
    )


def _keys_at(model: type[BaseModel], loc: list[int | str]) -> list[str]:
    """Valid keys of the section at `loc`."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue  # the place in a list; its sections are all alike
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = _section_in(field.annotation) if field else None
    is_model = isinstance(current, type) and issubclass(current, BaseModel)
    return list(current.model_fields) if is_model else []


def _section_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _section_in(argument)) is not None:
            return found
    return None


def _suggest(word: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(word, valid, 1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; valid keys: {', '.join(valid)}" if valid else ""


def _option_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """Check the options of objectives and network against the schemas of their constructors."""
    arms = raw.get("arms")
    for name, arm in arms.items() if isinstance(arms, Mapping) else ():
        pretrain = arm.get("pretrain") if isinstance(arm, Mapping) else None
        if isinstance(pretrain, Mapping) and "objective" in pretrain:
            where = f"arms.{name}.pretrain.objective"
            yield from _check_options(where, pretrain["objective"], "objectives.json")
            phases = pretrain.get("then")
            for number, phase in enumerate(phases if isinstance(phases, list) else ()):
                if isinstance(phase, Mapping) and "objective" in phase:
                    where = f"arms.{name}.pretrain.then.{number}.objective"
                    yield from _check_options(where, phase["objective"], "objectives.json")
    if "network" in raw:
        yield from _check_options("network", raw["network"], "networks.json")


def _check_options(where: str, given: Any, schema_file: str) -> Iterator[str]:
    if not (SCHEMAS / schema_file).exists():
        return
    schemas = read_json(SCHEMAS / schema_file)
    options = {"name": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping):
        return
    name = str(options.get("name", "unet" if where == "network" else None))
    if ":" in name or name == "None":
        return  # from outside the tree: its own constructor checks it
    if name not in schemas:
        near = difflib.get_close_matches(name, list(schemas), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(schemas)}"
        yield f"{where}.name: no such entry '{name}'; {hint}, or file.py:Class"
        return
    rest = {key: value for key, value in options.items() if key != "name"}
    yield from _schema_problems(where, rest, schemas[name])


def _schema_problems(
    where: str, options: Mapping[str, Any], schema: dict[str, Any]
) -> Iterator[str]:
    from jsonschema import Draft202012Validator

    known = list(schema.get("properties", {}))
    for key in options:
        if key not in known:
            yield f"{where}.{key}: no such key{_suggest(key, known)}"
    for error in Draft202012Validator(schema).iter_errors(dict(options)):
        if error.validator == "additionalProperties":
            continue
        path = ".".join([where, *map(str, error.absolute_path)])
        yield f"{path}: {error.message}"
