"""The names a matrix may use, and what they set: fields of its job's kind, entries of its tables, and its bundles.

Tables of the job are flattened everywhere, so that `env.NAME` and `tiles.forward` are fields like any other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from core.job import KINDS
from core.matrix.error import nearest, shown
from core.matrix.places import Path, Places
from core.matrix.tables import TABLES
from core.matrix.values import Value

# One or more fields with their values: a point of the matrix, or what a label of a bundle stands for.
Settings = dict[str, Value]

_ENV = re.compile(r"env\.[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Vocabulary:
    """The fields of a kind of job, and the bundles: name -> label -> the fields it sets."""

    kind: str
    bundles: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Of the kind, with the entries of a table in its place where their names are known."""
        names = (name for name in KINDS[self.kind].model_fields if name != "kind")
        entries = ((f"{name}.{entry}" for entry in TABLES[name]) if name in TABLES else (name,) for name in names)
        return tuple(name for each in entries for name in each)

    def has(self, key: str) -> bool:
        return key in self.bundles or key in self.fields or _ENV.fullmatch(key) is not None

    def check(self, key: str, path: Path, places: Places) -> None:
        """Raises MatrixError when `key` is neither a field nor a bundle."""
        if key == "kind":
            raise places.error(path, "kind cannot vary inside a matrix", "fix it in [job]")
        if not self.has(key):
            raise places.error(path, f"unknown key {key}", nearest(key, (*self.bundles, *self.fields, "env.NAME")))

    def holds_lists(self, key: str) -> bool:
        """Whether each value of `key` is a list: the entries of the tables other than env."""
        return key.partition(".")[0] in TABLES and not key.startswith("env.")

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
        return self._defaults | settings

    @cached_property
    def _defaults(self) -> Settings:
        model = KINDS[self.kind].model_fields
        optional = (name for name in self.fields if name in model and not model[name].is_required())
        return {name: model[name].get_default() for name in optional}


def table_of(value: Any, path: Path, places: Places) -> dict[str, Any]:
    """`value`, a table. Raises MatrixError when it is none."""
    if not isinstance(value, dict):
        raise places.error(path, f"{shown(value)} is not a table", "write it as a table: keys and values")
    return value


def flattened(value: Any, path: Path, places: Places) -> dict[str, Any]:
    """A table with `env = {NAME = …}` as `env.NAME`, and so every table of a job. Raises MatrixError."""
    flat: dict[str, Any] = {}
    for key, inner in table_of(value, path, places).items():
        if key not in TABLES:
            flat[key] = inner
        elif isinstance(inner, dict):
            flat |= {f"{key}.{name}": each for name, each in inner.items()}
        else:
            entry = next(iter(TABLES[key]), "NAME")
            raise places.error((*path, key), f"{key} holds settings by name", f"write {key}.{entry} = …")
    return flat
