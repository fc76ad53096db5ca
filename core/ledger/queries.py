"""Reading a ledger: each function asks SQLite one thing and hands back frozen rows (`core.ledger.rows`).

Nothing here decides anything: what a cell's runs amount to is `core.ledger.completeness`, what they say is
`core.analysis`.
"""

import difflib
import json
import sqlite3
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

from core.ledger.errors import LedgerError, UnknownExperiment
from core.ledger.rows import Block, Cell, Experiment, Record, Run, Series, Slot, Visit


class NothingMatched(LedgerError):
    """No series, run, job, axis or metric of that name."""

    exit_code = 5


class Ambiguous(LedgerError):
    """A prefix fits several ids."""


class Loose(NamedTuple):
    """A run out of its series: what `show` begins with."""

    run: int
    name: str
    experiment: str
    series: int
    series_id: int
    job: str
    outcome: str | None
    accepted: bool


_LOOSE = """
SELECT r.id AS run, r.visit || '.' || r.slot AS name, s.experiment, s.ordinal AS series, s.id AS series_id, r.job,
       r.outcome, b.accepted_visit IS r.visit AS accepted
FROM run r JOIN visit v ON v.id = r.visit JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series
"""


def experiments(db: sqlite3.Connection) -> list[Experiment]:
    """All of them, first queued first."""
    rows = db.execute(f"SELECT {_columns(Experiment._fields)} FROM experiment ORDER BY queued_at_ns, id")
    return [Experiment(*row) for row in rows]


def find_experiment(db: sqlite3.Connection, name: str) -> Experiment:
    """The experiment of that id or unique prefix of one. Raises UnknownExperiment, Ambiguous."""
    known = {e.id: e for e in experiments(db)}
    return known[pick("experiment", name, list(known), "`hillclimb ls` lists them", UnknownExperiment)]


def find_job(db: sqlite3.Connection, prefix: str) -> str:
    """The id of the job that begins so. Raises NothingMatched, Ambiguous."""
    ids = [row["id"] for row in db.execute("SELECT id FROM job ORDER BY id")]
    return pick("job", prefix, ids, "`hillclimb ls EXPERIMENT` lists an experiment's jobs")


def find_series(db: sqlite3.Connection, experiment: str, ordinal: int | None = None) -> Series:
    """That series of an experiment, the newest when none is named. Raises NothingMatched."""
    rows = db.execute(
        f"SELECT {_columns(Series._fields)} FROM series WHERE experiment = ? ORDER BY ordinal", (experiment,)
    ).fetchall()
    chosen = rows[-1:] if ordinal is None else [row for row in rows if row["ordinal"] == ordinal]
    if not chosen:
        known = ", ".join(str(row["ordinal"]) for row in rows) or "none"
        raise NothingMatched(f"{experiment} has no series {ordinal}: it has {known}")
    row = chosen[0]
    parsed = {name: json.loads(row[name]) for name in ("overrides", "measure", "baseline", "revisions")}
    return Series(**dict(row) | parsed | {"interleaved": tuple(json.loads(row["interleaved"]))})


def record(
    db: sqlite3.Connection, experiment: Experiment, ordinal: int | None = None, *, samples: bool = True
) -> Record:
    """All of one series of an experiment, the newest when none is named. Raises NothingMatched."""
    series = find_series(db, experiment.id, ordinal)
    runs = _runs(db, series.id, _samples(db, series.id) if samples else {})
    return Record(
        experiment,
        series,
        _cells(db, series.id),
        _blocks(db, series.id),
        _visits(db, series.id),
        runs,
        _documents(db, "SELECT id, spec FROM job WHERE id IN (SELECT job FROM cell WHERE series = ?)", series.id),
        _documents(
            db,
            """SELECT id, facts FROM environment WHERE id IN (SELECT r.environment FROM block b
               JOIN visit v ON v.block = b.id JOIN run r ON r.visit = v.id WHERE b.series = ?)""",
            series.id,
        ),
        dict(db.execute("SELECT job, visit FROM forgiven WHERE series = ?", (series.id,)).fetchall()),
    )


