"""What `show` says: everything about one run, or the runs of a job."""

import json
import re
import sqlite3
from collections.abc import Mapping
from statistics import median
from typing import Any

from core.failures import MEANING, Kind
from core.ledger import queries
from orchestrator.report.rates import rates
from orchestrator.report.render import Report, Row, Rows


def show(db: sqlite3.Connection, name: str) -> Report:
    """Of the run VISIT.SLOT, or of the job whose id begins so. Raises NothingMatched, Ambiguous."""
    if re.fullmatch(r"\d{1,18}\.\d{1,9}", name):
        return _run(db, queries.find_run(db, name))
    job = queries.find_job(db, name)
    runs = queries.runs_of_job(db, job)
    spec = json.loads(db.execute("SELECT spec FROM job WHERE id = ?", (job,)).fetchone()[0])
    times = {r.run: _samples(db, r.run) for r in runs}
    return {"runs": [_loose(r, times[r.run]) for r in runs], "job": _fields({"id": job, **spec})}


def _loose(r: queries.Loose, wall_ns: list[int]) -> Row:
    return {
        "run": r.name,
        "experiment": r.experiment,
        "series": r.series,
        "outcome": r.outcome or "open",
        "accepted": r.accepted,
        "time_ms": median(wall_ns) / 1e6 if wall_ns else None,
        "job": r.job,
    }


def _run(db: sqlite3.Connection, found: queries.Loose) -> Report:
    run = dict(db.execute("SELECT * FROM run WHERE id = ?", (found.run,)).fetchone())
    visit = dict(db.execute("SELECT * FROM visit WHERE id = ?", (run["visit"],)).fetchone())
    block = dict(db.execute("SELECT * FROM block WHERE id = ?", (visit["block"],)).fetchone())
    spec = json.loads(db.execute("SELECT spec FROM job WHERE id = ?", (run["job"],)).fetchone()[0])
    facts = _facts(db, run["environment"])
    samples = _samples(db, found.run)
    metrics = [{k: row[k] for k in row.keys() if k != "run"} for row in queries.metrics(db, [found.run])]  # noqa: SIM118
    devices = max((m["devices"] for m in metrics), default=1)
    derived: dict[str, Any] = {}
    if samples and run["outcome"] == "ok":
        derived = {
            "devices": devices,
            **rates(
                spec,
                max(median(samples), 1) / 1e9,
                devices,
                facts.get("device_kind", ""),
                queries.row_counts(db, [found.run])[found.run],
            ),
        }
    return {
        "run": _fields(
            {
                **_loose(found, samples),
                "role": run["role"],
                "group": block["grp"],
                "block": block["ordinal"],
                "origin": block["origin"],
                "host": visit["host"],
                "sitting": visit["sitting"],
                "visit_state": visit["state"],
                "visit_reason": visit["reason"],
                "process": run["process"],
                "program": run["program"],
                "inputs": run["inputs"],
                **_failure(run),
            }
        ),
        "job": _fields(spec),
        "environment": _fields({"id": run["environment"], **facts}),
        "samples": [{"i": i, "wall_ns": ns, "wall_ms": ns / 1e6} for i, ns in enumerate(samples)],
        "rates": _fields(derived),
        "metrics": metrics,
        "events": _events(db, run["visit"], run["slot"]),
    }


def _failure(run: Mapping[str, Any]) -> dict[str, Any]:
    """How a run that is not ok ended, and what to do about it."""
    if run["outcome"] == "ok":
        return {}
    told = {key: run[key] for key in ("kind", "phase", "reason", "exit_status", "stderr_tail") if run[key]}
    return told | ({"advice": MEANING[Kind(run["kind"])].advice} if run["kind"] else {})


def _facts(db: sqlite3.Connection, environment: str | None) -> dict[str, str]:
    row = db.execute("SELECT facts FROM environment WHERE id = ?", (environment,)).fetchone()
    return dict(json.loads(row["facts"])) if row else {}


def _samples(db: sqlite3.Connection, run: int) -> list[int]:
    return [row["wall_ns"] for row in db.execute("SELECT wall_ns FROM sample WHERE run = ? ORDER BY i", (run,))]


def _events(db: sqlite3.Connection, visit: int, slot: int) -> Rows:
    """Those of the visit that are about this slot or about no slot, in the order they were said."""
    query = """SELECT seq, event, body FROM event
               WHERE visit = ? AND coalesce(json_extract(body, '$.slot'), ?) = ? ORDER BY spool, seq"""
    told = []
    for row in db.execute(query, (visit, slot, slot)):
        body = {k: v for k, v in json.loads(row["body"]).items() if k not in ("event", "slot")}
        told.append({"seq": row["seq"], "event": row["event"], "body": body})
    return told


def _fields(values: Mapping[str, Any]) -> list[Row]:
    return [{"field": key, "value": value} for key, value in values.items()]
