"""Resolved points into drafts of groups: each measured cell with the reference of its group it is compared with."""

from collections.abc import Sequence

from core.labels import printed
from core.matrix.comparisons import Comparison, Key
from core.matrix.error import MatrixError
from core.matrix.grouping import Draft, Pair
from core.matrix.places import Places
from core.matrix.points import Point
from core.matrix.resolve import Resolved

# An error lists this many groups; more would not be read.
LISTED = 8


def paired(comparison: Comparison, resolved: Sequence[Resolved], places: Places) -> list[Draft]:
    """Raises MatrixError when a cell has no reference in its group. Without a baseline every cell is on its own."""
    measured = [(index, cell.point, cell.job) for index, cell in enumerate(resolved) if cell.job is not None]
    if not comparison.reference:
        return [Draft(_label(point, comparison), [Pair(index, job, job)]) for index, point, job in measured]
    references = {
        comparison.pair(point.settings): job for _, point, job in measured if comparison.is_reference(point.settings)
    }
    drafts: dict[Key, Draft] = {}
    lacking: dict[str, Point] = {}
    for index, point, job in measured:
        label = _label(point, comparison)
        reference = references.get(comparison.pair(point.settings))
        if reference is None:
            lacking.setdefault(label, point)
        else:
            draft = drafts.setdefault(comparison.group(point.settings), Draft(label, []))
            draft.pairs.append(Pair(index, job, reference))
    if lacking:
        raise _lacking(lacking, comparison, resolved, places)
    return list(drafts.values())


def _label(point: Point, comparison: Comparison) -> str:
    """What the cells of a group have in common, as far as it varies in the matrix."""
    own = {*comparison.interleaved, *comparison.interleaved_fields}
    return _words(point, without=own) or "all"


def _words(point: Point, without: set[str]) -> str:
    return " ".join(f"{key}={printed(value)}" for key, value in point.coordinates.items() if key not in without)


def _lacking(
    lacking: dict[str, Point], comparison: Comparison, resolved: Sequence[Resolved], places: Places
) -> MatrixError:
    groups = [f"{label} ({_why(point, comparison, resolved)})" for label, point in list(lacking.items())[:LISTED]]
    more = [f"{len(lacking) - LISTED} more"] if len(lacking) > LISTED else []
    problem = f"groups with cells that have no reference: {'; '.join(groups + more)}"
    fix = "give them their reference, exclude these cells too, or choose another baseline"
    return places.error(("baseline",), problem, fix)


def _why(point: Point, comparison: Comparison, resolved: Sequence[Resolved]) -> str:
    pair, words = comparison.pair(point.settings), _words(point, without=set())
    for cell in resolved:
        settings = cell.point.settings
        if cell.why is not None and comparison.is_reference(settings) and comparison.pair(settings) == pair:
            return f"the reference of {words} has no job: {cell.why}"
    return f"there is no reference of {words}"
