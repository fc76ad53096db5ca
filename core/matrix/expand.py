"""A matrix, expanded: text to cells, jobs and groups."""

from collections import Counter
from types import MappingProxyType

from core.job import Job
from core.labels import printed
from core.matrix.comparisons import Comparison, read_comparison
from core.matrix.document import Document, read_document
from core.matrix.error import MatrixError
from core.matrix.grouping import Grouping, grouped
from core.matrix.model import NO_OVERRIDES, Cell, Expansion, Overrides
from core.matrix.notes import notes_of
from core.matrix.pairing import LISTED, paired
from core.matrix.resolve import Resolved, resolve
from core.matrix.revisions import Revisions, commits_of, names_in

NO_REVISIONS: Revisions = MappingProxyType({})


def expand(
    text: str, place: str, overrides: Overrides = NO_OVERRIDES, revisions: Revisions = NO_REVISIONS
) -> Expansion:
    """The cells, jobs and groups of a matrix. `place` names the text in errors; `revisions` holds the full commit id of
    every name that `revisions_of` finds. Raises MatrixError."""
    document = read_document(text, place, overrides)
    commits = commits_of(document, revisions)
    comparison = read_comparison(document)
    resolved, jobs = resolve(document, commits)
    if not jobs:
        raise _no_jobs(document, resolved)
    drafts = paired(comparison, resolved, document.places)
    _check_count(document, len(jobs))
    grouping = grouped(drafts, jobs)
    cells = _cells(resolved, jobs, comparison, grouping)
    return Expansion(
        experiment=document.question.id,
        goal=document.question.goal,
        priority=document.question.priority,
        text=text,
        overrides=overrides,
        measure=document.measure,
        interleaved=comparison.interleaved,
        baseline={
            axis: list(value) if isinstance(value, tuple) else value for axis, value in document.baseline.items()
        },
        cells=cells,
        groups=grouping.groups,
        revisions=commits,
        notes=notes_of(document, resolved, cells, drafts, commits),
    )


def revisions_of(text: str, place: str, overrides: Overrides = NO_OVERRIDES) -> tuple[str, ...]:
    """The names of revisions in a matrix, whose commits `expand` must be told. Raises MatrixError."""
    return names_in(read_document(text, place, overrides))


def _no_jobs(document: Document, resolved: list[Resolved]) -> MatrixError:
    whys = Counter(cell.why for cell in resolved).most_common(LISTED)
    problem = f"no cell has a job: {'; '.join(f'{why} ({count} of {len(resolved)} cells)' for why, count in whys)}"
    return document.places.error((), problem, "change the axes, [job] or the excludes")


def _check_count(document: Document, distinct: int) -> None:
    said = document.question.jobs
    if said is not None and said != distinct and not document.reshaped:
        problem = f"jobs = {said}, but after folding there are {distinct} distinct jobs"
        fix = f"write jobs = {distinct} if that is what you meant, else correct the axes"
        raise document.places.error(("experiment", "jobs"), problem, fix)


def _cells(
    resolved: list[Resolved], jobs: dict[str, Job], comparison: Comparison, grouping: Grouping
) -> tuple[Cell, ...]:
    firsts: dict[str, int] = {}
    return tuple(
        Cell(
            ordinal=ordinal,
            coordinates={key: printed(value) for key, value in point.coordinates.items()},
            group=grouping.group_of.get(ordinal),
            job=None if job is None else jobs[job],
            why=why,
            reference=job is not None and comparison.is_reference(point.settings),
            folded_into=None if job is None or firsts.setdefault(job, ordinal) == ordinal else firsts[job],
        )
        for ordinal, (point, job, why, _) in enumerate(resolved)
    )
