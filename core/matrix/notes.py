"""Sentences about what became of the cells: without a job, folded, spread over several visits, not checked."""

from collections import Counter
from collections.abc import Sequence

from core.matrix.document import Document
from core.matrix.error import shown
from core.matrix.grouping import Draft
from core.matrix.model import MAX_ARMS, Cell
from core.matrix.resolve import Resolved
from core.matrix.revisions import Revisions

# As much of a commit id as is shown: git shows as few for a repository of this size.
_COMMIT_CHARACTERS = 12


def notes_of(
    document: Document,
    resolved: Sequence[Resolved],
    cells: Sequence[Cell],
    drafts: Sequence[Draft],
    commits: Revisions,
) -> tuple[str, ...]:
    return (
        *_named(commits),
        *_without_job(cells),
        *_folded(resolved, cells),
        *_split(drafts),
        *_unchecked(document),
    )


def _named(commits: Revisions) -> list[str]:
    """A name may stand for another commit tomorrow."""
    names = [(name, commit) for name, commit in commits.items() if not commit.startswith(name)]
    return [f"code = {shown(name)} is commit {commit[:_COMMIT_CHARACTERS]}" for name, commit in names]


def _without_job(cells: Sequence[Cell]) -> list[str]:
    whys = Counter(cell.why for cell in cells if cell.why is not None)
    return [f"{_count(count)} without a job: {why}" for why, count in whys.items()]


def _folded(resolved: Sequence[Resolved], cells: Sequence[Cell]) -> list[str]:
    twins = [(resolved[cell.ordinal], resolved[cell.folded_into]) for cell in cells if cell.folded_into is not None]
    if not twins:
        return []
    reasons = dict.fromkeys(reason for cell, first in twins for reason in _reasons(cell, first))
    total = sum(cell.job is not None for cell in cells)
    return [f"{_count(total)} are {total - len(twins)} jobs: {'; '.join(reasons)}"]


def _reasons(cell: Resolved, first: Resolved) -> list[str]:
    ours, theirs = cell.point.settings, first.point.settings
    reasons = [
        f"{name} cannot matter for {because}"
        for name, because in cell.irrelevant.items()
        if ours.get(name) != theirs.get(name)
    ]
    if ours["code"] != theirs["code"]:
        reasons.append(f"code {shown(theirs['code'])} and {shown(ours['code'])} are the same commit")
    return reasons or ["an include repeats a cell" if cell.point.include else "labels of a bundle are the same"]


def _split(drafts: Sequence[Draft]) -> list[str]:
    arms = [(draft.label, len({pair.job for pair in draft.pairs})) for draft in drafts]
    return [
        f"group {label} has {count} arms, more than the {MAX_ARMS} of a visit: it is measured in several, "
        "each with the references its arms need"
        for label, count in arms
        if count > MAX_ARMS
    ]


def _unchecked(document: Document) -> list[str]:
    if document.question.jobs is None or not document.reshaped:
        return []
    return [f"jobs = {document.question.jobs} is not checked: the command line changed which jobs there are"]


def _count(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"
