"""The code that a matrix names: which names it writes, and the commits that they stand for.

A cell keeps the name as written, its job gets the commit: a branch that moves makes other jobs. Whoever knows the
repository says what a name stands for; nothing here does.
"""

from collections.abc import Iterator, Mapping

from core.job import WORKING_TREE
from core.matrix.document import Document
from core.matrix.error import shown
from core.matrix.places import Path

Revisions = Mapping[str, str]  # a name as written -> its full commit id

_FIELD = "code"
_NO_NAMES = ("", WORKING_TREE)


def names_in(document: Document) -> tuple[str, ...]:
    """The revisions that a matrix names, each once, in its order."""
    return tuple(dict.fromkeys(name for name, _ in _written(document)))


def commits_of(document: Document, revisions: Revisions) -> dict[str, str]:
    """Each name in the matrix -> its commit. Raises MatrixError for one that `revisions` does not know."""
    for name, path in _written(document):
        if name not in revisions:
            fix = "run this in a clone that has it, or write . for the working tree"
            raise document.places.error(path, f"{shown(name)} is not known as a revision", fix)
    return {name: revisions[name] for name in names_in(document)}


def _written(document: Document) -> Iterator[tuple[str, Path]]:
    """Every name of a revision, with its place."""
    if _FIELD in document.job:
        yield from _named(document.job[_FIELD], ("job", _FIELD))
    sections: list[tuple[Path, Mapping[str, tuple[object, ...]]]] = [(("axes",), document.axes)]
    sections += [(include.path, include.axes) for include in document.includes]
    for path, axes in sections:
        for value in axes.get(_FIELD, ()):
            yield from _named(value, (*path, _FIELD))
    for bundle, labels in document.vocabulary.bundles.items():
        for label, settings in labels.items():
            yield from _named(settings.get(_FIELD), ("bundles", bundle, label, _FIELD))


def _named(value: object, path: Path) -> Iterator[tuple[str, Path]]:
    """What is no text, the job model refuses."""
    if isinstance(value, str) and value not in _NO_NAMES:
        yield value, path
