"""The rows of `table`: one value of every cell, by one axis down and one across."""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from core.errors import HillclimbError
from core.ledger import queries
from core.ledger.completeness import CellState, Standing, standings
from core.ledger.counting import counted
from core.ledger.rows import Cell, Record
from orchestrator.report.answer import compare_in
from orchestrator.report.listing import times_ms
from orchestrator.report.rates import RATES, rates
from orchestrator.report.render import Row

TIME = "time_ms"
RATIO = "ratio"


class Layout(NamedTuple):
    """`rows`, `cols`: axes, or None to choose. `where`: axis -> the value it is fixed to."""

    rows: str | None
    cols: str | None
    where: Mapping[str, str]


class BadLayout(HillclimbError):
    """The axes asked for do not make a table."""


def table(db: sqlite3.Connection, name: str, layout: Layout, value: str, series: int | None = None) -> list[Row]:
    """`value` of every cell; where a cell has none, why.

    Raises BadLayout, UnknownExperiment, NothingMatched, Ambiguous.
    """
    record = queries.record(db, queries.find_experiment(db, name), series)
    chosen = _where([s for s in standings(record) if s.state is not CellState.RETIRED], layout.where)
    rows, cols = _axes(record, chosen, layout)
    values = _values(db, record, value)
    found: dict[str, dict[str, float | str]] = defaultdict(dict)
    columns = list(dict.fromkeys(_column(s.cell, cols, value) for s in chosen))
    for s in chosen:
        here = found[s.cell.coordinates[rows]]
        column = _column(s.cell, cols, value)
        shown = values.get((s.cell.job, s.cell.reference), _why(s, value))
        # an include may name a point again: a value says more than a reason
        if not isinstance(here.get(column), float):
            here[column] = shown
    return [{rows: point, **{c: cells.get(c, "no such cell") for c in columns}} for point, cells in found.items()]


def _why(s: Standing, value: str) -> str:
    return f"no {value}" if s.state is CellState.DONE else s.shown


def _column(cell: Cell, cols: str | None, value: str) -> str:
    return value if cols is None else f"{cols}={cell.coordinates[cols]} {value}"


def _values(db: sqlite3.Connection, record: Record, value: str) -> dict[tuple[str | None, str | None], float]:
    """(job, reference) -> the value, where there is one."""
    pairs = [(cell.job, cell.reference) for cell in record.cells if cell.job is not None]
    if value == RATIO:
        ratios = {
            (c.cell.job, c.cell.reference): math.exp(c.estimate.mean) for c in compare_in(db, record) if c.estimate
        }
        return ratios | {(job, reference): 1.0 for job, reference in pairs if job == reference}
    if value == TIME or value in RATES:
        times = times_ms(record)
        by_job = times if value == TIME else _rates(db, record, times, value)
    else:
        by_job = _metric(db, record, value)
    return {(job, reference): by_job[job] for job, reference in pairs if job in by_job}


def _rates(db: sqlite3.Connection, record: Record, times: Mapping[str, float], name: str) -> dict[str, float]:
    """From the cell's own time: rates of single runs are never averaged. Its rows are drawn from a seed, so that every
    run of the cell counts the same."""
    runs = {item.run.job: item.run for item in counted(record)}
    counts = queries.row_counts(db, [run.id for run in runs.values()])
    found = {}
    for job, time_ms in times.items():
        run = runs[job]
        kind = record.environments.get(run.environment or "", {}).get("device_kind", "")
        rate = rates(record.jobs[job], time_ms / 1e3, run.devices, kind, counts[run.id]).get(name)
        if isinstance(rate, float | int):
            found[job] = float(rate)
    return found


def _metric(db: sqlite3.Connection, record: Record, value: str) -> dict[str, float]:
    """The median over counted runs. `value` is a metric's name, or NAME:SCOPE for one of several scopes."""
    jobs = {item.run.id: item.run.job for item in counted(record)}
    rows = queries.metrics(db, jobs)
    name, _, scope = value.partition(":")
    scopes = sorted({row["scope"] for row in rows if row["name"] == name})
    if not scopes:
        known = ", ".join([TIME, RATIO, *RATES, *sorted({row["name"] for row in rows})])
        raise queries.NothingMatched(f"no run of {record.experiment.id} has a metric {name!r}: choose one of {known}")
    if scope not in scopes and (scope or len(scopes) > 1):
        choice = ", ".join(f"{name}:{s}" for s in scopes if s)
        raise BadLayout(f"metric {name} has several scopes: choose one of {choice}")
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["name"] == name and row["scope"] == (scope or scopes[0]):
            values[jobs[row["run"]]].append(row["value"])
    return {job: median(numbers) for job, numbers in values.items()}


def _where(found: Sequence[Standing], where: Mapping[str, str]) -> list[Standing]:
    for axis, value in where.items():
        known = list(dict.fromkeys(s.cell.coordinates[axis] for s in found if axis in s.cell.coordinates))
        if not known:
            axes = ", ".join(dict.fromkeys(a for s in found for a in s.cell.coordinates))
            raise BadLayout(f"--where {axis}={value}: there is no axis {axis}: the axes are {axes}")
        if value not in known:
            raise queries.NothingMatched(f"--where {axis}={value}: {axis} has {', '.join(known)}")
    return [s for s in found if all(s.cell.coordinates.get(axis) == value for axis, value in where.items())]


def _axes(record: Record, found: Sequence[Standing], layout: Layout) -> tuple[str, str | None]:
    """The axis down and the axis across. Every other one that varies must be fixed."""
    values: dict[str, set[str]] = defaultdict(set)
    for s in found:
        for axis, value in s.cell.coordinates.items():
            values[axis].add(value)
    if not values:
        raise queries.NothingMatched(
            f"{record.experiment.id} has no cell like that: `hillclimb ls {record.experiment.id}`"
        )
    for named in (layout.rows, layout.cols):
        if named is not None and named not in values:
            raise BadLayout(f"there is no axis {named}: the axes are {', '.join(values)}")
    varying = [a for a in values if len(values[a]) > 1] or list(values)[:1]
    tested = [a for a in varying if a in record.series.baseline]
    free = [a for a in varying if a not in (layout.rows, layout.cols)]
    # what is compared stands side by side
    cols = layout.cols or next((a for a in tested if a in free and len(varying) > 1), None)
    rows = layout.rows or next((a for a in free if a != cols), None)
    if rows is None:
        rows, cols = cols or varying[0], None
    left = [a for a in varying if a not in (rows, cols)]
    if left:
        raise BadLayout(
            f"{', '.join(left)} vary too: fix each with --where AXIS=VALUE, or name other --rows and --cols"
        )
    return rows, cols
