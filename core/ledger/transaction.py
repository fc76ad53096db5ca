"""One write transaction: what is written in it happens as a whole or not at all, at one time, by one controller.

Rows go in as table objects, so that a type checker sees their fields; everything else is SQL with named parameters, on
the driver itself: SQLAlchemy's results take 30 us a statement, a third of what an ended visit costs.
"""

import sqlite3
from collections import namedtuple
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, insert

from core.events import Decided
from core.ledger.errors import LedgerError, Refused
from core.ledger.tables import Event, Table

# The controller's own event log in its ledger.
CONTROLLER_SPOOL = "ledger"


class Transaction:
    """Inside `BEGIN IMMEDIATE`. `now_ns` and `epoch` are those of the controller that writes."""

    def __init__(self, db: Connection, now_ns: int, epoch: int) -> None:
        self._db = db
        driver = db.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        self._driver = driver
        self.now_ns = now_ns
        self.epoch = epoch

    def all(self, sql: str, **values: object) -> Sequence[Any]:
        """The rows as named tuples."""
        cursor = self._driver.execute(sql, values)
        row_type = _row_type(tuple(column[0] for column in cursor.description))
        return [row_type._make(row) for row in cursor.fetchall()]

    def first(self, sql: str, **values: object) -> Any:
        """The first row, or None."""
        return next(iter(self.all(sql, **values)), None)

    def one(self, sql: str, **values: object) -> Any:
        """The only row."""
        (row,) = self.all(sql, **values)
        return row

    def change(self, sql: str, **values: object) -> int:
        """Executes an UPDATE, DELETE or INSERT; how many rows it changed."""
        return self._driver.execute(sql, values).rowcount

    def change_many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """The same statement for every row of values, prepared once."""
        self._driver.executemany(sql, rows)

    def add(self, row: Table) -> int:
        """Inserts a row; its rowid."""
        result = self._db.execute(insert(type(row)), row.model_dump(exclude_none=True))
        assert result.lastrowid is not None
        return int(result.lastrowid)

    def add_all(self, rows: Iterable[Table]) -> None:
        for kind, some in groupby(rows, key=type):
            self._db.execute(insert(kind), [row.model_dump() for row in some])

    def note(self, what: str, why: str, host: str | None = None, visit: int | None = None) -> None:
        """A decision, or something wrong, as an event of the controller's own."""
        spool = self.one("SELECT acked_seq FROM spool WHERE id = :id", id=CONTROLLER_SPOOL)
        seq = spool.acked_seq + 1
        body = Decided(what=what, why=why)
        self.add(
            Event(
                spool=CONTROLLER_SPOOL,
                seq=seq,
                at_ns=self.now_ns,
                visit=visit,
                host=host,
                event=body.event,
                body=body.model_dump_json(),
            )
        )
        self.change("UPDATE spool SET acked_seq = :seq WHERE id = :id", seq=seq, id=CONTROLLER_SPOOL)


@cache
def _row_type(columns: tuple[str, ...]) -> Any:
    return namedtuple("Row", columns, rename=True)


def explain(path: object, error: Exception) -> LedgerError:
    """SQLite's complaint about the file, as a sentence with the way on."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_CONSTRAINT"):
        return Refused(f"{path} refuses what would break its rules: {error}: please report it")
    if name.startswith("SQLITE_BUSY"):
        return LedgerError(f"{path} is locked: another program has an open write transaction on it: end that program")
    if name.startswith("SQLITE_FULL"):
        return LedgerError(f"{path} cannot grow: the disk is full: free some space there, then go on")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return LedgerError(f"{path} cannot be written ({error}): check its permissions and its directory's")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")):
        return LedgerError(
            f"{path} is damaged ({error}): go back to a backup, or save what `sqlite3 {path} .recover` finds"
        )
    return LedgerError(f"{path}: {error}: please report it")
