"""Opening a ledger to read it: read-only, in one read transaction, with plain `sqlite3`.

Everything read inside one `open_reader` is of one moment, however long it takes and whoever writes meanwhile. Nothing
here can change a ledger.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from core.ledger.errors import LedgerError, OlderSchema

_MAGIC = b"SQLite format 3\0"

_VERSIONS = Path(__file__).with_name("migrations") / "versions"

# A checkpoint holds readers up for milliseconds; five seconds mean that something is stuck.
_BUSY_S = 5.0

# What SQLite says of a damaged file, as opposed to a wrong question.
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")


@contextmanager
def open_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to the ledger at `path`, inside a read transaction. Raises LedgerError."""
    _refuse_what_is_no_database(path)
    try:
        connection = sqlite3.connect(_uri(path), uri=True, isolation_level=None, timeout=_BUSY_S)
    except sqlite3.OperationalError as e:
        raise LedgerError(f"{path} cannot be opened: {e}: check who may read it and its directory") from e
    connection.row_factory = sqlite3.Row
    try:
        _refuse_what_is_no_ledger(connection, path)
        connection.execute("BEGIN")
        yield connection
    except sqlite3.DatabaseError as e:
        name = getattr(e, "sqlite_errorname", "")
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            raise LedgerError(
                f"{path} is being written by someone else and its directory is read-only for you: "
                "copy it with its -wal file somewhere you can write, and read the copy"
            ) from e
        if name.startswith("SQLITE_BUSY"):
            raise LedgerError(
                f"{path} has been locked for {_BUSY_S:.0f} s by another program: end that, or try again"
            ) from e
        if name.startswith(_DAMAGED):
            raise LedgerError(
                f"{path} is damaged ({e}): go back to a backup, or save what `sqlite3 {path} .recover` finds"
            ) from e
        raise
    finally:
        connection.close()


def _refuse_what_is_no_database(path: Path) -> None:
    if path.is_dir():
        raise LedgerError(f"{path} is a directory: name the ledger file in it with --ledger")
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError as e:
        raise LedgerError(
            f"no ledger at {path}: `hillclimb run MATRIX` makes one, or name yours with --ledger or $HILLCLIMB_LEDGER"
        ) from e
    except OSError as e:
        raise LedgerError(
            f"{path} cannot be read: {e.strerror}: check its permissions, or name another with --ledger"
        ) from e
    if head != _MAGIC:
        what = "is empty" if not head else "is not a SQLite file"
        raise LedgerError(f"{path} {what}, so it is no ledger: name the right one with --ledger")


def _refuse_what_is_no_ledger(connection: sqlite3.Connection, path: Path) -> None:
    tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not {"ledger", "alembic_version"} <= tables:
        raise LedgerError(f"{path} is a SQLite file but no hillclimb ledger: name the right one with --ledger")
    found = str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    known = max(file.name.split("_")[0] for file in _VERSIONS.glob("[0-9]*.py"))
    if found > known:
        raise LedgerError(f"{path} has schema {found} of a newer hillclimb, this one knows {known}: upgrade hillclimb")
    if found < known:
        raise OlderSchema(
            f"{path} has the older schema {found}: `hillclimb drive` brings it to {known}, then read it again"
        )


def _uri(path: Path) -> str:
    """`immutable=1` where SQLite cannot write its shared-memory file and nothing can be in a write-ahead log."""
    wal = path.with_name(path.name + "-wal")
    frozen = not os.access(path.resolve().parent, os.W_OK) and not wal.exists()
    return f"file:{quote(str(path.resolve()))}?mode=ro{'&immutable=1' if frozen else ''}"