def find_run(db: sqlite3.Connection, name: str) -> Loose:
    """The run called VISIT.SLOT. Raises NothingMatched."""
    visit, _, slot = name.partition(".")
    row = db.execute(f"{_LOOSE} WHERE r.visit = ? AND r.slot = ?", (visit, slot)).fetchone()
    if row is None:
        raise NothingMatched(f"no run {name}: a run is called VISIT.SLOT, and `hillclimb show JOB` lists a job's runs")
    return _loose(row)


def runs_of_job(db: sqlite3.Connection, job: str) -> list[Loose]:
    """Everything ever opened for a job, across experiments, oldest first."""
    return [_loose(row) for row in db.execute(f"{_LOOSE} WHERE r.job = ? ORDER BY r.visit, r.slot", (job,))]


def _loose(row: sqlite3.Row) -> Loose:
    return Loose(**dict(row) | {"accepted": bool(row["accepted"])})


def metrics(db: sqlite3.Connection, runs: Iterable[int]) -> list[sqlite3.Row]:
    """The metrics of these runs: run, name, scope, value, devices, formula."""
    wanted = json.dumps(list(runs))
    query = "SELECT * FROM metric WHERE run IN (SELECT value FROM json_each(?)) ORDER BY run, name, scope"
    return db.execute(query, (wanted,)).fetchall()


def row_counts(db: sqlite3.Connection, runs: Iterable[int]) -> dict[int, dict[str, int]]:
    """run -> `model_rows` and `executed_rows`, as far as it counted them: what its rates are derived from."""
    query = """SELECT run, name, value FROM metric WHERE run IN (SELECT value FROM json_each(?))
               AND name IN ('model_rows', 'executed_rows') AND scope = ''"""
    counts: dict[int, dict[str, int]] = {run: {} for run in runs}
    for run, name, value in db.execute(query, (json.dumps(list(counts)),)):
        counts[run][name] = round(value)
    return counts


def pick(what: str, prefix: str, ids: list[str], hint: str, unknown: type[LedgerError] = NothingMatched) -> str:
    """The id that is `prefix`, or the only one that begins so, as in git. Raises `unknown`, Ambiguous."""
    fitting = [i for i in ids if i.startswith(prefix)] if prefix else []
    if prefix in fitting:
        return prefix
    if len(fitting) > 1:
        # enough of a hash to tell these apart
        shown = ", ".join(i[: len(prefix) + 8] if len(i) == 64 else i for i in fitting[:8])
        raise Ambiguous(f"{what} {prefix!r} is ambiguous: {shown}{', …' if len(fitting) > 8 else ''}: give more of it")
    if not fitting:
        near = difflib.get_close_matches(prefix, ids, n=1)
        raise unknown(f"no {what} {prefix!r}{f', did you mean {near[0]!r}?' if near else ':'} {hint}")
    return fitting[0]


def _documents(db: sqlite3.Connection, query: str, series: int) -> dict[str, Any]:
    return {key: json.loads(text) for key, text in db.execute(query, (series,))}


def _columns(fields: tuple[str, ...]) -> str:
    return ", ".join(fields)


def _cells(db: sqlite3.Connection, series: int) -> tuple[Cell, ...]:
    rows = db.execute(f"SELECT {_columns(Cell._fields)} FROM cell WHERE series = ? ORDER BY ordinal", (series,))
    return tuple(Cell(**dict(row) | {"coordinates": json.loads(row["coordinates"])}) for row in rows)


def _blocks(db: sqlite3.Connection, series: int) -> tuple[Block, ...]:
    rows = db.execute(f"SELECT {_columns(Block._fields)} FROM block WHERE series = ? ORDER BY ordinal, grp", (series,))
    return tuple(Block(**dict(row) | {"slots": _slots(row["slots"])}) for row in rows)


def _slots(text: str) -> tuple[Slot, ...]:
    return tuple(Slot(s["job"], s["role"], s["reference"]) for s in json.loads(text))


def _visits(db: sqlite3.Connection, series: int) -> dict[int, Visit]:
    query = """SELECT v.id, v.block, v.host, v.sitting, v.state, v.kind, v.reason, v.ended_at_ns
               FROM visit v JOIN block b ON b.id = v.block WHERE b.series = ? ORDER BY v.id"""
    return {row["id"]: Visit(*row) for row in db.execute(query, (series,))}


