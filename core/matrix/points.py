"""The points of a matrix: the product of its axes in the order they are written, then each include's own product.

A point is a full set of fields as written: whether it has a job is decided later, but for what an exclude names.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.labels import printed
from core.matrix.document import Document
from core.matrix.error import MatrixError, shown
from core.matrix.places import Path
from core.matrix.sections import Axes, Exclude
from core.matrix.values import MAX_CELLS, Value, same
from core.matrix.vocabulary import Settings


@dataclass(frozen=True)
class Point:
    """`coordinates`: axis -> value or bundle label. `settings`: every field given or with a default."""

    coordinates: dict[str, Value]
    settings: Settings
    include: Path | None = None


def points_of(document: Document) -> list[Point]:
    """All points, excluded ones among them. Raises MatrixError when there are too many, or an include is not whole."""
    sizes = [_size(axes) for axes in (document.axes, *(include.axes for include in document.includes))]
    if sum(sizes) > MAX_CELLS:
        raise document.places.error(
            ("axes",), f"{sum(sizes)} cells are more than {MAX_CELLS}", "shorten an axis, or make several matrices"
        )
    for include in document.includes:
        _closes_every_axis(document, include.axes, include.path)
    points = list(_product(document, document.axes, None))
    for include in document.includes:
        points += _product(document, include.axes, include.path)
    return points


def _size(axes: Axes) -> int:
    return math.prod(len(values) for values in axes.values())


def _product(document: Document, axes: Axes, include: Path | None) -> Iterator[Point]:
    for values in itertools.product(*axes.values()):
        coordinates = dict(zip(axes, values, strict=True))
        settings = dict(document.job)
        for key, value in coordinates.items():
            settings |= document.vocabulary.settings(key, value)
        yield Point(coordinates, document.vocabulary.completed(settings), include)


def _closes_every_axis(document: Document, axes: Axes, path: Path) -> None:
    given = {name for key in axes for name in document.vocabulary.set_by(key)}
    for axis in document.axes:
        if not document.vocabulary.set_by(axis) <= given:
            raise document.places.error(path, f"it leaves the axis {axis} open", f"give {axis} a value or a list")


def excluded(document: Document, points: Sequence[Point]) -> dict[int, str]:
    """Index of a point -> why it is excluded. Raises MatrixError for an exclude that matches nothing."""
    whys: dict[int, str] = {}
    for exclude in document.excludes:
        for values in itertools.product(*exclude.where.values()):
            pattern = dict(zip(exclude.where, values, strict=True))
            found = [index for index, point in enumerate(points) if point.include is None and _agrees(point, pattern)]
            if not found:
                raise _matches_nothing(document, exclude, pattern)
            for index in found:
                whys.setdefault(index, exclude.why)
    return whys


def _agrees(point: Point, pattern: dict[str, Value]) -> bool:
    taken = point.settings | point.coordinates
    return all(same(taken.get(key), value) for key, value in pattern.items())


def _matches_nothing(document: Document, exclude: Exclude, pattern: dict[str, Value]) -> MatrixError:
    known = [
        f"{key} has {', '.join(map(printed, document.axes[key]))}"
        for key, value in pattern.items()
        if key in document.axes and value not in document.axes[key]
    ]
    words = ", ".join(f"{key} = {shown(value)}" for key, value in pattern.items())
    fix = "; ".join(known) or "no cell has all of these: correct or remove it"
    return document.places.error(exclude.path, f"{words} matches no cell", fix)


def path_of(document: Document, point: Point, field: str) -> Path:
    """Where the value that a point has for a field was written; the section it is missing from when it was not."""
    section: Path = ("axes",) if point.include is None else point.include
    for key, value in point.coordinates.items():
        if key == field:
            return (*section, key)
        if key in document.vocabulary.bundles and field in document.vocabulary.settings(key, value):
            return ("bundles", key, str(value), field)
    return ("job", field) if field in document.job else ("job",)
