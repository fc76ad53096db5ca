"""Fields of a job that are tables: in a matrix each of their entries, TABLE.NAME, is a field like any other."""

from typing import Any, get_args, get_origin

from core.job import KINDS


def _entries(annotation: Any) -> tuple[str, ...] | None:
    """The names that the entries of a field of this type may have: () for any at all, None when it is no table."""
    if get_origin(annotation) is not dict:
        return None
    return get_args(get_args(annotation)[0])


# Field -> the names its entries may have, () for any at all: tiles -> forward, dlhs, drhs; env -> ().
TABLES: dict[str, tuple[str, ...]] = {
    name: entries
    for kind in KINDS.values()
    for name, field in kind.model_fields.items()
    if (entries := _entries(field.annotation)) is not None
}


def split(name: str) -> tuple[str, ...]:
    """An entry's name as its table's and its own; any other name whole."""
    table, dot, entry = name.partition(".")
    return (table, entry) if dot and table in TABLES else (name,)


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """What the job model takes: entries in their tables, lists where a matrix holds tuples."""
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        plain = list(value) if isinstance(value, tuple) else value
        match split(name):
            case (table, entry):
                fields.setdefault(table, {})[entry] = plain
            case _:
                fields[name] = plain
    return fields
