"""What is wrong with a file that pydantic refused: one sentence with key, value and the step after it."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from core.matrix.error import explained, nearest, shown

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def complaint(error: ValidationError, document: Mapping[str, Any], models: Mapping[str, type[BaseModel]]) -> str:
    """The first thing wrong in `document`, which is one of `models`, as its `kind` says."""
    # a misspelt key is also a missing one: the misspelling says more
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    # before a path in the file stands the kind, which is not written there
    path = first["loc"][1:]
    match first["type"]:
        case "union_tag_invalid":
            return f"kind = {shown(document['kind'])}: there are {', '.join(models)}: write one of them"
        case "union_tag_not_found":
            return f'kind is missing: add it, as in kind = "{next(iter(models))}"; there are {", ".join(models)}'
        case "missing":
            told = _table(models[document["kind"]], path[:-1])[path[-1]].description
            return f"{dotted(*path)} is missing: add it: {told}"
        case "extra_forbidden":
            known = _table(models[document["kind"]], path[:-1])
            # the nearest need not be the one that is meant: after it come all, once
            hints = dict.fromkeys([nearest(path[-1], known), nearest("", known)])
            return f"unknown key {dotted(*path)}: {' '.join(hints)}"
        case _:
            return _wrong(first, path)


def _wrong(error: ErrorDetails, path: tuple[int | str, ...]) -> str:
    if path and path[-1] == "[key]":
        return f"[{dotted(*path[:-1])}]: {error['ctx']['error']}"
    key, value = dotted(*path), shown(error["input"])
    match error["type"]:
        case "value_error":
            said = str(error["ctx"]["error"])
            return f"{key} = {value}: {said}" if path else said
        case "literal_error":
            return f"{key} = {value}: write {error['ctx']['expected']}"
        case "dict_type" | "model_type":
            return f"{key} = {value}: it is a table: write [{key}] and its keys below"
        case "tuple_type":
            return (
                f'{key} = {value}: it is a list: write each argument as a text, as in {key} = ["program", "{{name}}"]'
            )
        case "string_type" if isinstance(path[-1], int):
            return f"{key} = {value}: it is not a text: write it in quotes"
        case _:
            what, step = explained(error, str(path[-1]))
            return f"{key}: {what}: {step}"


def _table(model: type[BaseModel], path: tuple[int | str, ...]) -> dict[Any, FieldInfo]:
    """The keys that the table at `path` may have."""
    there: Any = model
    for part in path:
        is_table = isinstance(there, type) and issubclass(there, BaseModel)
        there = there.model_fields[part].annotation if is_table else get_args(there)[-1]
    fields: dict[Any, FieldInfo] = there.model_fields
    return fields


def dotted(*path: int | str) -> str:
    """A key and the tables it stands in, as TOML writes it; a place in a list in brackets, from 1."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else shown(part))
    return text
