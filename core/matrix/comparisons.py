"""Which cell is compared with which: `[baseline]` and `interleave`, read.

Cells that agree in every field but those of the interleaved axes share a group. In it, a cell is compared with the
one that takes the baseline's values and agrees with it on all the other axes, so that a group whose interleaved axes
are not all named by the baseline has several references. Fields are compared as written, before any is canonicalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.matrix.document import Document
from core.matrix.error import nearest, shown
from core.matrix.values import Value, same
from core.matrix.vocabulary import Settings

Key = frozenset[tuple[str, Value]]


@dataclass(frozen=True)
class Comparison:
    """How cells are grouped and paired."""

    interleaved: tuple[str, ...]
    interleaved_fields: frozenset[str]
    reference: Mapping[str, Value | None]  # field -> what a reference has there; None: not set at all

    def group(self, settings: Settings) -> Key:
        """Equal for the cells of one group."""
        return frozenset((name, value) for name, value in settings.items() if name not in self.interleaved_fields)

    def pair(self, settings: Settings) -> Key:
        """Equal for the cells that are compared with one reference."""
        return frozenset((name, value) for name, value in settings.items() if name not in self.reference)

    def is_reference(self, settings: Settings) -> bool:
        return bool(self.reference) and all(same(settings.get(name), value) for name, value in self.reference.items())


def read_comparison(document: Document) -> Comparison:
    """Raises MatrixError when baseline and interleave do not fit the axes or each other."""
    places, axes, interleave = document.places, document.axes, document.measure.interleave
    for axis, value in document.baseline.items():
        if axis not in axes:
            fixed = f"[job] fixes {axis}" if axis in document.job else f"{axis} is no axis"
            raise places.error(("baseline", axis), fixed, nearest(axis, axes))
        if not any(same(value, other) for other in axes[axis]):
            problem = f"{shown(value)} is no value of the axis {axis}"
            raise places.error(("baseline", axis), problem, nearest(value, axes[axis]))
    if interleave is None:
        interleave = tuple(document.baseline)
    at = ("measure", "interleave")
    for index, axis in enumerate(interleave):
        if axis not in axes:
            raise places.error(at, f"{shown(axis)} is no axis", nearest(axis, axes))
        if axis in interleave[:index]:
            raise places.error(at, f"{shown(axis)} is there twice", "remove one of them")
    if interleave and not document.baseline:
        first = interleave[0]
        problem = "there is no [baseline] to compare the interleaved cells with"
        raise places.error(at, problem, f"add [baseline] with {first} = {shown(axes[first][0])}, or remove interleave")
    for axis in document.baseline:
        if axis not in interleave:
            problem = f"{axis} is not interleaved, so that no group holds both it and what is compared with it"
            raise places.error(("baseline", axis), problem, f"add {axis} to measure.interleave, or remove it here")
    return Comparison(
        interleaved=interleave,
        interleaved_fields=frozenset(name for axis in interleave for name in document.vocabulary.set_by(axis)),
        reference=_reference(document),
    )


def _reference(document: Document) -> dict[str, Value | None]:
    defaults = document.vocabulary.completed({})
    reference: dict[str, Value | None] = {}
    for axis, value in document.baseline.items():
        given = document.vocabulary.settings(axis, value)
        reference |= {name: given.get(name, defaults.get(name)) for name in document.vocabulary.set_by(axis)}
    return reference
