"""Asking whoever decides for a ledger: a request is a row, on disk before `ask` returns.

Light: plain `sqlite3`, so that a command which only asks starts quickly.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from core.ledger.errors import LedgerError
from core.ledger.paths import check_place

# A controller writes for milliseconds at a time.
_BUSY_S = 10.0

# How often an answer is looked for: far below what a person notices, far above what it costs (2 us).
_POLL_S = 0.05


def ask(path: Path, verb: str, body: Mapping[str, Any], asked_by: str, clock: Callable[[], int] = time.time_ns) -> int:
    """Stores a request for the controller that holds the ledger, or for the next one; its id. Raises LedgerError."""
    with _connect(path) as db:
        db.execute("BEGIN IMMEDIATE")
        cursor = db.execute(
            "INSERT INTO request (asked_at_ns, asked_by, verb, body) VALUES (?, ?, ?, ?)",
            (clock(), asked_by, verb, json.dumps(body)),
        )
        db.execute("COMMIT")
        assert cursor.lastrowid is not None
        return cursor.lastrowid


def wait_for_answer(path: Path, request_id: int, timeout_s: float) -> str | None:
    """What the controller said to a request; None when it has said nothing in time. Raises LedgerError."""
    deadline = time.monotonic() + timeout_s
    with _connect(path) as db:
        while True:
            row = db.execute("SELECT answer FROM request WHERE id = ?", (request_id,)).fetchone()
            if row is None:
                raise LedgerError(f"{path} has no request {request_id}: it was asked of another ledger")
            if row[0] is not None or time.monotonic() >= deadline:
                return None if row[0] is None else str(row[0])
            time.sleep(_POLL_S)


def _connect(path: Path) -> closing[sqlite3.Connection]:
    check_place(path)
    if not path.exists():
        raise LedgerError(f"no ledger at {path}: `hillclimb run MATRIX` makes one")
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = FULL")
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'request'").fetchone():
            raise LedgerError(f"{path} is a SQLite file but no hillclimb ledger: name the right one with --ledger")
    except sqlite3.DatabaseError as error:
        db.close()
        raise LedgerError(f"{path} cannot be read: {error}: name the right one with --ledger") from error
    except LedgerError:
        db.close()
        raise
    return closing(db)
