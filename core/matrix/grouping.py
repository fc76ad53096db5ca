"""Arms into groups: what one visit measures.

A group never holds a job twice, and never more than MAX_ARMS. Whoever is compared with a reference stands behind it,
in the same group; a reference with more arms than fit is repeated in as many groups as its arms need. Groups that
would compare the same jobs are one.
"""

from collections.abc import Sequence
from typing import NamedTuple

from core.job import Job
from core.matrix.model import MAX_ARMS, Group


class Pair(NamedTuple):
    """A cell's job, and the job it is compared with: itself for a reference."""

    cell: int
    job: str
    reference: str


class Draft(NamedTuple):
    """Cells that share a group, as far as it holds them all."""

    label: str
    pairs: list[Pair]


class Grouping(NamedTuple):
    groups: tuple[Group, ...]
    group_of: dict[int, int]  # cell -> its group


def grouped(drafts: Sequence[Draft], jobs: dict[str, Job]) -> Grouping:
    """`jobs`: every job by its id."""
    groups: list[Group] = []
    group_of: dict[int, int] = {}
    same: dict[frozenset[tuple[str, str]], dict[tuple[str, str], int]] = {}
    labels: set[str] = set()
    for draft in drafts:
        comparisons = frozenset((pair.job, pair.reference) for pair in draft.pairs)
        if comparisons not in same:
            same[comparisons] = {}
            for arms in _visits(draft.pairs):
                label = _unused(draft.label, labels)
                labels.add(label)
                for arm in arms.items():
                    same[comparisons].setdefault(arm, len(groups))
                order = list(arms)
                groups.append(
                    Group(
                        ordinal=len(groups),
                        label=label,
                        jobs=tuple(jobs[job] for job in order),
                        reference_of=tuple(order.index(reference) for reference in arms.values()),
                    )
                )
        for pair in draft.pairs:
            group_of[pair.cell] = same[comparisons][pair.job, pair.reference]
    return Grouping(tuple(groups), group_of)


def _unused(label: str, labels: set[str]) -> str:
    """The label itself for the first group, so that a group keeps its name when the matrix grows beyond one visit."""
    ordinal = 2
    name = label
    while name in labels:
        name = f"{label} #{ordinal}"
        ordinal += 1
    return name


def _visits(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """Job -> its reference, in the order of measuring, for each group that the pairs need."""
    visits: list[dict[str, str]] = []
    for cluster in _clusters(pairs):
        if not visits or len(visits[-1].keys() | cluster) > MAX_ARMS or _disagree(visits[-1], cluster):
            visits.append({})
        reference, *arms = cluster
        for arm in (reference, *arms):
            if len(visits[-1]) == MAX_ARMS:
                visits.append({reference: reference})
            visits[-1][arm] = reference
    return visits


def _clusters(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """The jobs compared with each reference, the reference first."""
    clusters: dict[str, dict[str, str]] = {}
    for pair in pairs:
        clusters.setdefault(pair.reference, {pair.reference: pair.reference})[pair.job] = pair.reference
    return list(clusters.values())


def _disagree(visit: dict[str, str], cluster: dict[str, str]) -> bool:
    """One of the cluster's jobs is compared with another reference there: a job is one slot, with one reference."""
    return any(visit.get(job, reference) != reference for job, reference in cluster.items())
