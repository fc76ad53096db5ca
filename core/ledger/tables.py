"""The ledger's tables: what is stored, under which constraints, and which rows the database itself freezes.

STRICT tables; times are integer nanoseconds since the epoch on the clock of whoever wrote the row (`*_at_ns`), for
people only; documents (`text`, `facts`, `body` …) are JSON or TOML text. Written by `core.ledger.writer` alone.
"""

from collections.abc import Iterator

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, Integer, MetaData, UniqueConstraint, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import Float, String
from sqlmodel import Field, SQLModel
from sqlmodel.sql.sqltypes import AutoString

from core.lifecycle import TRANSITIONS, VisitState

metadata = MetaData()
STRICT = {"sqlite_strict": True}
STRICT_WITHOUT_ROWID = {"sqlite_strict": True, "sqlite_with_rowid": False}


@compiles(String, "sqlite")
@compiles(AutoString, "sqlite")
def _text(*_: object, **__: object) -> str:
    return "TEXT"


@compiles(Float, "sqlite")
def _real(*_: object, **__: object) -> str:
    return "REAL"


# The commit whose code a job runs; '' or NULL: the working tree.
_CODE = text("json_extract(spec, '$.code')")


def _added(default: str, description: str) -> str:
    """A column that older ledgers lacked, as a migration adds it: last, and with what it is in their rows."""
    column: str = Field(default=default, sa_column_kwargs={"server_default": default}, description=description)
    return column


class Table(SQLModel):
    """The base of all tables, with a registry of our own."""

    metadata = metadata


class LedgerRow(Table, table=True):
    """One row: which ledger this is."""

    __tablename__ = "ledger"
    __table_args__ = STRICT
    id: str = Field(primary_key=True, description="random; hosts obey a ledger by it")
    created_at_ns: int


class Controller(Table, table=True):
    """Everyone who ever decided for this ledger. `epoch` only grows."""

    __tablename__ = "controller"
    __table_args__ = STRICT | {"sqlite_autoincrement": True}
    epoch: int | None = Field(default=None, primary_key=True)
    pid: int
    start_time: int = Field(description="field 22 of /proc/PID/stat: with the pid, the process")
    user: str
    machine: str
    began_at_ns: int
    ended_at_ns: int | None = None


class Experiment(Table, table=True):
    __tablename__ = "experiment"
    __table_args__ = STRICT
    id: str = Field(primary_key=True)
    goal: str
    priority: int
    queued_by: str
    queued_at_ns: int
    paused: str | None = Field(default=None, description="why no new visit is assigned")


