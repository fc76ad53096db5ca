"""Ended visits as their controller told of them, read back from the rows: what watches a ledger says the same."""

import json
import re
import sqlite3
from collections.abc import Collection

from core.failures import Kind
from core.ledger import queries
from core.ledger.completeness import condemned
from core.ledger.settling import EndedRun, EndedVisit
from core.lifecycle import Outcome, VisitState

_VISITS = """
SELECT v.id, v.block, v.host, v.state, v.kind, v.reason, v.leased_at_ns, v.ended_at_ns, s.experiment, s.ordinal,
       b.accepted_visit IS v.id AS accepted,
       (SELECT json_extract(body, '$.why') FROM event
        WHERE visit = v.id AND event = 'decided' AND json_extract(body, '$.what') = 'make-up') AS make_up
FROM visit v JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series
WHERE v.ended_at_ns IS NOT NULL AND v.id NOT IN (SELECT value FROM json_each(?)) ORDER BY v.ended_at_ns, v.id
"""

# As `core.ledger.settling` notes it.
_MAKE_UP = re.compile(r"block (\d+) measures ")


def ended_ids(db: sqlite3.Connection) -> set[int]:
    """The visits that have ended."""
    return {row["id"] for row in db.execute("SELECT id FROM visit WHERE ended_at_ns IS NOT NULL")}


def ended_visits(db: sqlite3.Connection, seen: Collection[int]) -> list[EndedVisit]:
    """Those that have ended and are not among `seen`, in the order of their ends. Their runs come without times."""
    return [_ended(db, row) for row in db.execute(_VISITS, (json.dumps(list(seen)),)).fetchall()]


def _ended(db: sqlite3.Connection, row: sqlite3.Row) -> EndedVisit:
    made = _MAKE_UP.match(row["make_up"] or "")
    runs = db.execute("SELECT slot, job, outcome, kind FROM run WHERE visit = ? ORDER BY slot", (row["id"],)).fetchall()
    failed = any(run["outcome"] == Outcome.FAILED for run in runs)
    return EndedVisit(
        visit=row["id"],
        block=row["block"],
        host=row["host"],
        experiment=row["experiment"],
        state=VisitState(row["state"]),
        kind=Kind(row["kind"]) if row["kind"] else None,
        reason=row["reason"],
        accepted=bool(row["accepted"]),
        make_up=int(made[1]) if made else None,
        condemned=_condemned_in(db, row) if failed else {},
        runs=tuple(
            EndedRun(r["slot"], r["job"], Outcome(r["outcome"]), Kind(r["kind"]) if r["kind"] else None, None)
            for r in runs
        ),
        wall_s=(row["ended_at_ns"] - row["leased_at_ns"]) / 1e9,
    )


def _condemned_in(db: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Kind]:
    """The jobs that failed for good in this visit."""
    series = queries.record(db, queries.find_experiment(db, row["experiment"]), row["ordinal"], samples=False)
    return {job: found.kind for job, found in condemned(series).items() if found.visit == row["id"]}
