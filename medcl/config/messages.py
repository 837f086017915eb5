"""What is wrong with a section, in lines a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from medcl.config.checks import ACROSS


def problems_of(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """One line per problem: key path, what is wrong, the value, and the nearest valid key."""
    seen = set()
    for item in error.errors(include_url=False):
        loc = [part for part in item["loc"] if not _is_union_branch(part)]
        path = ".".join(map(str, loc)) or "(top level)"
        if item["type"] == "extra_forbidden":
            line = f"{path}: no such key{suggest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
        elif item["type"] == "missing":
            line = f"{path}: this key is required"
        elif item["type"] == ACROSS:
            line = f"{path}: {item['msg']}"
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
    named = False
    for part in loc:
        if isinstance(part, int) or named:
            named = False
            continue  # the place in a list or the name in a mapping; its sections are all alike
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            named = field is not None and get_origin(field.annotation) is dict
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


def suggest(word: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(word, valid, 1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; valid keys: {', '.join(valid)}" if valid else ""
