"""The rows of `export`: one a run, or one a sample, with everything needed to analyse them elsewhere."""

import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

from core.analysis.pairs import block_median_ns
from core.ledger import queries
from core.ledger.rows import Block, Record, Run
from orchestrator.report.labels import labels_of
from orchestrator.report.rates import rates
from orchestrator.report.render import Row


def runs(db: sqlite3.Connection, name: str, series: int | None = None) -> list[Row]:
    """One row a run: where it stands, how it ended, its median, its rates, its job's fields and its metrics.

    Raises UnknownExperiment, NothingMatched, Ambiguous.
    """
    record = queries.record(db, queries.find_experiment(db, name), series)
    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    for row in queries.metrics(db, [run.id for run in record.runs]):
        metrics[row["run"]]["metric." + ":".join(filter(None, (row["name"], row["scope"])))] = row["value"]
    counts = queries.row_counts(db, [run.id for run in record.runs])
    places = _places(record)
    return [
        {
            **places[run.id],
            "iters": len(run.wall_ns),
            "time_ms": median(run.wall_ns) / 1e6 if run.wall_ns else None,
            "fastest_ms": min(run.wall_ns) / 1e6 if run.wall_ns else None,
            "slowest_ms": max(run.wall_ns) / 1e6 if run.wall_ns else None,
            **_rates(record, run, counts[run.id]),
            **_flat(dict(record.jobs[run.job])),
            **metrics[run.id],
        }
        for run in record.runs
    ]


def samples(db: sqlite3.Connection, name: str, series: int | None = None) -> list[Row]:
    """One row a timed iteration. Raises UnknownExperiment, NothingMatched, Ambiguous."""
    record = queries.record(db, queries.find_experiment(db, name), series)
    places = _places(record)
    return [{**places[run.id], "i": i, "wall_ns": ns} for run in record.runs for i, ns in enumerate(run.wall_ns)]


def _places(record: Record) -> dict[int, Row]:
    """run id -> where it stands and how it ended."""
    blocks = {block.id: block for block in record.blocks}
    labels = labels_of(record)
    return {run.id: _place(record, run, blocks[record.visits[run.visit].block], labels) for run in record.runs}


def _place(record: Record, run: Run, block: Block, labels: dict[str, str]) -> Row:
    visit = record.visits[run.visit]
    return {
        "run": f"{run.visit}.{run.slot}",
        "experiment": record.experiment.id,
        "series": record.series.ordinal,
        "group": block.grp,
        "block": block.ordinal,
        "origin": block.origin,
        "visit": run.visit,
        "slot": run.slot,
        "accepted": block.accepted_visit == run.visit,
        "label": labels[run.job],
        "reference": labels[block.slots[block.slots[run.slot].reference].job],
        "role": run.role,
        "host": visit.host,
        "sitting": visit.sitting,
        "outcome": run.outcome,
        "kind": run.kind,
        "phase": run.phase,
        "reason": run.reason,
        "job": run.job,
        "environment": run.environment,
        "program": run.program,
        "inputs": run.inputs,
    }


def _rates(record: Record, run: Run, counted: Mapping[str, int]) -> dict[str, Any]:
    if run.outcome != "ok" or not run.wall_ns:
        return {}
    kind = record.environments.get(run.environment or "", {}).get("device_kind", "")
    found = rates(record.jobs[run.job], block_median_ns(run) / 1e9, run.devices, kind, counted)
    return {"devices": run.devices, **({"formula": found.pop("version"), **found} if found else {})}


def _flat(spec: dict[str, Any]) -> dict[str, Any]:
    """A job's fields by name, tables entry by entry: job.topk, job.tiles.drhs, env.NAME."""
    env = {f"env.{name}": value for name, value in spec.pop("env", {}).items()}
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        flat |= {f"job.{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {f"job.{name}": value}
    return flat | env
