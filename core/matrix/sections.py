"""The sections of a matrix, each read on its own: names known, shapes right, nothing empty."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from core.job import KINDS
from core.matrix.error import explained, nearest, shown
from core.matrix.places import Path, Places
from core.matrix.values import Value, several, single
from core.matrix.vocabulary import Settings, Vocabulary, flattened, table_of
from core.model import Frozen

SectionModel = TypeVar("SectionModel", bound=Frozen)

Axes = dict[str, tuple[Value, ...]]


class Exclude(NamedTuple):
    """Cells that agree with one of the values at every key have no job."""

    where: Axes
    why: str
    path: Path


class Include(NamedTuple):
    """A product of its own, appended to the matrix."""

    axes: Axes
    path: Path


def read_model(model: type[SectionModel], table: dict[str, Any], name: str, places: Places) -> SectionModel:
    """`[experiment]` or `[measure]`. Raises MatrixError."""
    values = {key: float(value) if isinstance(value, Decimal) else value for key, value in table.items()}
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        # an unknown key first: the one that is missing may be the same, misspelt
        error = min(failure.errors(), key=lambda error: error["type"] != "extra_forbidden")
        key = str(error["loc"][0])
        match error["type"]:
            case "extra_forbidden":
                problem, fix = f"unknown key {key}", nearest(key, model.model_fields)
            case "missing":
                raise places.error((name,), f"{key} is missing", f"write {key} = …") from None
            case "string_pattern_mismatch":
                problem = f"{shown(values[key])} is not a plain name"
                fix = "use small letters, digits, dots, dashes and underscores, as in null-routing"
            case "string_too_short":
                problem, fix = "it is empty", "write the question in a sentence"
            case _:
                problem, fix = explained(error, key)
        raise places.error((name, key), problem, fix) from None


def read_kind(job: dict[str, Any], places: Places) -> str:
    """The `kind` of [job]. Raises MatrixError."""
    if "kind" not in job:
        raise places.error(("job",), "kind is missing", 'write kind = "moe_block"')
    kind = job["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise places.error(("job", "kind"), f"{shown(kind)} is no kind of job", nearest(kind, KINDS))
    return kind


def read_settings(table: dict[str, Any], kind: str, path: Path, places: Places) -> Settings:
    """Fields with one value each: [job] less its kind, or a label of a bundle. Raises MatrixError."""
    for key in table:
        Vocabulary(kind).check(key, (*path, key), places)
    holds_lists = Vocabulary(kind).holds_lists
    return {key: single(value, (*path, key), places, lists=holds_lists(key)) for key, value in table.items()}


def read_bundles(table: dict[str, Any], kind: str, places: Places) -> Vocabulary:
    """The names a matrix with these bundles may use. Raises MatrixError."""
    bundles: dict[str, dict[str, Settings]] = {}
    for name, labels in table.items():
        path: Path = ("bundles", name)
        if name in KINDS[kind].model_fields:
            raise places.error(path, f"{name} is a field of the job", "give the bundle a name of its own")
        bundles[name] = {
            label: read_settings(flattened(settings, (*path, label), places), kind, (*path, label), places)
            for label, settings in table_of(labels, path, places).items()
        }
        for label in (label for label, settings in bundles[name].items() if not settings):
            raise places.error((*path, label), "it sets no field", "give it one, as in { tokens = 1024 }")
        if not bundles[name]:
            raise places.error(path, "the bundle has no label", "add one, as in S = { tokens = 1024 }")
    return Vocabulary(kind, bundles)


def read_axis(key: str, value: Any, vocabulary: Vocabulary, path: Path, places: Places) -> tuple[Value, ...]:
    """The values of a field, or the labels of a bundle. Raises MatrixError."""
    vocabulary.check(key, path, places)
    values = several(value, path, places, lists=vocabulary.holds_lists(key))
    if key in vocabulary.bundles:
        labels = vocabulary.bundles[key]
        for each in values:
            if each not in labels:
                raise places.error(path, f"{shown(each)} is no label of [bundles.{key}]", nearest(each, labels))
    return values


def read_pattern(table: dict[str, Any], vocabulary: Vocabulary, path: Path, places: Places) -> Axes:
    """The keys of an [[exclude]] or [[include]]: as axes, but one value needs no brackets. Raises MatrixError."""
    if not table:
        raise places.error(path, "it names no field", "give it one, as in topk = 8, or remove it")
    return {
        key: read_axis(key, _bracketed(value, vocabulary.holds_lists(key)), vocabulary, (*path, key), places)
        for key, value in table.items()
    }


def _bracketed(value: Any, lists: bool) -> Any:
    """One value of a pattern as a list of one."""
    if lists:
        return value if isinstance(value, list) and any(isinstance(inner, list) for inner in value) else [value]
    return value if isinstance(value, list | dict) else [value]


def read_excludes(tables: Any, vocabulary: Vocabulary, places: Places) -> list[Exclude]:
    """Raises MatrixError."""
    excludes = []
    for path, table in _array("exclude", tables, places):
        why = table.pop("why", None)
        if not isinstance(why, str) or not why.strip():
            raise places.error(path, "why is missing", 'write why = "…": it is shown wherever a cell is missed')
        excludes.append(Exclude(read_pattern(table, vocabulary, path, places), why, path))
    return excludes


def read_includes(tables: Any, vocabulary: Vocabulary, places: Places) -> list[Include]:
    """Raises MatrixError."""
    return [
        Include(read_pattern(table, vocabulary, path, places), path)
        for path, table in _array("include", tables, places)
    ]


def _array(name: str, tables: Any, places: Places) -> Iterator[tuple[Path, dict[str, Any]]]:
    if not isinstance(tables, list):
        raise places.error((name,), f"[{name}] is one table", f"write [[{name}]], in double brackets")
    for index, table in enumerate(tables):
        yield (name, index), flattened(table, (name, index), places)
