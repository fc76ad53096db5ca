"""What queueing a matrix would do, seen on a copy of the ledger: the real one is only read."""

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from core.ledger.reader import open_reader
from core.ledger.writer import Ledger
from orchestrator.report import listing
from orchestrator.report.render import Row
from orchestrator.requests import enqueue


def rehearse(path: Path, body: Mapping[str, Any]) -> tuple[list[Row], tuple[str, ...]]:
    """The matrix' cells as they would stand, and what queueing it would say. Raises HillclimbError."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        if path.exists():
            with open_reader(path) as real, closing(sqlite3.connect(copy)) as target:
                real.backup(target)
        with Ledger.open(copy) as ledger:
            queued = enqueue(ledger, body)
        with open_reader(copy) as db:
            return listing.cells(db, queued.experiment, None), queued.sentences
