"""Options of objectives and networks, checked against the schemas of their constructors."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcl.config.messages import suggest
from medcl.files import read_json

SCHEMAS = Path(__file__).resolve().parents[2] / "workflow" / "schemas"


# Where options stand in a study (a star: any key or number), and the schemas they are checked with.
VOLUMES = {
    "arms.*.pretrain.objective": "objectives.json",
    "arms.*.pretrain.then.*.objective": "objectives.json",
    "network": "networks.json",
}
SLIDES = {
    "encoder": "tile_encoders.json",
    "encoders.*.pretrain.objective": "tile_objectives.json",
    "aggregators.*": "aggregators.json",
}


def option_problems(raw: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    """Check the options at `places` of a study against the schemas of their constructors."""
    for place, schema in places.items():
        for where, options in _found(raw, place.split(".")):
            yield from _check_options(".".join(where), options, schema)


def _found(raw: Any, place: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """Every value at `place`, with its path; other parts of the model tell of wrong types."""
    if not place:
        yield [], raw
        return
    first, *rest = place
    items = dict(enumerate(raw)) if isinstance(raw, list) else raw
    for key, value in items.items() if isinstance(items, Mapping) else ():
        if first in ("*", key):
            for path, found in _found(value, rest):
                yield [str(key), *path], found


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
