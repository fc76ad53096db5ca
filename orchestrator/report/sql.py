"""SQL by hand, read-only: whatever would change a file is refused before it runs."""

import math
import sqlite3
from collections import Counter

from core.errors import HillclimbError
from orchestrator.report.render import Row

# What a question needs. ATTACH is not among them: it makes files.
_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_LOOKS = frozenset({"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"})


class BadQuery(HillclimbError):
    """SQLite refuses the statement, or we do."""


def ask(db: sqlite3.Connection, statement: str) -> list[Row]:
    """The rows a statement yields. Raises BadQuery."""
    refused: list[str] = []

    def allow(action: int, first: str | None, *_: str | None) -> int:
        if action in _READS or (action == sqlite3.SQLITE_PRAGMA and first in _LOOKS):
            return sqlite3.SQLITE_OK
        refused.append(first or "")
        return sqlite3.SQLITE_DENY

    db.set_authorizer(allow)
    try:
        cursor = db.execute(statement)
        names = _distinct([column[0] for column in cursor.description or ()])
        return [dict(zip(names, map(_printable, row), strict=True)) for row in cursor]
    except (sqlite3.Error, sqlite3.Warning) as e:
        if refused:
            raise BadQuery("`sql` only reads, and this statement would change something: ask with SELECT") from e
        raise BadQuery(f"{e}: `hillclimb sql 'SELECT sql FROM sqlite_schema'` shows the tables") from e
    finally:
        db.set_authorizer(None)


def _printable(value: object) -> object:
    """What JSON has no word for, as text."""
    unspeakable = isinstance(value, float) and not math.isfinite(value)
    return value.hex() if isinstance(value, bytes) else str(value) if unspeakable else value


def _distinct(names: list[str]) -> list[str]:
    """Two columns of one name become `name` and `name_2`: a row is a dict and loses none."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct
