"""The rows of `ls`: experiments with the states of their cells, or one experiment's cells."""

import sqlite3
from collections import Counter
from statistics import median

from core.analysis.pairs import block_median_ns
from core.ledger import queries
from core.ledger.completeness import CellState, standings
from core.ledger.counting import counted
from core.ledger.rows import Record
from orchestrator.report.labels import cell_name, labels_of
from orchestrator.report.render import Row


def experiments(db: sqlite3.Connection) -> list[Row]:
    """One row an experiment, with how many cells of its newest series are in which state. Only states that occur."""
    records = [queries.record(db, experiment, samples=False) for experiment in queries.experiments(db)]
    counts = [Counter(s.state for s in standings(record)) for record in records]
    shown = [state for state in CellState if any(count[state] for count in counts)]
    return [
        _experiment(record, {s.value: count[s] for s in shown}) for record, count in zip(records, counts, strict=True)
    ]


def cells(db: sqlite3.Connection, name: str, series: int | None) -> list[Row]:
    """One row a cell. Raises UnknownExperiment, NothingMatched, Ambiguous."""
    record = queries.record(db, queries.find_experiment(db, name), series)
    labels, times = labels_of(record), times_ms(record)
    return [
        {
            "cell": cell_name(s.cell, labels),
            "state": s.shown,
            "blocks": s.blocks,
            "wanted": s.wanted,
            "time_ms": times.get(s.cell.job or ""),
            "job": s.cell.job,
            "reason": s.reason,
        }
        for s in standings(record)
    ]


def times_ms(record: Record) -> dict[str, float]:
    """job -> the median over its counted runs of the medians of their iterations."""
    medians: dict[str, list[float]] = {}
    for item in counted(record):
        if item.run.wall_ns:
            medians.setdefault(item.run.job, []).append(block_median_ns(item.run))
    return {job: median(values) / 1e6 for job, values in medians.items()}


def _experiment(record: Record, counts: dict[str, int]) -> Row:
    return {
        "experiment": record.experiment.id,
        "series": record.series.ordinal,
        "cells": len(record.cells),
        **counts,
        "paused": record.experiment.paused,
        "goal": record.experiment.goal,
    }
