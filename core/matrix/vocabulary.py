"""The names a matrix may use, and what they set: fields of its job's kind, `env.NAME`, and its bundles.

`env` is flattened everywhere, so that a process setting is a field like any other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.job import KINDS
from core.matrix.error import nearest, shown
from core.matrix.places import Path, Places
from core.matrix.values import Value

# One or more fields with their values: a point of the matrix, or what a label of a bundle stands for.
Settings = dict[str, Value]

_ENV = re.compile(r"env\.[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Vocabulary:
    """The fields of a kind of job, and the bundles: name -> label -> the fields it sets."""

    kind: str
    bundles: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(name for name in KINDS[self.kind].model_fields if name not in ("kind", "env"))

    def has(self, key: str) -> bool:
        return key in self.bundles or key in self.fields or _ENV.fullmatch(key) is not None

    def check(self, key: str, path: Path, places: Places) -> None:
        """Raises MatrixError when `key` is neither a field nor a bundle."""
        if key == "kind":
            raise places.error(path, "kind cannot vary inside a matrix", "fix it in [job]")
        if not self.has(key):
            raise places.error(path, f"unknown key {key}", nearest(key, (*self.bundles, *self.fields, "env.NAME")))

    def settings(self, key: str, value: Value) -> Settings:
        """The fields that `value` of a field, or of a bundle, sets."""
        return self.bundles[key][str(value)] if key in self.bundles else {key: value}

    def set_by(self, key: str) -> frozenset[str]:
        """The fields that `key` sets with one of its values or another."""
        if key not in self.bundles:
            return frozenset({key})
        return frozenset(name for settings in self.bundles[key].values() for name in settings)

    def completed(self, settings: Settings) -> Settings:
        """These settings, and the default of every field that is not among them and has one."""
        model = KINDS[self.kind].model_fields
        defaults = {name: model[name].get_default(call_default_factory=True) for name in self.fields}
        return {name: value for name, value in defaults.items() if not model[name].is_required()} | settings


def flattened(table: Any, path: Path, places: Places) -> dict[str, Any]:
    """A table with `env = {NAME = …}` as `env.NAME`. Raises MatrixError when it is no table."""
    if not isinstance(table, dict):
        raise places.error(path, f"{shown(table)} is not a table", "write it as a table: keys and values")
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if key != "env":
            flat[key] = value
        elif isinstance(value, dict):
            flat |= {f"env.{name}": inner for name, inner in value.items()}
        else:
            raise places.error((*path, key), "env holds settings by name", 'write env.NAME = "…"')
    return flat


def nested(settings: Settings) -> dict[str, Any]:
    """The inverse of `flattened`: what the job model takes."""
    fields: dict[str, Any] = {name: value for name, value in settings.items() if not name.startswith("env.")}
    env = {name.removeprefix("env."): value for name, value in settings.items() if name.startswith("env.")}
    return fields | ({"env": env} if env else {})
