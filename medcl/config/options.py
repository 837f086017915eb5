"""Options of objectives and networks, checked against the schemas of their constructors."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcl.config.messages import suggest
from medcl.files import read_json

SCHEMAS = Path(__file__).resolve().parents[2] / "workflow" / "schemas"


def option_problems(raw: Mapping[str, Any]) -> Iterator[str]:
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


def slide_option_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """The same for a study of slides."""
    if "encoder" in raw:
        yield from _check_options("encoder", raw["encoder"], "tile_encoders.json")
    encoders = raw.get("encoders")
    for name, encoder in encoders.items() if isinstance(encoders, Mapping) else ():
        pretrain = encoder.get("pretrain") if isinstance(encoder, Mapping) else None
        if isinstance(pretrain, Mapping) and "objective" in pretrain:
            where = f"encoders.{name}.pretrain.objective"
            yield from _check_options(where, pretrain["objective"], "tile_objectives.json")
    aggregators = raw.get("aggregators")
    for name, options in aggregators.items() if isinstance(aggregators, Mapping) else ():
        yield from _check_options(f"aggregators.{name}", options, "aggregators.json")


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
            yield f"{where}.{key}: no such key{suggest(key, known)}"
    for error in Draft202012Validator(schema).iter_errors(dict(options)):
        if error.validator == "additionalProperties":
            continue
        path = ".".join([where, *map(str, error.absolute_path)])
        yield f"{path}: {error.message}"