def _samples(db: sqlite3.Connection, series: int) -> dict[int, tuple[int, ...]]:
    query = """SELECT s.run, s.wall_ns FROM block b JOIN visit v ON v.block = b.id JOIN run r ON r.visit = v.id
               JOIN sample s ON s.run = r.id WHERE b.series = ? ORDER BY s.run, s.i"""
    rows = db.execute(query, (series,))
    return {run: tuple(ns for _, ns in group) for run, group in groupby(rows, key=lambda row: row[0])}


def _runs(db: sqlite3.Connection, series: int, samples: dict[int, tuple[int, ...]]) -> tuple[Run, ...]:
    query = """SELECT r.id, r.visit, r.slot, r.job, r.role, r.environment, r.program, r.inputs, r.outcome, r.kind,
                      r.phase, r.reason, coalesce((SELECT max(devices) FROM metric WHERE run = r.id), 1) AS devices
               FROM run r JOIN visit v ON v.id = r.visit JOIN block b ON b.id = v.block
               WHERE b.series = ? ORDER BY r.visit, r.slot"""
    return tuple(Run(**dict(row), wall_ns=samples.get(row["id"], ())) for row in db.execute(query, (series,)))


class OpenBlock(NamedTuple):
    """A block that is neither accepted nor closed, and the state of its open visit, if it has one."""

    block: int
    experiment: str
    paused: str | None
    grp: str
    ordinal: int
    avoid_host: str | None
    visit: str | None


class OpenVisit(NamedTuple):
    """A visit under way. `ended` of its `slots` have ended; `phase`: what its runner last said it was doing."""

    visit: int
    experiment: str
    grp: str
    ordinal: int
    host: str
    state: str
    phase: str | None
    slot: int | None
    ended: int
    slots: int
    leased_at_ns: int


def queue(db: sqlite3.Connection) -> list[OpenBlock]:
    """Every open block of the ledger, in the order in which they are taken up."""
    query = """SELECT b.id, e.id, e.paused, b.grp, b.ordinal, b.avoid_host,
                      (SELECT state FROM visit WHERE block = b.id AND state IN ('leased', 'running'))
               FROM block b JOIN series s ON s.id = b.series JOIN experiment e ON e.id = s.experiment
               WHERE b.accepted_visit IS NULL AND b.closed IS NULL
               ORDER BY e.priority DESC, b.front DESC, e.queued_at_ns, s.id, b.ordinal, b.id"""
    return [OpenBlock(*row) for row in db.execute(query)]


def open_visits(db: sqlite3.Connection) -> list[OpenVisit]:
    """Every visit that is leased, running, or lost while its block is open."""
    query = """SELECT v.id, s.experiment, b.grp, b.ordinal, v.host, v.state,
                      (SELECT body FROM event WHERE visit = v.id AND event = 'phase' ORDER BY seq DESC LIMIT 1),
                      (SELECT count(outcome) FROM run WHERE visit = v.id), v.slot_order, v.leased_at_ns
               FROM visit v JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series
               WHERE v.state IN ('leased', 'running', 'lost') AND b.accepted_visit IS NULL AND b.closed IS NULL
               ORDER BY v.id"""
    visits = []
    for *head, said, ended, order, leased in db.execute(query):
        phase = json.loads(said) if said else {}
        told = (phase.get("phase"), phase.get("slot"), ended, len(json.loads(order)), leased)
        visits.append(OpenVisit._make([*head, *told]))
    return visits


class Condition(NamedTuple):
    """How a host stands with the controller that drives, or drove, this ledger. `state`: a core.lifecycle.HostState."""

    host: str
    state: str
    reason: str
    since_ns: int


def conditions(db: sqlite3.Connection) -> list[Condition]:
    """Of the hosts of the newest controller that had any. It wrote one of each when it began."""
    query = """SELECT host, state, reason, since_ns FROM condition WHERE since_ns >=
               (SELECT max(began_at_ns) FROM controller WHERE began_at_ns <= (SELECT max(since_ns) FROM condition))
               ORDER BY host"""
    return [Condition(*row) for row in db.execute(query)]


def unanswered(db: sqlite3.Connection) -> list[sqlite3.Row]:
    """Requests that no controller has answered yet: id, verb, asked_by, asked_at_ns."""
    query = "SELECT id, verb, asked_by, asked_at_ns FROM request WHERE answered_at_ns IS NULL ORDER BY id"
    return db.execute(query).fetchall()
