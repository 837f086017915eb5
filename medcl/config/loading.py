"""Read a YAML file into a checked study; every problem at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from medcl.config.base import ConfigError
from medcl.config.messages import problems_of, suggest
from medcl.config.options import SCHEMAS, SLIDES, VOLUMES, option_problems
from medcl.config.slides import SlideStudy
from medcl.config.study import Study
from medcl.files import read_yaml

S = TypeVar("S", bound=BaseModel)
KINDS = ("volumes", "slides")


def load_study(source: str | Path | Mapping[str, Any], *, file: str | None = None) -> Study:
    """Read and check a study given as a YAML file or as a mapping (`file` names it in messages).

    Raises ConfigError with every problem of the study, of its dataset file and of the options of
    its objectives and network, one a line.
    """
    return _load(Study, source, file, VOLUMES)


def load_slide_study(
    source: str | Path | Mapping[str, Any], *, file: str | None = None
) -> SlideStudy:
    """The same for a study of slides (`kind: slides`)."""
    return _load(SlideStudy, source, file, SLIDES)


def kind_of(source: str | Path | Mapping[str, Any]) -> str:
    """`volumes` or `slides`; ConfigError for anything else."""
    raw = source if isinstance(source, Mapping) else _read(str(source))
    kind = raw.get("kind", "volumes")
    if kind not in KINDS:
        raise ConfigError(f"kind: no such kind of study: {kind!r}{suggest(str(kind), list(KINDS))}")
    return str(kind)


def _load(
    model: type[S],
    source: str | Path | Mapping[str, Any],
    file: str | None,
    options: Mapping[str, str],
) -> S:
    if isinstance(source, Mapping):
        raw: Any = dict(source)
        file = file or "configuration"
    else:
        file = str(source)
        raw = _read(file)
    if model is Study and raw.get("kind") == "slides":
        raise ConfigError(f"{file}: kind: a study of slides, and this takes studies of volumes")
    if model is Study and raw.get("kind") == "volumes":
        raw = {key: value for key, value in raw.items() if key != "kind"}
    problems: list[str] = []
    raw, files = _with_datasets(raw, file, problems)
    unread = {key for key, found in _datasets(raw) if isinstance(found, str)}
    if isinstance(dataset := raw.get("dataset"), Mapping):
        if raw.get("root") is not None:
            dataset = {**dataset, "root": str(raw["root"])}
        elif dataset.get("phantom") and raw.get("study"):
            dataset = {**dataset, "root": f"{raw.get('results', 'results')}/{raw['study']}/phantom"}
        raw = {**raw, "dataset": dataset}
    study = None
    try:
        study = model.model_validate(raw)
    except ValidationError as error:
        for line in problems_of(model, error):
            if line.partition(":")[0] in unread:
                continue  # said already: its file could not be read
            key = next((key for key in files if line.startswith(f"{key}.")), None)
            problems.append(
                f"{file}: {line}"
                if key is None
                else f"{files[key]}: {line.removeprefix(f'{key}.')}"
            )
    problems += [f"{file}: {line}" for line in option_problems(raw, options)]
    if problems:
        raise ConfigError("\n".join(problems))
    assert study is not None
    return study


def _datasets(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key path, value) of every dataset of a study: a file, or its content."""
    yield "dataset", raw.get("dataset")
    others = raw.get("pretrain_on")
    for number, other in enumerate(others if isinstance(others, list) else ()):
        yield f"pretrain_on.{number}", other


def _with_datasets(
    raw: Mapping[str, Any], file: str, problems: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The study with its datasets' files read, and the file of each key path that named one."""
    files, found = {}, {}
    for key, value in _datasets(raw):
        if isinstance(value, str):
            path = _find(value)
            try:
                value = _read(path, asked_by=f"{file}: {key}")
                files[key] = path
            except ConfigError as error:
                problems.append(str(error))
        found[key] = value
    filled = {**raw}
    if "dataset" in raw:
        filled["dataset"] = found.pop("dataset")
    if isinstance(raw.get("pretrain_on"), list):
        filled["pretrain_on"] = [value for key, value in found.items() if key != "dataset"]
    return filled, files


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
            "\n".join(f"{file}: {line}" for line in problems_of(model, error))
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
