"""The file: made, migrated, refused; and what the database itself does not let anyone do."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from core.events import VisitEnded
from core.failures import Kind
from core.ledger import schema
from core.ledger.errors import LedgerError
from core.ledger.writer import Ledger
from tests.core.ledger.conftest import Lab, matrix, runs


def _schema(path: Path) -> dict[tuple[str, str], str]:
    """type, name -> text, with white space made equal."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    return {
        (kind, name): " ".join((sql or "").replace("(", " ( ").replace(")", " ) ").split()) for kind, name, sql in rows
    }


def _migrated(path: Path) -> None:
    engine = schema.connect(path)
    with engine.begin() as db:
        schema.upgrade(db)
    engine.dispose()


def test_migrated_ledger_equals_a_fresh_one(tmp_path: Path) -> None:
    schema.prepare(tmp_path / "fresh.db").dispose()
    _migrated(tmp_path / "migrated.db")
    fresh = _schema(tmp_path / "fresh.db")
    assert _schema(tmp_path / "migrated.db") == fresh
    assert {kind for kind, _ in fresh} == {"table", "index", "trigger"}
    assert schema.revision(tmp_path / "fresh.db") == schema.revision(tmp_path / "migrated.db") == schema.head()


def test_every_table_is_strict(tmp_path: Path) -> None:
    schema.prepare(tmp_path / "l.db").dispose()
    with closing(sqlite3.connect(tmp_path / "l.db")) as db:
        lax = db.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict").fetchall()
    # Alembic's own and SQLite's own are not ours to declare
    assert {name for (name,) in lax} == {"alembic_version", "sqlite_sequence", "sqlite_schema"}


def test_ledger_of_an_older_schema_is_copied_then_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        identity = ledger.ledger_id
    newer = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, newer)
    (newer / "versions" / "0004_more.py").write_text(
        "from alembic import op\nrevision = '0004'\ndown_revision = '0003'\n"
        "def upgrade():\n    op.get_bind().exec_driver_sql('CREATE TABLE more (id INTEGER NOT NULL) STRICT')\n"
    )
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    for _ in range(2):
        with Ledger.open(path) as ledger:
            assert ledger.ledger_id == identity
    assert ("table", "more") in _schema(path) and schema.revision(path) == "0004"
    (copy,) = tmp_path.glob("*.bak")
    assert copy.name == "l.db.schema-0003.bak"
    assert ("table", "more") not in _schema(copy) and schema.revision(copy) == "0003"


def test_migration_that_fails_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.db"
    Ledger.open(path).close()
    before = _schema(path)
    newer = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, newer)
    (newer / "versions" / "0004_bad.py").write_text(
        "from alembic import op\nrevision = '0004'\ndown_revision = '0003'\n"
        "def upgrade():\n    for sql in ('CREATE TABLE more (id INTEGER) STRICT', 'nonsense'):\n"
        "        op.get_bind().exec_driver_sql(sql)\n"
    )
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    with pytest.raises(LedgerError, match=r"l\.db"):
        Ledger.open(path)
    assert _schema(path) == before
    monkeypatch.undo()
    Ledger.open(path).close()


def test_newer_ledger_is_refused_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"newer hillclimb \(schema 9999.*upgrade hillclimb"):
        Ledger.open(path)
    assert path.read_bytes() == before


def _directory(path: Path) -> None:
    path.mkdir()


def _text(path: Path) -> None:
    path.write_text("[experiment]\n")


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (a)")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_directory, "is a directory: name the ledger file in it with --ledger"),
        (_text, "is not a SQLite file"),
        (_foreign, "is a SQLite file but no hillclimb ledger"),
    ],
)
def test_what_is_no_ledger_is_refused_unchanged(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    path = tmp_path / "thing"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LedgerError, match=says) as e:
        Ledger.open(path)
    assert e.value.exit_code == 2 and str(path) in str(e.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=rf"there is no directory {tmp_path}/nowhere: make it"):
        Ledger.open(tmp_path / "nowhere" / "l.db")
    assert list(tmp_path.iterdir()) == []


