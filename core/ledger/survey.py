"""The ledger as a controller sees it before it decides: rows into a `Snapshot`."""

from collections import defaultdict
from typing import NamedTuple

from core.failures import Blame, Kind, blame
from core.ledger.blocks import parse_slots
from core.ledger.memory import standing
from core.ledger.snapshot import OpenBlock, OpenVisit, SeriesView, Snapshot
from core.ledger.transaction import Transaction
from core.lifecycle import VisitState

_BLOCKS = """
SELECT b.id, s.experiment, b.series, b.grp, b.ordinal, b.slots, b.origin, b.avoid_host
FROM block b JOIN series s ON s.id = b.series JOIN experiment e ON e.id = s.experiment
WHERE b.accepted_visit IS NULL AND b.closed IS NULL
ORDER BY e.priority DESC, b.front DESC, e.queued_at_ns, s.id, b.ordinal, b.id
"""

# A lost visit whose spool is gone has ended: it cannot come back.
_VISITS = """
SELECT v.id, v.block, s.experiment, v.host, v.state
FROM visit v INDEXED BY visit_not_over JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series
WHERE v.ended_at_ns IS NULL
AND (v.state IN ('leased', 'running') OR v.state = 'lost' AND b.accepted_visit IS NULL AND b.closed IS NULL)
ORDER BY v.id
"""

# Served by the index `job_of_code`: word for word its expression and its condition.
_CODES = """
SELECT id, json_extract(spec, '$.code') AS code FROM job WHERE json_extract(spec, '$.code') <> ''
"""

_MEASURED_BY = """
SELECT b.series, b.grp, v.host, COUNT(*) AS blocks FROM block b JOIN visit v ON v.id = b.accepted_visit
WHERE b.series IN (SELECT series FROM block WHERE accepted_visit IS NULL AND closed IS NULL)
GROUP BY b.series, b.grp, v.host
"""

_NEWEST_SERIES = """
SELECT s.id, s.experiment, e.paused, a.series IS NOT NULL AS alarmed
FROM series s JOIN experiment e ON e.id = s.experiment LEFT JOIN alarm a ON a.series = s.id
WHERE s.ordinal = (SELECT MAX(ordinal) FROM series WHERE experiment = s.experiment) ORDER BY s.id
"""

# CROSS JOIN: from the few failed runs outwards, as in `core.ledger.memory`
_BLAMED = f"""
SELECT DISTINCT v.host, r.job FROM run r CROSS JOIN visit v ON v.id = r.visit CROSS JOIN block b ON b.id = v.block
LEFT JOIN condition c ON c.host = v.host
WHERE r.outcome = 'failed' AND r.kind IN ({", ".join(repr(str(k)) for k in Kind if blame(k) is Blame.AMBIGUOUS)})
AND v.id > COALESCE(c.trusted_from, 0) AND v.ended_at_ns IS NOT NULL
AND EXISTS (
    SELECT 1 FROM run g JOIN visit w ON w.id = g.visit JOIN block d ON d.id = w.block
    WHERE g.job = r.job AND g.outcome IN ('ok', 'checked') AND d.series = b.series AND w.host <> v.host
    AND w.ended_at_ns > v.ended_at_ns
)
"""


class Views(NamedTuple):
    """What was found out about runs, and stands until more of them end."""

    series: dict[int, SeriesView]
    blamed: dict[str, frozenset[str]]


def survey(tx: Transaction, views: Views | None) -> tuple[Snapshot, Views]:
    """What is open now, and how the newest series of every experiment and the hosts stand.

    `views`: what the last survey found, when no run has ended since; what is found now is given back.
    """
    views = views or Views({}, _blamed(tx))
    code_of = {row.id: row.code for row in tx.all(_CODES)}
    measured_by: dict[tuple[int, str], dict[str, int]] = defaultdict(dict)
    for series, grp, host, blocks in tx.all(_MEASURED_BY):
        measured_by[series, grp][host] = blocks
    snapshot = Snapshot(
        blocks=tuple(
            OpenBlock(
                id=row.id,
                experiment=row.experiment,
                series=row.series,
                grp=row.grp,
                ordinal=row.ordinal,
                arms=(arms := parse_slots(row.slots)),
                origin=row.origin,
                avoid_host=row.avoid_host,
                measured_by=measured_by[row.series, row.grp],
                codes={arm.job: code_of[arm.job] for arm in arms if arm.job in code_of},
            )
            for row in tx.all(_BLOCKS)
        ),
        visits=tuple(
            OpenVisit(row.id, row.block, row.experiment, row.host, VisitState(row.state)) for row in tx.all(_VISITS)
        ),
        series={
            row.id: _view(tx, row.id, row.experiment, views)._replace(paused=row.paused, alarmed=bool(row.alarmed))
            for row in tx.all(_NEWEST_SERIES)
        },
        blamed=views.blamed,
    )
    return snapshot, views


def _view(tx: Transaction, series: int, experiment: str, views: Views) -> SeriesView:
    if series not in views.series:
        stand = standing(tx, series)
        views.series[series] = SeriesView(
            series, experiment, None, stand.verdicts, stand.measured, stand.history.failed, stand.history.ambiguous
        )
    return views.series[series]


def _blamed(tx: Transaction) -> dict[str, frozenset[str]]:
    jobs: dict[str, set[str]] = defaultdict(set)
    for host, job in tx.all(_BLAMED):
        jobs[host].add(job)
    return {host: frozenset(those) for host, those in jobs.items()}
