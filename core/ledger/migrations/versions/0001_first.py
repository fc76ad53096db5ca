"""The first schema.

Frozen text: what later code says about the tables must not change what this revision did.
"""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """
    CREATE TABLE ledger (
        id TEXT NOT NULL,
        created_at_ns INTEGER NOT NULL,
        PRIMARY KEY (id)
    )
     STRICT
    """,
    """
    CREATE TABLE controller (
        epoch INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        pid INTEGER NOT NULL,
        start_time INTEGER NOT NULL,
        user TEXT NOT NULL,
        machine TEXT NOT NULL,
        began_at_ns INTEGER NOT NULL,
        ended_at_ns INTEGER
    )
     STRICT
    """,
    """
    CREATE TABLE experiment (
        id TEXT NOT NULL,
        goal TEXT NOT NULL,
        priority INTEGER NOT NULL,
        queued_by TEXT NOT NULL,
        queued_at_ns INTEGER NOT NULL,
        paused TEXT,
        PRIMARY KEY (id)
    )
     STRICT
    """,
    """
    CREATE TABLE job (
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        spec TEXT NOT NULL,
        PRIMARY KEY (id)
    )
     STRICT
    """,
    """
    CREATE TABLE host (
        name TEXT NOT NULL,
        machine TEXT NOT NULL,
        platform TEXT NOT NULL,
        devices INTEGER NOT NULL,
        seen_at_ns INTEGER NOT NULL,
        PRIMARY KEY (name)
    )
     STRICT
    """,
    """
    CREATE TABLE environment (
        id TEXT NOT NULL,
        facts TEXT NOT NULL,
        PRIMARY KEY (id)
    )
     STRICT
    """,
    """
    CREATE TABLE request (
        id INTEGER NOT NULL,
        asked_at_ns INTEGER NOT NULL,
        asked_by TEXT NOT NULL,
        verb TEXT NOT NULL,
        body TEXT NOT NULL,
        answered_at_ns INTEGER,
        answer TEXT,
        PRIMARY KEY (id)
    )
     STRICT
    """,
    """
    CREATE TABLE series (
        id INTEGER NOT NULL,
        experiment TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        text TEXT NOT NULL,
        overrides TEXT NOT NULL,
        measure TEXT NOT NULL,
        interleaved TEXT NOT NULL,
        baseline TEXT NOT NULL,
        code TEXT NOT NULL,
        queued_at_ns INTEGER NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (experiment, ordinal),
        FOREIGN KEY(experiment) REFERENCES experiment (id)
    )
     STRICT
    """,
    """
    CREATE TABLE sitting (
        id TEXT NOT NULL,
        host TEXT NOT NULL,
        began_at_ns INTEGER NOT NULL,
        PRIMARY KEY (id),
        FOREIGN KEY(host) REFERENCES host (name)
    )
     STRICT
    """,
    """
    CREATE TABLE program (
        fingerprint TEXT NOT NULL,
        job TEXT NOT NULL,
        PRIMARY KEY (fingerprint),
        FOREIGN KEY(job) REFERENCES job (id)
    )
     STRICT
    """,
    """
    CREATE TABLE spool (
        id TEXT NOT NULL,
        host TEXT,
        acked_seq INTEGER NOT NULL,
        turn INTEGER NOT NULL,
        PRIMARY KEY (id),
        FOREIGN KEY(host) REFERENCES host (name)
    )
     STRICT
    """,
    """
    CREATE TABLE probe (
        id INTEGER NOT NULL,
        host TEXT NOT NULL,
        at_ns INTEGER NOT NULL,
        clean INTEGER NOT NULL,
        reason TEXT NOT NULL,
        free_disk_bytes INTEGER NOT NULL,
        PRIMARY KEY (id),
        FOREIGN KEY(host) REFERENCES host (name)
    )
     STRICT
    """,
    """
    CREATE TABLE forgiven (
        series INTEGER NOT NULL,
        job TEXT NOT NULL,
        visit INTEGER NOT NULL,
        PRIMARY KEY (series, job),
        FOREIGN KEY(series) REFERENCES series (id),
        FOREIGN KEY(job) REFERENCES job (id)
    )
     WITHOUT ROWID,
     STRICT
    """,
    """
    CREATE TABLE cell (
        series INTEGER NOT NULL,
        ordinal INTEGER NOT NULL,
        coordinates TEXT NOT NULL,
        grp TEXT,
        job TEXT,
        reference TEXT,
        why TEXT,
        retired TEXT,
        PRIMARY KEY (series, ordinal),
        CONSTRAINT job_or_why CHECK ((job IS NULL) <> (why IS NULL)),
        FOREIGN KEY(series) REFERENCES series (id),
        FOREIGN KEY(job) REFERENCES job (id),
        FOREIGN KEY(reference) REFERENCES job (id)
    )
     STRICT
    """,
    """
    CREATE TABLE block (
        id INTEGER NOT NULL,
        series INTEGER NOT NULL,
        grp TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        slots TEXT NOT NULL,
        origin TEXT NOT NULL,
        front INTEGER NOT NULL,
        avoid_host TEXT,
        accepted_visit INTEGER,
        closed TEXT,
        PRIMARY KEY (id),
        UNIQUE (series, grp, ordinal),
        CONSTRAINT accepted_or_closed CHECK (accepted_visit IS NULL OR closed IS NULL),
        CONSTRAINT origin CHECK (origin IN ('first', 'make-up', 'extension')),
        CONSTRAINT closed CHECK (closed IS NULL
                OR closed GLOB 'cancelled*'
                OR closed GLOB 'poisoned*'
                OR closed GLOB 'dropped*'),
        FOREIGN KEY(id, accepted_visit) REFERENCES visit (block, id),
        FOREIGN KEY(series) REFERENCES series (id)
    )
     STRICT
    """,
    """
    CREATE INDEX block_open ON block (series, ordinal) WHERE accepted_visit IS NULL AND closed IS NULL
    """,
    """
    CREATE TABLE event (
        spool TEXT NOT NULL,
        seq INTEGER NOT NULL,
        at_ns INTEGER NOT NULL,
        visit INTEGER,
        host TEXT,
        event TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (spool, seq),
        FOREIGN KEY(spool) REFERENCES spool (id)
    )
     WITHOUT ROWID,
     STRICT
    """,
    """
    CREATE INDEX event_visit ON event (visit)
    """,
    """
    CREATE TABLE visit (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        block INTEGER NOT NULL,
        host TEXT NOT NULL,
        sitting TEXT,
        epoch INTEGER NOT NULL,
        ended_epoch INTEGER,
        state TEXT NOT NULL,
        slot_order TEXT NOT NULL,
        kind TEXT,
        reason TEXT NOT NULL,
        leased_at_ns INTEGER NOT NULL,
        ended_at_ns INTEGER,
        CONSTRAINT state CHECK (state
                IN ('leased', 'running', 'lost', 'finished', 'failed', 'cancelled', 'superseded')),
        FOREIGN KEY(block) REFERENCES block (id),
        FOREIGN KEY(host) REFERENCES host (name),
        FOREIGN KEY(sitting) REFERENCES sitting (id),
        FOREIGN KEY(epoch) REFERENCES controller (epoch)
    )
     STRICT
    """,
    """
    CREATE UNIQUE INDEX visit_open_host ON visit (host) WHERE state IN ('leased', 'running')
    """,
    """
    CREATE UNIQUE INDEX visit_of_block ON visit (block, id)
    """,
    """
    CREATE UNIQUE INDEX visit_open_block ON visit (block) WHERE state IN ('leased', 'running')
    """,
    """
    CREATE INDEX visit_not_over ON visit (block) WHERE ended_at_ns IS NULL
    """,
    """
    CREATE TABLE run (
        id INTEGER NOT NULL,
        visit INTEGER NOT NULL,
        slot INTEGER NOT NULL,
        job TEXT NOT NULL,
        role TEXT NOT NULL,
        process INTEGER,
        environment TEXT,
        program TEXT,
        inputs TEXT,
        outcome TEXT,
        kind TEXT,
        phase TEXT,
        reason TEXT NOT NULL,
        exit_status TEXT NOT NULL,
        stderr_tail TEXT NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (visit, slot),
        CONSTRAINT outcome CHECK (outcome IS NULL
                OR outcome
                IN ('ok', 'checked', 'failed', 'unsupported', 'stopped')),
        CONSTRAINT kind_iff_failed CHECK ((kind IS NOT NULL) = (outcome IS NOT NULL AND outcome = 'failed')),
        FOREIGN KEY(visit) REFERENCES visit (id),
        FOREIGN KEY(job) REFERENCES job (id),
        FOREIGN KEY(environment) REFERENCES environment (id),
        FOREIGN KEY(program) REFERENCES program (fingerprint)
    )
     STRICT
    """,
    """
    CREATE INDEX run_failed ON run (job) WHERE outcome = 'failed'
    """,
    """
    CREATE INDEX run_job ON run (job)
    """,
    """
    CREATE TABLE sample (
        run INTEGER NOT NULL,
        i INTEGER NOT NULL,
        wall_ns INTEGER NOT NULL,
        PRIMARY KEY (run, i),
        FOREIGN KEY(run) REFERENCES run (id)
    )
     WITHOUT ROWID,
     STRICT
    """,
    """
    CREATE TABLE metric (
        run INTEGER NOT NULL,
        name TEXT NOT NULL,
        scope TEXT NOT NULL,
        value REAL NOT NULL,
        devices INTEGER NOT NULL,
        formula TEXT NOT NULL,
        PRIMARY KEY (run, name, scope),
        FOREIGN KEY(run) REFERENCES run (id)
    )
     WITHOUT ROWID,
     STRICT
    """,
    """
    CREATE TRIGGER event_update BEFORE UPDATE ON event
    BEGIN SELECT RAISE(ABORT, 'events are frozen'); END
    """,
    """
    CREATE TRIGGER event_delete BEFORE DELETE ON event
    BEGIN SELECT RAISE(ABORT, 'events are frozen'); END
    """,
    """
    CREATE TRIGGER sample_insert BEFORE INSERT ON sample
    WHEN (SELECT outcome FROM run WHERE id = NEW.run) IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the run of this sample is closed'); END
    """,
    """
    CREATE TRIGGER sample_update BEFORE UPDATE ON sample
    WHEN (SELECT outcome FROM run WHERE id = OLD.run) IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the run of this sample is closed'); END
    """,
    """
    CREATE TRIGGER sample_delete BEFORE DELETE ON sample
    WHEN (SELECT outcome FROM run WHERE id = OLD.run) IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the run of this sample is closed'); END
    """,
    """
    CREATE TRIGGER metric_insert BEFORE INSERT ON metric
    WHEN (SELECT outcome FROM run WHERE id = NEW.run) IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the run of this metric is closed'); END
    """,
    """
    CREATE TRIGGER metric_update BEFORE UPDATE ON metric
    WHEN (SELECT outcome FROM run WHERE id = OLD.run) IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the run of this metric is closed'); END
    """,
    """
    CREATE TRIGGER metric_delete BEFORE DELETE ON metric
    WHEN (SELECT outcome FROM run WHERE id = OLD.run) IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the run of this metric is closed'); END
    """,
    """
    CREATE TRIGGER run_update BEFORE UPDATE ON run
    WHEN OLD.outcome IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a closed run is frozen'); END
    """,
    """
    CREATE TRIGGER run_delete BEFORE DELETE ON run
    BEGIN SELECT RAISE(ABORT, 'runs are never deleted'); END
    """,
    """
    CREATE TRIGGER run_fixed BEFORE UPDATE OF id, visit, slot, job, role ON run
    BEGIN SELECT RAISE(ABORT, 'id, visit, slot, job, role of a run never change'); END
    """,
    """
    CREATE TRIGGER block_accept BEFORE UPDATE OF accepted_visit ON block
    WHEN OLD.accepted_visit IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a block accepts one visit'); END
    """,
    """
    CREATE TRIGGER block_close BEFORE UPDATE OF closed ON block
    WHEN OLD.closed IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a block is closed once'); END
    """,
    """
    CREATE TRIGGER block_delete BEFORE DELETE ON block
    BEGIN SELECT RAISE(ABORT, 'blocks are never deleted'); END
    """,
    """
    CREATE TRIGGER block_fixed BEFORE UPDATE OF id, series, grp, ordinal, slots, origin ON block
    BEGIN SELECT RAISE(ABORT, 'id, series, grp, ordinal, slots, origin of a block never change'); END
    """,
    """
    CREATE TRIGGER visit_state BEFORE UPDATE OF state ON visit
    WHEN NOT (OLD.state = 'leased' AND NEW.state IN ('cancelled', 'failed', 'finished', 'lost', 'running', 'superseded')
        OR OLD.state = 'running' AND NEW.state IN ('cancelled', 'failed', 'finished', 'lost', 'superseded')
        OR OLD.state = 'lost' AND NEW.state IN ('cancelled', 'failed', 'finished', 'running', 'superseded'))
    BEGIN SELECT RAISE(ABORT, 'no such transition of a visit'); END
    """,
    """
    CREATE TRIGGER visit_delete BEFORE DELETE ON visit
    BEGIN SELECT RAISE(ABORT, 'visits are never deleted'); END
    """,
    """
    CREATE TRIGGER visit_fixed BEFORE UPDATE OF id, block, host, epoch, slot_order ON visit
    BEGIN SELECT RAISE(ABORT, 'id, block, host, epoch, slot_order of a visit never change'); END
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement.strip())
