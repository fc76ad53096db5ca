"""The schema of a ledger file: made when the file is new, migrated when it is older, refused when it is newer.

Whoever calls holds the decider's lock. A migrated ledger has the same `sqlite_schema` as a fresh one.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL

from core.ledger.errors import LedgerError
from core.ledger.tables import TRIGGERS, metadata

MIGRATIONS = Path(__file__).with_name("migrations")

# Other processes write single request rows: whoever holds the file for ten seconds is stuck or is no part of this.
BUSY_S = 10.0


def connect(path: Path) -> Engine:
    """An engine for the one writer: every transaction is immediate, every commit is on disk when it returns."""
    engine = create_engine(
        URL.create("sqlite", database=str(path.resolve())), poolclass=NullPool, connect_args={"timeout": BUSY_S}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def head() -> str:
    """The newest revision this code knows."""
    return max(file.name.split("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def prepare(path: Path) -> Engine:
    """Brings the file at `path` to this code's schema. Raises LedgerError when it is no ledger, or a newer one."""
    found = revision(path)
    if found is not None and found > head():
        raise LedgerError(
            f"{path} was written by a newer hillclimb (schema {found}, this one knows {head()}): upgrade hillclimb"
        )
    if found is not None and found < head():
        with closing(sqlite3.connect(path)) as source:
            source.execute("VACUUM INTO ?", (str(_free_name(path, found)),))
    engine = connect(path)
    if found != head():
        with engine.begin() as db:
            if found is None:
                create(db)
            else:
                upgrade(db)
    return engine


def revision(path: Path) -> str | None:
    """The schema a file has; None for one without tables. Raises LedgerError when it is not ours; changes nothing."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not tables:
            return None
        if not {"ledger", "alembic_version"} <= tables:
            raise LedgerError(f"{path} is a SQLite file but no hillclimb ledger: name the right one with --ledger")
        (found,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found)


def create(db: Connection) -> None:
    """All tables, indexes and triggers, and the mark of the newest revision."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    metadata.create_all(db)
    for trigger in TRIGGERS:
        db.exec_driver_sql(trigger)
    MigrationContext.configure(db).stamp(ScriptDirectory.from_config(_alembic(db)), "head")


def upgrade(db: Connection) -> None:
    """Every migration that the ledger lacks."""
    from alembic import command

    command.upgrade(_alembic(db), "head")


def _alembic(db: Connection) -> Any:
    """Alembic's configuration, without a file: it works from an installed package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = db
    return config


def _free_name(path: Path, found: str) -> Path:
    """Where the copy from before a migration goes: beside the ledger, over nothing."""
    names = (
        path.with_name(f"{path.name}.schema-{found}{suffix}.bak") for suffix in ("", *(f"-{n}" for n in range(1, 1000)))
    )
    return next(name for name in names if not name.exists())
