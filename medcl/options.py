"""Options of a pretext task or a network are the keyword-only arguments of its constructor.

A registry maps names to classes. `file.py:Class` names a class from outside the tree. The same
signature gives the JSON Schema that checks a configuration without importing torch.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from medcl.errors import MedclError

Registry = Mapping[str, type]


def resolve(registry: Registry, name: str, what: str) -> type:
    """Find the class called `name`, or `file.py:Class`; `what` names the kind in messages."""
    if name in registry:
        return registry[name]
    if ":" in name:
        return _from_file(name, what)
    near = difflib.get_close_matches(name, list(registry), 1)
    hint = (
        f"did you mean '{near[0]}'?" if near else f"one of {', '.join(registry)}, or file.py:Class"
    )
    raise MedclError(f"no {what} '{name}'; {hint}")


def check(kind: type, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options of `kind` with their defaults and proper types; MedclError names each problem."""
    try:
        checked = model_of(kind).model_validate(dict(options))
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            path = ".".join([where, *map(str, item["loc"])])
            lines.append(f"{path}: {item['msg'].lower()}, got {item['input']!r}")
        raise MedclError("\n".join(lines)) from None
    return {name: getattr(checked, name) for name in type(checked).model_fields}


def model_of(kind: type) -> type[BaseModel]:
    """Pydantic model of the keyword-only arguments of a constructor.

    The line `name: text` of the class docstring describes an argument.
    """
    hints = get_type_hints(kind.__init__, include_extras=True)  # type: ignore[misc]
    texts = _descriptions(kind)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = ... if required else parameter.default
        if name not in hints:
            raise MedclError(
                f"{kind.__module__}.{kind.__name__}: argument `{name}` has no annotation; give it "
                "one, because it checks the configuration"
            )
        fields[name] = (hints[name], Field(default, description=texts.get(name)))
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def schemas(registry: Registry) -> dict[str, Any]:
    """JSON Schema of the options of every class of a registry."""
    return {name: model_of(kind).model_json_schema() for name, kind in registry.items()}


def _descriptions(kind: type) -> dict[str, str]:
    """`name: text` lines of the docstring; a text goes on until the next name or a blank line."""
    found: dict[str, str] = {}
    current = None
    documented = [inspect.cleandoc(base.__doc__ or "") for base in reversed(kind.__mro__[:-1])]
    for line in "\n\n".join(documented).splitlines():
        name, colon, text = line.partition(": ")
        if colon and name.isidentifier():
            current = name
            found[name] = text.strip()
        elif not line.strip():
            current = None
        elif current:
            found[current] += " " + line.strip()
    return found


def _from_file(name: str, what: str) -> type:
    file, _, class_name = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise MedclError(
            f"{what} {name}: no file {file}; the path is relative to the working folder"
        )
    spec = importlib.util.spec_from_file_location(f"medcl_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise MedclError(f"{what} {name}: {file} has no class {class_name}")
    return found
