"""The ledger as a controller sees it before it decides: rows into a `Snapshot`."""

from collections import defaultdict

from core.failures import Kind
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
SELECT v.id, v.block, s.experiment, v.host, v.state, v.kind
FROM visit v INDEXED BY visit_not_over JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series
WHERE v.ended_at_ns IS NULL
AND (v.state IN ('leased', 'running') OR v.state = 'lost' AND b.accepted_visit IS NULL AND b.closed IS NULL)
ORDER BY v.id
"""

_MEASURED_BY = """
SELECT b.series, b.grp, v.host, COUNT(*) AS blocks FROM block b JOIN visit v ON v.id = b.accepted_visit
WHERE b.series IN (SELECT series FROM block WHERE accepted_visit IS NULL AND closed IS NULL)
GROUP BY b.series, b.grp, v.host
"""

_NEWEST_SERIES = """
SELECT s.id, s.experiment, e.paused FROM series s JOIN experiment e ON e.id = s.experiment
WHERE s.ordinal = (SELECT MAX(ordinal) FROM series WHERE experiment = s.experiment) ORDER BY s.id
"""


def survey(tx: Transaction, views: dict[int, SeriesView]) -> Snapshot:
    """What is open now, and how the newest series of every experiment stand.

    `views`: series whose runs have not changed since they were looked at; those looked at now are added.
    """
    measured_by: dict[tuple[int, str], dict[str, int]] = defaultdict(dict)
    for series, grp, host, blocks in tx.all(_MEASURED_BY):
        measured_by[series, grp][host] = blocks
    return Snapshot(
        blocks=tuple(
            OpenBlock(
                id=row.id,
                experiment=row.experiment,
                series=row.series,
                grp=row.grp,
                ordinal=row.ordinal,
                arms=parse_slots(row.slots),
                origin=row.origin,
                avoid_host=row.avoid_host,
                measured_by=measured_by[row.series, row.grp],
            )
            for row in tx.all(_BLOCKS)
        ),
        visits=tuple(
            OpenVisit(
                row.id, row.block, row.experiment, row.host, VisitState(row.state), Kind(row.kind) if row.kind else None
            )
            for row in tx.all(_VISITS)
        ),
        series={row.id: _view(tx, row.id, row.experiment, row.paused, views) for row in tx.all(_NEWEST_SERIES)},
    )


def _view(
    tx: Transaction, series: int, experiment: str, paused: str | None, views: dict[int, SeriesView]
) -> SeriesView:
    if series not in views:
        stand = standing(tx, series)
        views[series] = SeriesView(series, experiment, paused, stand.verdicts, stand.measured, stand.history.failed)
    return views[series]._replace(paused=paused)