class Series(Table, table=True):
    """One measuring of an experiment: same code hash, same [measure]."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("experiment", "ordinal"), STRICT)
    id: int | None = Field(default=None, primary_key=True)
    experiment: str = Field(foreign_key="experiment.id")
    ordinal: int
    text: str = Field(description="the matrix, TOML as read")
    overrides: str = Field(description="JSON of core.matrix.Overrides")
    measure: str = Field(description="JSON of core.matrix.Measure")
    interleaved: str = Field(description="JSON list of axis names")
    baseline: str = Field(description="JSON object")
    code: str
    queued_at_ns: int
    revisions: str = _added("{}", "JSON object: code as written in the matrix -> the commit it stands for")


class Job(Table, table=True):
    __tablename__ = "job"
    # few jobs are of another code than the controller's, and every plan asks which
    __table_args__ = (Index("job_of_code", _CODE, sqlite_where=text(f"{_CODE.text} <> ''")), STRICT)
    id: str = Field(primary_key=True)
    kind: str
    spec: str = Field(description="JSON of the whole job, defaults included")


class Alarm(Table, table=True):
    """The first jobs of a series failed alike and its experiment was paused for it: that is asked once."""

    __tablename__ = "alarm"
    __table_args__ = STRICT
    series: int = Field(primary_key=True, foreign_key="series.id")
    raised_at_ns: int


class Forgiven(Table, table=True):
    """`retry` was asked for: what a job did in visits up to this one no longer counts against it in this series."""

    __tablename__ = "forgiven"
    __table_args__ = STRICT_WITHOUT_ROWID
    series: int = Field(foreign_key="series.id", primary_key=True)
    job: str = Field(foreign_key="job.id", primary_key=True)
    visit: int


class Cell(Table, table=True):
    """One point of the matrix: the job it stands for, or why it has none."""

    __tablename__ = "cell"
    __table_args__ = (
        CheckConstraint("(job IS NULL) <> (why IS NULL)", name="job_or_why"),
        STRICT,
    )
    series: int = Field(foreign_key="series.id", primary_key=True)
    ordinal: int = Field(primary_key=True)
    coordinates: str = Field(description="JSON object: axis -> printed value")
    grp: str | None = Field(default=None, description="label of its group")
    job: str | None = Field(default=None, foreign_key="job.id")
    reference: str | None = Field(
        None, foreign_key="job.id", description="the job it is compared with: its own for a reference"
    )
    why: str | None = Field(default=None, description="why it has no job")
    retired: str | None = Field(default=None, description="why it is no longer measured: the matrix stopped naming it")


class Block(Table, table=True):
    """The unit of work and of the statistics. Open until one visit of it is accepted, or it is closed."""

    __tablename__ = "block"
    __table_args__ = (
        UniqueConstraint("series", "grp", "ordinal"),
        CheckConstraint("accepted_visit IS NULL OR closed IS NULL", name="accepted_or_closed"),
        CheckConstraint("origin IN ('first', 'make-up', 'extension')", name="origin"),
        CheckConstraint(
            "closed IS NULL OR closed GLOB 'cancelled*' OR closed GLOB 'poisoned*' OR closed GLOB 'dropped*'",
            name="closed",
        ),
        # an accepted visit is a visit of this block
        ForeignKeyConstraint(["id", "accepted_visit"], ["visit.block", "visit.id"], use_alter=True),
        Index("block_open", "series", "ordinal", sqlite_where=text("accepted_visit IS NULL AND closed IS NULL")),
        STRICT,
    )
    # said in full: SQLAlchemy takes a column of a composite foreign key for one that somebody else fills
    id: int | None = Field(default=None, sa_column=Column(Integer, primary_key=True, autoincrement=True))
    series: int = Field(foreign_key="series.id")
    grp: str
    ordinal: int
    slots: str = Field(description='JSON list by slot: {"job": id, "role": role, "reference": slot}')
    origin: str
    front: int = Field(default=0, description="how often it was put in front again: the larger, the earlier")
    avoid_host: str | None = Field(
        default=None, description="where it failed ambiguously: another usable host is preferred"
    )
    accepted_visit: int | None = None
    closed: str | None = Field(default=None, description="cancelled, poisoned or dropped, and why")


class Host(Table, table=True):
    __tablename__ = "host"
    __table_args__ = STRICT
    name: str = Field(primary_key=True)
    machine: str
    platform: str
    devices: int
    seen_at_ns: int


class HostCondition(Table, table=True):
    """How a host stands with the controllers of this ledger: what readers are told, and what the next one takes up."""

    __tablename__ = "condition"
    __table_args__ = STRICT
    host: str = Field(primary_key=True, foreign_key="host.name")
    state: str = Field(description="of core.lifecycle.HostState")
    reason: str
    since_ns: int
    trusted_from: int = Field(default=0, description="failures of visits up to this one no longer count against it")


class Sitting(Table, table=True):
    """An actor's stay on a host: what drifts together."""

    __tablename__ = "sitting"
    __table_args__ = STRICT
    id: str = Field(primary_key=True)
    host: str = Field(foreign_key="host.name")
    began_at_ns: int


class Environment(Table, table=True):
    """What was found: equal facts share a row."""

    __tablename__ = "environment"
    __table_args__ = STRICT
    id: str = Field(primary_key=True, description="SHA-256 of the facts")
    facts: str


