"""What `status` says: the proof that no cell vanishes, what runs, and why each waiting block waits."""

import sqlite3
from collections import Counter
from datetime import datetime
from pathlib import Path

from core.ledger import queries
from core.ledger.completeness import ENDED, Standing, standings
from core.ledger.holder import Holder, holder
from core.ledger.rows import Record
from core.ledger.stopped import stopped_advice
from core.lifecycle import HostState
from orchestrator.report.labels import cell_name, labels_of
from orchestrator.report.render import Report, Row, Rows

# These take visits, or will without anyone's help.
_WORKING = frozenset({HostState.READY, HostState.BUSY, HostState.SUSPECT})


def overall(db: sqlite3.Connection, path: Path) -> Report:
    """Of every experiment's newest series."""
    records = [queries.record(db, experiment, samples=False) for experiment in queries.experiments(db)]
    rows = []
    for record in records:
        found = standings(record)
        rows.append(
            {
                "experiment": record.experiment.id,
                "series": record.series.ordinal,
                "complete": all(s.state in ENDED for s in found),
                "cells": ", ".join(f"{n} {state}" for state, n in Counter(s.state for s in found).items()),
            }
        )
    return {"experiments": rows, **_now(db, path, None)}


def one(db: sqlite3.Connection, path: Path, name: str, series: int | None) -> Report:
    """Of one experiment, cell by cell. Raises UnknownExperiment, NothingMatched, Ambiguous."""
    record = queries.record(db, queries.find_experiment(db, name), series, samples=False)
    labels = labels_of(record)
    found = standings(record)
    cells = [
        {
            "cell": cell_name(s.cell, labels),
            "state": s.shown,
            "blocks": s.blocks,
            "wanted": s.wanted,
            "reason": s.reason,
        }
        for s in found
    ]
    conclusion = [{"conclusion": _conclusion(record, found)}]
    return {"cells": cells, **_now(db, path, record.experiment.id), "conclusion": conclusion}


def _conclusion(record: Record, found: list[Standing]) -> str:
    name = record.experiment.id
    counts = ", ".join(f"{n} {state}" for state, n in Counter(s.shown for s in found).items())
    lacking = [s for s in found if s.state not in ENDED]
    if lacking:
        return f"{name} is not complete: {len(lacking)} of {len(found)} cells have no last word yet ({counts})"
    return f"{name} is complete: every one of its {len(found)} cells has its last word ({counts})"


def _now(db: sqlite3.Connection, path: Path, experiment: str | None) -> dict[str, Rows]:
    held = holder(path)
    return {
        "visits": [_visit(v) for v in queries.open_visits(db) if experiment in (None, v.experiment)],
        "waiting": _waiting(db, held, experiment),
        "hosts": [
            {"host": c.host, "state": c.state, "reason": c.reason, "since": _clock(c.since_ns)}
            for c in queries.conditions(db)
            if c.reason
        ],
        "requests": [
            {"request": r["id"], "verb": r["verb"], "asked_by": r["asked_by"], "asked": _clock(r["asked_at_ns"])}
            for r in queries.unanswered(db)
        ],
        "ledger": [_ledger(path, held)],
    }


def _visit(v: queries.OpenVisit) -> Row:
    return {
        "visit": v.visit,
        "experiment": v.experiment,
        "group": v.grp,
        "block": v.ordinal,
        "host": v.host,
        "state": v.state,
        "phase": v.phase or "",
        "slot": v.slot,
        "ended": v.ended,
        "slots": v.slots,
        "leased": _clock(v.leased_at_ns),
    }


def _waiting(db: sqlite3.Connection, held: Holder | None, experiment: str | None) -> Rows:
    waiting = [b for b in queries.queue(db) if b.visit is None]
    obstacle = _obstacle(db, held)
    rows, ahead = [], 0
    for block in waiting:
        if experiment in (None, block.experiment):
            why = _why(block, obstacle, ahead)
            rows.append({"experiment": block.experiment, "group": block.grp, "block": block.ordinal, "why": why})
        ahead += block.paused is None
    return rows


def _obstacle(db: sqlite3.Connection, held: Holder | None) -> str:
    """What keeps every block waiting; "" when nothing does."""
    if held is None:
        return "nobody drives this ledger: `hillclimb drive` does"
    if advice := stopped_advice(held.pid, held.machine):
        return f"its controller does nothing: {advice}"
    hosts = queries.conditions(db)
    if any(HostState(c.state) in _WORKING for c in hosts):
        return ""
    ill = "; ".join(f"{c.host} is {c.state}: {c.reason}" for c in hosts if c.reason)
    if ill:
        return f"no usable host ({ill}): `hillclimb pool check` says more"
    return "its hosts are being looked at" if hosts else ""


def _why(block: queries.OpenBlock, obstacle: str, ahead: int) -> str:
    """The first thing that stands in the way."""
    if block.paused is not None:
        return f"paused ({block.paused}): `hillclimb resume {block.experiment}` lets it go on"
    if obstacle:
        return obstacle
    queued = f"queued behind {ahead}" if ahead else "next"
    return f"{queued}, on another host than {block.avoid_host} if there is one" if block.avoid_host else queued


def _ledger(path: Path, held: Holder | None) -> Row:
    if held is None:
        return {"ledger": str(path), "held_by": None, "pid": None, "machine": None, "since": None}
    return {"ledger": str(path), "held_by": held.who, "pid": held.pid, "machine": held.machine, "since": held.since}


def _clock(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().isoformat(timespec="seconds")
