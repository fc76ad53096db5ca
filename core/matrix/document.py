"""A matrix file, read: its sections checked, with what the command line changed already in them.

Every name is known, every value has the right shape and every field is set in one place after this; whether a value
suits its field is the job model's to say, cell by cell.
"""

import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from core.matrix.error import MatrixError, nearest
from core.matrix.model import Measure, Overrides, Question, usual_measure
from core.matrix.overrides import apply_axes, apply_sets, typed_pattern
from core.matrix.places import Path, Places
from core.matrix.sections import (
    Axes,
    Exclude,
    Include,
    read_axis,
    read_bundles,
    read_excludes,
    read_includes,
    read_kind,
    read_model,
    read_pattern,
    read_settings,
)
from core.matrix.values import finite, single
from core.matrix.vocabulary import Settings, Vocabulary, flattened, table_of

_TABLES = ("experiment", "job", "axes", "bundles", "baseline", "measure")
# Those whose keys are fields of the job.
_OF_FIELDS = ("job", "axes", "baseline")
_ARRAYS = ("exclude", "include")


@dataclass(frozen=True)
class Document:
    """The sections of a matrix."""

    question: Question
    measure: Measure
    vocabulary: Vocabulary
    job: Settings
    axes: Axes
    baseline: Settings
    excludes: tuple[Exclude, ...]
    includes: tuple[Include, ...]
    places: Places
    reshaped: bool  # the command line changed which cells there are, or which of them fold


def read_document(text: str, place: str, overrides: Overrides) -> Document:
    """Raises MatrixError."""
    toml = _toml(text, place)
    places = Places(place, text)
    finite(toml, (), places)
    tables = _tables(toml, places)
    apply_sets(tables, overrides.sets, places)
    kind = read_kind(tables["job"], places)
    vocabulary = read_bundles(tables["bundles"], kind, places)
    apply_axes(tables, overrides.axes, vocabulary, places)
    fixed = {key: value for key, value in tables["job"].items() if key != "kind"}
    excludes = read_excludes(toml.get("exclude", []), vocabulary, places)
    for ordinal, words in enumerate(overrides.exclude):
        path: Path = ("-x", ordinal)
        pattern = typed_pattern(words, path, vocabulary, places)
        excludes.append(Exclude(read_pattern(pattern, vocabulary, path, places), f"-x {words}", path))
    document = Document(
        question=read_model(Question, tables["experiment"], "experiment", places),
        measure=read_model(Measure, usual_measure(kind) | tables["measure"], "measure", places),
        vocabulary=vocabulary,
        job=read_settings(fixed, kind, ("job",), places),
        axes={key: read_axis(key, value, vocabulary, ("axes", key), places) for key, value in tables["axes"].items()},
        baseline={
            key: single(value, ("baseline", key), places, lists=vocabulary.holds_lists(key))
            for key, value in tables["baseline"].items()
        },
        excludes=tuple(excludes),
        includes=tuple(read_includes(toml.get("include", []), vocabulary, places)),
        places=places,
        reshaped=bool(overrides.axes or overrides.exclude) or any(words.startswith("job.") for words in overrides.sets),
    )
    _every_field_once(document, document.axes, ("axes",), fixed=document.job)
    for include in document.includes:
        _every_field_once(document, include.axes, include.path, fixed={})
    _every_bundle_used(document)
    return document


def _toml(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:
        line = re.search(r"at line (\d+)", str(error))
        at = f"{place}:{line[1]}" if line else place
        match error:
            case RecursionError():
                problem = "it is nested too deeply"
            case tomllib.TOMLDecodeError():
                problem = str(error)
            case _:
                problem = "a number in it is too long to be read"
        raise MatrixError(f"{at}: not TOML: {problem}; correct it, toml.io shows the notation") from None


def _tables(toml: dict[str, Any], places: Places) -> dict[str, dict[str, Any]]:
    for section in toml:
        if section not in (*_TABLES, *_ARRAYS):
            raise places.error((section,), f"unknown section {section}", nearest(section, (*_TABLES, *_ARRAYS)))
    for section in ("experiment", "job"):
        if section not in toml:
            raise places.error((), f"there is no [{section}]", f"add a line [{section}] with its keys below")
    tables = {name: table_of(toml.get(name, {}), (name,), places) for name in _TABLES}
    return tables | {name: flattened(tables[name], (name,), places) for name in _OF_FIELDS}


def _every_field_once(document: Document, axes: Axes, path: Path, fixed: Settings) -> None:
    """One place says what a field is: [job], or one axis."""
    setter: dict[str, str] = {}
    for axis in axes:
        for name in sorted(document.vocabulary.set_by(axis)):
            if name in fixed:
                problem, fix = f"[job] fixes {name} too", f"remove {name} from one of them"
                raise document.places.error((*path, axis), problem, fix)
            if name in setter:
                problem, fix = f"{setter[name]} and {axis} both set {name}", "remove it from one of them"
                raise document.places.error((*path, axis), problem, fix)
            setter[name] = axis


def _every_bundle_used(document: Document) -> None:
    used = {key for axes in (document.axes, *(include.axes for include in document.includes)) for key in axes}
    for name in document.vocabulary.bundles:
        if name not in used:
            raise document.places.error(
                ("bundles", name), "no axis uses this bundle", f"add {name} to [axes], or remove it here"
            )