class Program(Table, table=True):
    __tablename__ = "program"
    __table_args__ = STRICT
    fingerprint: str = Field(primary_key=True)
    job: str = Field(foreign_key="job.id", description="the first job that lowered to it")


class Visit(Table, table=True):
    """One attempt at one block on one host. The id only grows and is the fencing token."""

    __tablename__ = "visit"
    __table_args__ = (
        Index("visit_open_block", "block", unique=True, sqlite_where=text("state IN ('leased', 'running')")),
        Index("visit_open_host", "host", unique=True, sqlite_where=text("state IN ('leased', 'running')")),
        Index("visit_of_block", "block", "id", unique=True),
        Index("visit_not_over", "block", sqlite_where=text("ended_at_ns IS NULL")),
        CheckConstraint(
            "state IN ('leased', 'running', 'lost', 'finished', 'failed', 'cancelled', 'superseded')", name="state"
        ),
        STRICT | {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, primary_key=True)
    block: int = Field(foreign_key="block.id")
    host: str = Field(foreign_key="host.name")
    sitting: str | None = Field(default=None, foreign_key="sitting.id")
    epoch: int = Field(foreign_key="controller.epoch", description="the controller that assigned it")
    ended_epoch: int | None = Field(default=None, description="the controller that heard of its end")
    state: str
    slot_order: str = Field(description="JSON list: the slots in the order of execution")
    kind: str | None = Field(default=None, description="why it is not finished; of core.failures.Kind")
    reason: str = ""
    leased_at_ns: int
    ended_at_ns: int | None = Field(default=None, description="when it was over; a lost one is not, until its spool is")
    bundle: str = _added(
        "", "what the working tree it runs was sent as; empty: it runs the host's own code, or commits alone"
    )


class Bundle(Table, table=True):
    """Code that was put on hosts."""

    __tablename__ = "bundle"
    __table_args__ = STRICT
    id: str = Field(primary_key=True, description="SHA-256 of its archive")
    code: str = Field(description="code hash")
    revision: str = Field(description="the commit, or empty: no commit was under the working tree")
    diff: str = Field(description="SHA-256 of what was not committed; empty: nothing")


class Run(Table, table=True):
    """One slot measured in one visit. Opened, closed once, then frozen by a trigger."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("visit", "slot"),
        CheckConstraint(
            "outcome IS NULL OR outcome IN ('ok', 'checked', 'failed', 'unsupported', 'stopped')", name="outcome"
        ),
        CheckConstraint("(kind IS NOT NULL) = (outcome IS NOT NULL AND outcome = 'failed')", name="kind_iff_failed"),
        Index("run_job", "job"),
        Index("run_failed", "job", sqlite_where=text("outcome = 'failed'")),
        STRICT,
    )
    id: int | None = Field(default=None, primary_key=True)
    visit: int = Field(foreign_key="visit.id")
    slot: int
    job: str = Field(foreign_key="job.id")
    role: str
    process: int | None = None
    environment: str | None = Field(default=None, foreign_key="environment.id")
    program: str | None = Field(default=None, foreign_key="program.fingerprint")
    inputs: str | None = None
    outcome: str | None = None
    kind: str | None = None
    phase: str | None = None
    reason: str = ""
    exit_status: str = ""
    stderr_tail: str = ""


class Sample(Table, table=True):
    """One timed iteration."""

    __tablename__ = "sample"
    __table_args__ = (STRICT_WITHOUT_ROWID,)
    run: int = Field(foreign_key="run.id", primary_key=True)
    i: int = Field(primary_key=True)
    wall_ns: int


class Metric(Table, table=True):
    __tablename__ = "metric"
    __table_args__ = (STRICT_WITHOUT_ROWID,)
    run: int = Field(foreign_key="run.id", primary_key=True)
    name: str = Field(primary_key=True)
    scope: str = Field(primary_key=True)
    value: float
    devices: int
    formula: str


class Spool(Table, table=True):
    """A host's event log for this ledger, and how much of it is stored here. The controller's own is `ledger`."""

    __tablename__ = "spool"
    __table_args__ = STRICT
    id: str = Field(primary_key=True)
    host: str | None = Field(default=None, foreign_key="host.name")
    acked_seq: int
    turn: int = Field(description="the host writes the spool with the largest: grows whenever it names another")


class Event(Table, table=True):
    """What was said, word for word. Never edited."""

    __tablename__ = "event"
    __table_args__ = (Index("event_visit", "visit"), STRICT_WITHOUT_ROWID)
    spool: str = Field(foreign_key="spool.id", primary_key=True)
    seq: int = Field(primary_key=True)
    at_ns: int
    visit: int | None = None
    host: str | None = None
    event: str
    body: str


class Probe(Table, table=True):
    __tablename__ = "probe"
    __table_args__ = STRICT
    id: int | None = Field(default=None, primary_key=True)
    host: str = Field(foreign_key="host.name")
    at_ns: int
    clean: int
    reason: str
    free_disk_bytes: int


class Request(Table, table=True):
    """What somebody asked of the controller that holds the ledger: durable before it is acknowledged."""

    __tablename__ = "request"
    __table_args__ = STRICT
    id: int | None = Field(default=None, primary_key=True)
    asked_at_ns: int
    asked_by: str
    verb: str
    body: str
    answered_at_ns: int | None = None
    answer: str | None = None


def _refuse(name: str, when: str, why: str) -> str:
    return f"CREATE TRIGGER {name} BEFORE {when} BEGIN SELECT RAISE(ABORT, '{why}'); END"


def _frozen(table: str, columns: str) -> str:
    return _refuse(f"{table}_fixed", f"UPDATE OF {columns} ON {table}", f"{columns} of a {table} never change")


def _with_its_run(table: str) -> Iterator[str]:
    """Samples and metrics follow their run: free while it is open, frozen when it is closed."""
    for verb, row in (("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")):
        closed = f"(SELECT outcome FROM run WHERE id = {row}.run) IS NOT NULL"
        yield _refuse(
            f"{table}_{verb.lower()}", f"{verb} ON {table} WHEN {closed}", f"the run of this {table} is closed"
        )


def _visit_states() -> str:
    legal = " OR ".join(
        f"OLD.state = '{before}' AND NEW.state IN ({', '.join(repr(str(a)) for a in sorted(after))})"
        for before in VisitState
        if (after := TRANSITIONS[before])
    )
    return _refuse("visit_state", f"UPDATE OF state ON visit WHEN NOT ({legal})", "no such transition of a visit")


# `INSERT OR REPLACE` deletes without asking a DELETE trigger unless recursive_triggers is on: the writer sets it.
TRIGGERS: tuple[str, ...] = (
    _refuse("event_update", "UPDATE ON event", "events are frozen"),
    _refuse("event_delete", "DELETE ON event", "events are frozen"),
    *_with_its_run("sample"),
    *_with_its_run("metric"),
    _refuse("run_update", "UPDATE ON run WHEN OLD.outcome IS NOT NULL", "a closed run is frozen"),
    _refuse("run_delete", "DELETE ON run", "runs are never deleted"),
    _frozen("run", "id, visit, slot, job, role"),
    _refuse(
        "block_accept",
        "UPDATE OF accepted_visit ON block WHEN OLD.accepted_visit IS NOT NULL",
        "a block accepts one visit",
    ),
    _refuse("block_close", "UPDATE OF closed ON block WHEN OLD.closed IS NOT NULL", "a block is closed once"),
    _refuse("block_delete", "DELETE ON block", "blocks are never deleted"),
    _frozen("block", "id, series, grp, ordinal, slots, origin"),
    _visit_states(),
    _refuse("visit_delete", "DELETE ON visit", "visits are never deleted"),
    _frozen("visit", "id, block, host, epoch, slot_order, bundle"),
)