def test_damaged_ledger_says_so(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    Ledger.open(path).close()
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8000)
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger.open(path)


def test_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "l.db").touch()
    with Ledger.open(tmp_path / "l.db") as ledger:
        assert ledger.epoch == 1


def test_opening_again_is_the_same_ledger_in_the_next_epoch(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as first:
        identity = first.ledger_id
    with Ledger.open(path) as second:
        assert (second.ledger_id, second.epoch) == (identity, 2)
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT epoch, pid > 0, start_time > 0, ended_at_ns IS NOT NULL FROM controller").fetchall()
        assert rows == [(1, 1, 1, 1), (2, 1, 1, 1)]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_writer_commits_to_disk_and_checks_foreign_keys(lab: Lab) -> None:
    pragmas = {p: lab.ledger._driver.execute(f"PRAGMA {p}").fetchone()[0] for p in ("synchronous", "foreign_keys")}
    assert pragmas == {"synchronous": 2, "foreign_keys": 1}


# -- what the database refuses, whoever asks ---------------------------------------------------------------------------

REFUSED = {
    "event edited": "UPDATE event SET body = ''",
    "event deleted": "DELETE FROM event",
    "event replaced": "INSERT OR REPLACE INTO event SELECT spool, seq, 1, visit, host, event, '' FROM event LIMIT 1",
    "event stored twice": "INSERT INTO event SELECT * FROM event LIMIT 1",
    "closed run edited": "UPDATE run SET outcome = 'failed', kind = 'crash' WHERE visit = 1",
    "closed run reopened": "UPDATE run SET outcome = NULL WHERE visit = 1",
    "run deleted": "DELETE FROM run WHERE visit = 2",
    "run moved": "UPDATE run SET job = (SELECT MAX(id) FROM job) WHERE visit = 2",
    "second run of a slot": "INSERT INTO run SELECT 99, visit, slot, job, role, NULL, NULL, NULL, NULL, NULL, NULL,"
    " NULL, '', '', '' FROM run WHERE id = 4",
    "failed without a kind": "UPDATE run SET outcome = 'failed' WHERE visit = 2",
    "unknown outcome": "UPDATE run SET outcome = 'fine' WHERE visit = 2",
    "sample of a closed run": "INSERT INTO sample VALUES (1, 99, 1)",
    "sample of a closed run edited": "UPDATE sample SET wall_ns = 1 WHERE run = 1",
    "sample of a closed run deleted": "DELETE FROM sample WHERE run = 1",
    "sample of no run": "INSERT INTO sample VALUES (999, 0, 1)",
    "metric of a closed run": "INSERT INTO metric VALUES (1, 'n', '', 1.0, 1, '')",
    "text as a time": "INSERT INTO sample VALUES (4, 0, 'fast')",
    "second open visit of a block": "INSERT INTO visit (block, host, epoch, state, slot_order, reason, leased_at_ns)"
    " VALUES (2, 'h2', 1, 'leased', '[]', '', 1)",
    "second open visit of a host": "INSERT INTO visit (block, host, epoch, state, slot_order, reason, leased_at_ns)"
    " VALUES (3, 'h1', 1, 'running', '[]', '', 1)",
    "visit deleted": "DELETE FROM visit WHERE id = 2",
    "ended visit running again": "UPDATE visit SET state = 'running' WHERE id = 1",
    "visit in no state": "UPDATE visit SET state = 'happy' WHERE id = 2",
    "visit moved": "UPDATE visit SET host = 'h2' WHERE id = 2",
    "accepting a second visit": "UPDATE block SET accepted_visit = 2 WHERE id = 1",
    "unaccepting": "UPDATE block SET accepted_visit = NULL WHERE id = 1",
    "accepting another block's visit": "UPDATE block SET accepted_visit = 1 WHERE id = 2",
    "closing an accepted block": "UPDATE block SET closed = 'dropped: x' WHERE id = 1",
    "closing for no reason": "UPDATE block SET closed = 'because' WHERE id = 2",
    "reopening a closed block": "UPDATE block SET closed = NULL WHERE id = 3",
    "block of other arms": "UPDATE block SET slots = '[]' WHERE id = 2",
    "block deleted": "DELETE FROM block WHERE id = 2",
    "second block of an ordinal": "INSERT INTO block (series, grp, ordinal, slots, origin, front)"
    " SELECT series, grp, ordinal, slots, origin, front FROM block WHERE id = 2",
    "cell with job and reason": "UPDATE cell SET why = 'because'",
    "cell with neither": "UPDATE cell SET job = NULL",
}


@pytest.fixture
def settled(lab: Lab) -> Lab:
    """Block 1 accepted its visit 1, visit 2 of block 2 is open on h1, block 3 is closed."""
    lab.queue(matrix(blocks=4))
    lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"})
    lab.lease("h1")
    lab.host("h2")
    lab.ledger.close_blocks([3], "dropped: a test")
    return lab


@pytest.mark.parametrize("what", REFUSED)
def test_database_refuses(settled: Lab, what: str) -> None:
    before = [settled.rows(f"SELECT * FROM {table}") for table in ("event", "run", "sample", "visit", "block", "cell")]
    settled.ledger._driver.execute("BEGIN")
    with pytest.raises(sqlite3.IntegrityError):
        settled.ledger._driver.execute(REFUSED[what])
    settled.ledger._driver.execute("ROLLBACK")
    assert [
        settled.rows(f"SELECT * FROM {table}") for table in ("event", "run", "sample", "visit", "block", "cell")
    ] == before


def test_deleted_visits_id_is_never_given_again(settled: Lab) -> None:
    db = settled.ledger._driver
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("DROP TRIGGER visit_delete")
    db.execute("DELETE FROM visit WHERE id = 2")
    assert settled.lease("h1") == 3


def test_error_inside_a_transaction_leaves_nothing_behind(settled: Lab) -> None:
    before = settled.rows("SELECT * FROM event"), settled.rows("SELECT * FROM visit")
    entries = settled.entries("h1", 2, *runs({0: "ok"}), VisitEnded(state="failed", kind=Kind.CRASH))
    broken = [*entries[:-1], entries[-1].model_copy(update={"body": None})]
    with pytest.raises(AttributeError):
        settled.ledger.ingest("spool-h1", "h1", broken)
    assert (settled.rows("SELECT * FROM event"), settled.rows("SELECT * FROM visit")) == before
    assert settled.ledger.ingest("spool-h1", "h1", entries).ended


OLDEST = """
INSERT INTO ledger VALUES ('l', 1);
INSERT INTO controller VALUES (1, 1, 1, 'ann', 'lab', 1, NULL);
INSERT INTO experiment VALUES ('x', 'why', 0, 'ann', 1, NULL);
INSERT INTO series VALUES (1, 'x', 1, '', '{}', '{}', '[]', '{}', 'code', 1);
INSERT INTO job VALUES ('j', 'selftest', '{"kind": "selftest"}');
INSERT INTO block VALUES (1, 1, 'g', 0, '[]', 'first', 0, NULL, NULL, NULL);
INSERT INTO host VALUES ('h', 'm', 'cpu', 4, 1);
INSERT INTO visit VALUES (1, 1, 'h', NULL, 1, NULL, 'leased', '[]', NULL, '', 1, NULL);
"""


def test_rows_of_the_first_schema_are_kept_and_their_hosts_ran_their_own_code(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    first = (schema.MIGRATIONS / "versions" / "0001_first.py").read_text()
    older = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, older, ignore=shutil.ignore_patterns("000[23]_*"))
    assert (older / "versions" / "0001_first.py").read_text() == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", older)
        _migrated(path)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLDEST)
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id, state, bundle FROM visit").fetchall() == [(1, "leased", "")]
        assert db.execute("SELECT id, revisions FROM series").fetchall() == [(1, "{}")]
