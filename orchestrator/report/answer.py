"""What `compare` says: one row a comparison, and the sentences that close the experiment."""

import math
import sqlite3
from typing import NamedTuple

from core.analysis.closing import closing
from core.analysis.compare import Comparison, compare, device_kinds, needs_scatter, scatter_of
from core.analysis.verdict import UNDECIDED
from core.analysis.wording import sentence
from core.ledger import queries
from core.ledger.rows import Record
from orchestrator.report.labels import labels_of
from orchestrator.report.render import Report, Row, Rows


class Answer(NamedTuple):
    """`decided`: every comparison has a verdict."""

    report: Report
    decided: bool


def answer(db: sqlite3.Connection, name: str, series: int | None = None) -> Answer:
    """The comparisons of an experiment. Raises UnknownExperiment, NothingMatched, Ambiguous."""
    record = queries.record(db, queries.find_experiment(db, name), series)
    comparisons = compare_in(db, record)
    if not comparisons:
        raise queries.NothingMatched(
            f"{record.experiment.id} compares nothing: give its matrix a [baseline] to compare with"
        )
    labels = labels_of(record)
    conclusions: Rows = [{"conclusion": text} for text in closing(comparisons)]
    report: Report = {"comparisons": [_row(c, labels) for c in comparisons], "conclusions": conclusions}
    return Answer(report, not any(c.verdict in UNDECIDED for c in comparisons))


def compare_in(db: sqlite3.Connection, record: Record) -> list[Comparison]:
    """The comparisons of a series; those of one or two blocks borrow their scatter from the rest of the ledger."""
    scatter = None
    if needs_scatter(record):
        newest = [queries.record(db, experiment) for experiment in queries.experiments(db)]
        scatter = scatter_of(newest, device_kinds(record))
    return compare(record, scatter)


def _row(c: Comparison, labels: dict[str, str]) -> Row:
    arm, reference = labels[c.cell.job or ""], labels[c.reference.job or ""]
    low, high = (c.estimate.interval if c.estimate else None) or (None, None)
    return {
        "arm": arm,
        "reference": reference,
        "ratio": _ratio(c.estimate.mean if c.estimate else None),
        "low": _ratio(low),
        "high": _ratio(high),
        "effect_pct": None if c.estimate is None else 100 * math.expm1(c.estimate.mean),
        **_devices(c),
        "blocks": c.standing.blocks,
        "verdict": c.verdict.value,
        "confidence": c.confidence.level.value,
        "sentence": sentence(c, arm, reference),
    }


def _devices(c: Comparison) -> Row:
    """That times were compared per device, where arm and reference used different numbers of them."""
    arm, reference = c.devices
    return {} if arm == reference else {"per_device": f"{arm} against {reference} devices"}


def _ratio(log_ratio: float | None) -> float | None:
    return None if log_ratio is None else math.exp(log_ratio)
